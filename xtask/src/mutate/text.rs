//! Damage to texts of words and lines: graphs, rules, maps, prompts.

use super::bytes;
use super::random::Random;

/// Replacements for a number.
pub const NUMBERS: [&str; 22] = [
    "0",
    "1",
    "2",
    "-1",
    "7",
    "8",
    "64",
    "127",
    "128",
    "255",
    "256",
    "65536",
    "2147483647",
    "2147483648",
    "4294967296",
    "9007199254740993",
    "18446744073709551615",
    "18446744073709551616",
    "1e999",
    "1e-45",
    "NaN",
    "0.1",
];

/// Words with a meaning in most formats, and control characters.
const WORDS: [&str; 30] = [
    "%",
    "@",
    "\"",
    "{",
    "}",
    "(",
    ")",
    "[",
    "]",
    "<",
    ">",
    ",",
    ":",
    "=",
    "=>",
    "..",
    "//",
    "#",
    "*",
    "-",
    "_",
    "$n",
    "max(",
    "ceil(",
    "é",
    "\u{1b}[31m",
    "\u{7}",
    "\u{9b}2J",
    "\u{202e}",
    "\r",
];

/// A text with one to three changes, some of whose words come from other texts of its kind.
pub fn mutate(text: &str, others: &[&str], random: &mut Random) -> Vec<u8> {
    let mut text = text.to_owned();
    let edits = if random.once_in(2) { 1 } else { 1 + random.below(3) };
    for _ in 0..edits {
        text = match random.below(4) {
            0 => lines(&text, others, random),
            _ => words(&text, others, random),
        };
    }
    match random.once_in(12) {
        true => bytes::mutate(text.as_bytes(), random),
        false => text.into_bytes(),
    }
}

fn lines(text: &str, others: &[&str], random: &mut Random) -> String {
    let mut lines: Vec<&str> = text.split_inclusive('\n').collect();
    if lines.is_empty() {
        return String::new();
    }
    let at = random.below(lines.len());
    let other = random.below(lines.len());
    match random.below(6) {
        0 => drop(lines.remove(at)),
        1 => lines.insert(at, lines[other]),
        2 => lines.swap(at, other),
        3 => drop(lines.splice(at..at, vec![lines[at]; *random.pick(&[10, 1000, 20_000])])),
        4 if !others.is_empty() => {
            let theirs: Vec<&str> = random.word(others).split_inclusive('\n').collect();
            if !theirs.is_empty() {
                lines.insert(at, theirs[random.below(theirs.len())]);
            }
        }
        _ => lines.truncate(at),
    }
    lines.concat()
}

fn words(text: &str, others: &[&str], random: &mut Random) -> String {
    let mut words = split(text);
    if words.is_empty() {
        return random.word(&WORDS).to_owned();
    }
    // most texts open with a comment: where the number or word is changed matters
    let numbers: Vec<usize> =
        (0..words.len()).filter(|at| words[*at].starts_with(|c: char| c.is_ascii_digit())).collect();
    let at = random.below(words.len());
    let other = random.below(words.len());
    let long;
    match random.below(11) {
        0 => drop(words.remove(at)),
        1 => words.insert(at, words[other]),
        2 => words.swap(at, other),
        3 | 4 => words[at] = random.word(&WORDS),
        5 | 6 if !numbers.is_empty() => words[*random.pick(&numbers)] = random.word(&NUMBERS),
        7 if !others.is_empty() => {
            let theirs = split(random.word(others));
            if !theirs.is_empty() {
                words[at] = theirs[random.below(theirs.len())];
            }
        }
        8 => {
            let piece = if random.once_in(2) { words[at] } else { random.word(&WORDS) };
            long = piece.repeat(*random.pick(&[50, 2000, 100_000]));
            words[at] = &long;
            return words.concat();
        }
        9 => words.insert(at, random.word(&WORDS)),
        _ => words[at] = words[other],
    }
    words.concat()
}

/// The words of a text and the separators between them.
fn split(text: &str) -> Vec<&str> {
    let mut words = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let part = |c: char| c.is_alphanumeric() || c == '_' || c == '.';
        let end = match part(first) {
            true => rest.find(|c: char| !part(c)).unwrap_or(rest.len()),
            false => first.len_utf8(),
        };
        let (word, tail) = rest.split_at(end);
        words.push(word);
        rest = tail;
    }
    words
}
