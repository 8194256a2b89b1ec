//! Several problems as one error: the first ones in full, and the number of others. A hostile file can have more
//! problems than bytes, so unreported ones are not formatted.

use std::fmt::{self, Display, Write};

/// Maximum size of an error: with the file name and line breaks it stays below 4 KB.
pub const MAX_ERROR_BYTES: usize = 3 << 10;
/// Maximum size of one problem of several.
const MAX_PROBLEM_BYTES: usize = 1 << 10;

/// A list of problems.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems {
    shown: Vec<String>,
    bytes: usize,
    more: usize,
}

impl Problems {
    /// Adds a problem, formatted only if there is room for it.
    pub fn add(&mut self, problem: impl Display) {
        if self.is_full() {
            self.more += 1;
            return;
        }
        let text = clipped(problem, MAX_PROBLEM_BYTES);
        self.bytes += text.len() + 2;
        self.shown.push(text);
    }

    /// Whether more problems would only be counted: a search that is costly may stop.
    pub fn is_full(&self) -> bool {
        self.bytes + MAX_PROBLEM_BYTES > MAX_ERROR_BYTES
    }

    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.shown.is_empty()
    }

    /// All problems in one text, with a separator between them.
    pub fn joined(&self, separator: &str) -> String {
        let text = self.shown.join(separator);
        match self.more {
            0 => text,
            more => format!("{text}{separator}and {more} more"),
        }
    }

    /// `Ok` if there are none.
    pub fn into_result(self) -> Result<(), Problems> {
        if self.is_empty() { Ok(()) } else { Err(self) }
    }
}

impl Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.joined("; "))
    }
}

/// Several problems as one text of at most [`MAX_ERROR_BYTES`]: the first ones, and the number of others.
pub fn listed<T: Display>(problems: impl IntoIterator<Item = T>, separator: &str) -> String {
    let mut list = Problems::default();
    problems.into_iter().for_each(|problem| list.add(problem));
    list.joined(separator)
}

/// A text of at most this many bytes; a shortened one ends in `...`.
pub fn clipped(text: impl Display, bytes: usize) -> String {
    const MARK: &str = "...";
    let mut clip = Clip { text: String::new(), bytes };
    if write!(clip, "{text}").is_err() {
        let mut end = clip.text.len().min(bytes.saturating_sub(MARK.len()));
        while !clip.text.is_char_boundary(end) {
            end -= 1;
        }
        clip.text.truncate(end);
        clip.text.push_str(MARK);
    }
    clip.text
}

/// Accepts text until it has enough, and then fails.
struct Clip {
    text: String,
    bytes: usize,
}

impl Write for Clip {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        let room = self.bytes - self.text.len();
        if part.len() <= room {
            self.text.push_str(part);
            return Ok(());
        }
        let mut end = room;
        while !part.is_char_boundary(end) {
            end -= 1;
        }
        self.text.push_str(&part[..end]);
        Err(fmt::Error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_has_an_end() {
        assert_eq!(listed(["a", "b"], "; "), "a; b");
        assert_eq!(listed::<&str>([], "; "), "");
        let many = listed((0..1_000_000).map(|index| format!("problem {index}")), "\n");
        assert!(many.len() <= MAX_ERROR_BYTES + 32, "{}", many.len());
        assert!(many.starts_with("problem 0\nproblem 1\n"), "{many}");
        let shown = many.lines().count() - 1;
        assert!(shown > 50 && many.ends_with(&format!("\nand {} more", 1_000_000 - shown)), "{many}");
        let long = listed(["é".repeat(1 << 20), "b".to_owned()], "; ");
        assert!(long.len() < 1100 && long.contains("é...; b"), "{}", long.len());
    }

    /// A text that counts how often it is formatted.
    struct Endless<'a>(&'a std::cell::Cell<usize>);

    impl Display for Endless<'_> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            for _ in 0..1 << 20 {
                self.0.set(self.0.get() + 1);
                f.write_str("0123456789")?;
            }
            Ok(())
        }
    }

    #[test]
    fn what_nobody_sees_is_not_written() {
        let asked = std::cell::Cell::new(0);
        listed((0..1000).map(|_| Endless(&asked)), "; ");
        assert!(asked.get() < 400, "{}", asked.get());
        assert_eq!(clipped("abcdef", 6), "abcdef");
        assert_eq!(clipped("abcdefg", 6), "abc...");
        assert_eq!(clipped("ab\u{20ac}\u{20ac}", 6), "ab...");
    }
}
