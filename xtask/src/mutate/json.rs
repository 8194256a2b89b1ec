//! Damage to JSON that mostly stays JSON: keys, types, extreme numbers, nesting, control characters.

use serde_json::{Map, Value};

use super::bytes;
use super::random::Random;

/// A placeholder for text that no value can hold; `RAW` is followed by the text.
const RAW: &str = "\u{f8ff}raw:";
/// Suffix of a duplicate key.
const TWICE: &str = "\u{f8ff}twice";

/// Spellings of numbers that readers take, refuse or round.
const RAWS: [&str; 14] = [
    "NaN",
    "Infinity",
    "-Infinity",
    "1e999",
    "-1e999",
    "-0",
    "1e-999",
    "0x10",
    "01",
    "1.",
    "tru",
    "'a'",
    "340282366920938463463374607431768211456",
    "9007199254740993.0",
];

/// Control characters, and terminators of strings in other formats.
const STRINGS: [&str; 14] = [
    "",
    " ",
    "\u{1b}[2J\u{1b}[31mok",
    "\u{7}",
    "\0",
    "a\0b",
    "\u{9b}2J",
    "\u{202e}",
    "\r\n",
    "..",
    "../../etc/passwd",
    "/dev/zero",
    "é",
    "\u{1f600}",
];

/// The document with one to three changes. Some values come from `others`, documents of the same kind.
pub fn mutate(document: &Value, others: &[Value], random: &mut Random) -> Vec<u8> {
    let mut document = document.clone();
    let edits = if random.once_in(2) { 1 } else { 1 + random.below(3) };
    for _ in 0..edits {
        change(&mut document, others, random);
    }
    let text = print(&document);
    match random.once_in(15) {
        true => bytes::mutate(text.as_bytes(), random),
        false => text.into_bytes(),
    }
}

/// Changes one place that may hold anything.
fn change(document: &mut Value, others: &[Value], random: &mut Random) {
    if random.below(10) < 6 {
        return edit(document, others, random);
    }
    let container = random.once_in(3);
    let place = descend(document, random, container);
    match random.below(6) {
        0 => *place = raw(random.word(&RAWS)),
        1 => {
            let depth = *random.pick(&[100, 127, 129, 1000, 200_000]);
            let (open, close) = if random.once_in(2) { ("[", "]") } else { ("{\"a\":", "}") };
            let inner = if open == "[" { "" } else { "1" };
            *place = raw(&[open.repeat(depth), inner.to_owned(), close.repeat(depth)].concat());
        }
        2 => *place = Value::String("a".repeat(*random.pick(&[300, 5000, 100_000]))),
        3 => {
            let types =
                [Value::Null, true.into(), 0.into(), 1.5.into(), "1".into(), Value::Array(vec![]), Map::new().into()];
            *place = random.pick(&types).clone();
        }
        4 => key(place, random),
        _ => *place = Value::Array(vec![place.clone(); random.below(3)]),
    }
}

/// Changes one place to something of the same type, so that readers who know the types get further.
pub fn edit(document: &mut Value, others: &[Value], random: &mut Random) {
    let graft = (!others.is_empty() && random.once_in(4)).then(|| descend_with_key(random.pick(others), random));
    let container = random.once_in(3);
    let place = descend(document, random, container);
    if let (Some((Some(key), value)), Value::Object(map)) = (&graft, &mut *place) {
        map.insert(key.clone(), value.clone());
        return;
    }
    match place {
        Value::Null => *place = graft.map_or(Value::from(1), |(_, value)| value),
        Value::Bool(yes) => *yes = !*yes,
        Value::Number(number) => *place = near(number, random),
        Value::String(text) => *text = string(text, graft, random),
        Value::Array(items) => list(items, random),
        Value::Object(map) if !map.is_empty() => {
            let keys: Vec<String> = map.keys().cloned().collect();
            let (name, other) = (random.pick(&keys), random.pick(&keys));
            match random.below(3) {
                0 => drop(map.shift_remove(name)),
                1 => drop(map.insert(name.clone(), map[other].clone())),
                _ => key(place, random),
            }
        }
        Value::Object(_) => {}
    }
}

/// Renames or doubles a key of an object.
fn key(place: &mut Value, random: &mut Random) {
    let Value::Object(map) = place else { return *place = Value::Null };
    if map.is_empty() {
        return;
    }
    let keys: Vec<String> = map.keys().cloned().collect();
    let name = random.pick(&keys).clone();
    let value = map[&name].clone();
    match random.below(4) {
        0 => drop(map.insert(format!("{name}{TWICE}"), value)),
        1 => drop(map.insert(format!("{name}{TWICE}"), Value::from(3))),
        2 => {
            map.shift_remove(&name);
            map.insert(format!("{name}{}", random.word(&STRINGS)), value);
        }
        _ => drop(map.insert(random.word(&STRINGS).to_owned(), value)),
    }
}

/// A neighbour of this number, or an extreme one.
fn near(number: &serde_json::Number, random: &mut Random) -> Value {
    if let Some(float) = number.as_f64().filter(|_| number.is_f64() && !random.once_in(3)) {
        return Value::from(*random.pick(&[0.0, -float, float * 2.0, float * 1e30, 1e-300, f64::MAX, 0.5]));
    }
    let edges = [
        0,
        1,
        2,
        3,
        127,
        255,
        256,
        4096,
        65535,
        (1 << 31) - 1,
        1 << 31,
        u64::from(u32::MAX),
        1 << 32,
        1 << 40,
        1 << 53,
        (1 << 63) - 1,
        1 << 63,
        u64::MAX,
    ];
    match (number.as_u64(), random.below(8)) {
        (Some(value), 0) => Value::from(value.wrapping_add(1)),
        (Some(value), 1) => Value::from(value.saturating_sub(1)),
        (Some(value), 2) => Value::from(value.saturating_mul(2)),
        (Some(value), 3) => Value::from(value / 2),
        (_, 4) => Value::from(*random.pick(&[-1, i64::from(i32::MIN), i64::MIN])),
        _ => Value::from(*random.pick(&edges)),
    }
}

fn string(text: &str, graft: Option<(Option<String>, Value)>, random: &mut Random) -> String {
    if let Some((_, Value::String(other))) = graft {
        return other;
    }
    let characters: Vec<char> = text.chars().collect();
    match random.below(6) {
        0 => random.word(&STRINGS).to_owned(),
        1 => format!("{text}{}", random.word(&STRINGS)),
        2 if !characters.is_empty() => {
            let at = random.below(characters.len());
            characters[..at].iter().chain(&characters[at + 1..]).collect()
        }
        3 => text.to_uppercase(),
        4 => text.repeat(*random.pick(&[2, 100, 5000])),
        _ => {
            // numbers within, as in names of layers and in sizes
            let digits = text.find(|c: char| c.is_ascii_digit());
            let number = random.word(&super::text::NUMBERS);
            digits.map_or_else(|| format!("{text}{number}"), |at| format!("{}{number}{}", &text[..at], &text[at + 1..]))
        }
    }
}

fn list(items: &mut Vec<Value>, random: &mut Random) {
    if items.is_empty() {
        return items.push(Value::from(1));
    }
    let at = random.below(items.len());
    let other = random.below(items.len());
    match random.below(6) {
        0 => drop(items.remove(at)),
        1 => items.insert(at, items[other].clone()),
        2 => items.swap(at, other),
        3 => items.clear(),
        4 => items.truncate(at),
        _ => {
            // many times, but below a megabyte
            let most = (1 << 20) / (print(&items[at]).len() + 1);
            let copies = (*random.pick(&[10, 1000, 100_000])).min(most);
            drop(items.splice(at..at, vec![items[at].clone(); copies]));
        }
    }
}

/// A place in the document, reached by a random descent: deep values in few branches are as likely as a long table.
/// `container` stops at a list or an object.
fn descend<'v>(document: &'v mut Value, random: &mut Random, container: bool) -> &'v mut Value {
    let mut way = Vec::new();
    let mut place = &*document;
    while let Some(child) = (children(place) > 0).then(|| random.below(children(place))) {
        let below = nth(place, child);
        if container && (children(below) == 0 || random.once_in(3)) {
            break;
        }
        way.push(child);
        place = below;
    }
    way.into_iter().fold(document, |place, child| match place {
        Value::Array(items) => &mut items[child],
        Value::Object(map) => map.values_mut().nth(child).expect("the way was found in it"),
        other => other,
    })
}

fn children(value: &Value) -> usize {
    match value {
        Value::Array(items) => items.len(),
        Value::Object(map) => map.len(),
        _ => 0,
    }
}

/// A child of a list or an object with this many.
fn nth(value: &Value, index: usize) -> &Value {
    match value {
        Value::Array(items) => &items[index],
        Value::Object(map) => map.values().nth(index).unwrap_or(value),
        _ => value,
    }
}

/// A value in a document, with its key if it has one.
fn descend_with_key(value: &Value, random: &mut Random) -> (Option<String>, Value) {
    let (key, child) = match value {
        Value::Array(items) if !items.is_empty() => (None, random.pick(items)),
        Value::Object(map) if !map.is_empty() => match map.iter().nth(random.below(map.len())) {
            Some((key, child)) => (Some(key.clone()), child),
            None => return (None, value.clone()),
        },
        _ => return (None, value.clone()),
    };
    let deeper = child.is_array() || child.is_object();
    if deeper && random.once_in(2) { descend_with_key(child, random) } else { (key, child.clone()) }
}

fn raw(text: &str) -> Value {
    Value::String(format!("{RAW}{text}"))
}

/// The text of a document, with placeholders replaced.
fn print(document: &Value) -> String {
    let mut text = String::new();
    write(document, &mut text);
    text
}

fn write(value: &Value, out: &mut String) {
    match value {
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                out.push_str(if index > 0 { "," } else { "" });
                write(item, out);
            }
            out.push(']');
        }
        Value::Object(map) => {
            out.push('{');
            for (index, (key, item)) in map.iter().enumerate() {
                out.push_str(if index > 0 { "," } else { "" });
                out.push_str(&Value::from(key.replace(TWICE, "")).to_string());
                out.push(':');
                write(item, out);
            }
            out.push('}');
        }
        Value::String(text) if text.starts_with(RAW) => out.push_str(&text[RAW.len()..]),
        other => out.push_str(&other.to_string()),
    }
}
