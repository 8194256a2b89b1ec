//! Text of unknown origin for a terminal: control characters are spelled out, so that a name in a file cannot clear the
//! screen, set the window's title or reverse the direction of a line.

use std::borrow::Cow;

/// Whether a terminal obeys a character instead of showing it: a control character, or one that overrides the direction
/// of text. Line feeds and tabs are text.
pub fn is_obeyed(c: char) -> bool {
    let turns = matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    turns || (c.is_control() && !matches!(c, '\n' | '\t'))
}

/// The text with control characters spelled out, as in `\u{1b}`.
pub fn shown(text: &str) -> Cow<'_, str> {
    if !text.contains(is_obeyed) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match is_obeyed(c) {
            true => safe.extend(c.escape_unicode()),
            false => safe.push(c),
        }
    }
    Cow::Owned(safe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_terminals_obey_is_spelled_out() {
        assert!(matches!(shown("plain,\n\tÄrger, שלום, 文字"), Cow::Borrowed(_)));
        assert_eq!(shown("\u{1b}]0;title\u{7}"), "\\u{1b}]0;title\\u{7}");
        assert_eq!(shown("a\rb\u{8}\u{7f}\u{9b}2J"), "a\\u{d}b\\u{8}\\u{7f}\\u{9b}2J");
        assert_eq!(shown("\u{202e}txt\u{2066}"), "\\u{202e}txt\\u{2066}");
    }
}
