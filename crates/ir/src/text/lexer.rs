//! Tokens of IR text and of rewrite rules, each with its position.

use plan::terminal::is_obeyed;

/// A token.
#[derive(Clone, Debug, PartialEq)]
pub enum Token {
    /// `%layers.0.q`, without the `%`.
    Value(String),
    /// `@name`, without the `@`.
    Name(String),
    /// `@"a key"`, without quotes.
    Key(String),
    /// `graph`, `add`, `T`, `bf16`.
    Word(String),
    /// `$eps`, without the `$`: only in rewrite rules.
    Capture(String),
    /// `64`
    Int(i64),
    /// `1e-5`
    Float(f64),
    /// `(`, `=`, `..`
    Punct(&'static str),
    /// The end of the text.
    End,
}

impl Token {
    /// Its form in messages.
    pub fn describe(&self) -> String {
        match self {
            Token::Value(name) => format!("`%{name}`"),
            Token::Name(name) => format!("`@{name}`"),
            Token::Key(key) => format!("`@\"{key}\"`"),
            Token::Word(word) => format!("`{word}`"),
            Token::Capture(name) => format!("`${name}`"),
            Token::Int(value) => format!("`{value}`"),
            Token::Float(value) => format!("`{value:?}`"),
            Token::Punct(punct) => format!("`{punct}`"),
            Token::End => "the end of the text".to_owned(),
        }
    }
}

/// A token and its byte offset.
#[derive(Clone, Debug)]
pub(super) struct Spanned {
    pub token: Token,
    pub at: usize,
}

/// Longer ones before their prefixes.
const PUNCTUATION: [&str; 21] =
    ["..", "=>", "==", "!=", "<=", ">=", "(", ")", "{", "}", "[", "]", "<", ">", ",", ":", "=", "+", "*", "-", "|"];

/// Splits text into tokens. The error is a message and its byte offset.
pub(super) fn lex(text: &str) -> Result<Vec<Spanned>, (String, usize)> {
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(next) = text[at..].chars().next() {
        let rest = &text[at..];
        if next.is_whitespace() {
            at += next.len_utf8();
        } else if rest.starts_with("//") {
            at += rest.find('\n').unwrap_or(rest.len());
        } else {
            let (token, length) = word(rest).map_err(|message| (message, at))?;
            tokens.push(Spanned { token, at });
            at += length;
        }
    }
    tokens.push(Spanned { token: Token::End, at: text.trim_end().len() });
    Ok(tokens)
}

/// The first token of `rest` and its length.
fn word(rest: &str) -> Result<(Token, usize), String> {
    let run = |text: &str, accept: fn(char) -> bool| text.find(|c| !accept(c)).unwrap_or(text.len());
    let in_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    let in_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if let Some(key) = rest.strip_prefix("@\"") {
        let length = key.find(['"', '\n']).filter(|end| key[*end..].starts_with('"'));
        let length = length.ok_or("expected a closing `\"`")?;
        // graph texts are shown on terminals, and must round-trip
        if let Some(c) = key[..length].chars().find(|c| is_obeyed(*c)) {
            return Err(format!("unexpected character `{}` in a name", c.escape_unicode()));
        }
        return Ok((Token::Key(key[..length].to_owned()), length + 3));
    }
    for (prefix, make) in [("%", Token::Value as fn(String) -> Token), ("@", Token::Name)] {
        if let Some(name) = rest.strip_prefix(prefix) {
            let length = run(name, in_name);
            return match length {
                0 => Err(format!("expected a name after `{prefix}`")),
                _ => Ok((make(name[..length].to_owned()), length + 1)),
            };
        }
    }
    if let Some(name) = rest.strip_prefix('$') {
        return match run(name, in_word) {
            0 => Err("expected a name after `$`".to_owned()),
            length => Ok((Token::Capture(name[..length].to_owned()), length + 1)),
        };
    }
    let digits = rest.strip_prefix('-').unwrap_or(rest);
    if digits.starts_with(|c: char| c.is_ascii_digit()) {
        return number(rest);
    }
    if rest.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
        let length = run(rest, in_word);
        return Ok((Token::Word(rest[..length].to_owned()), length));
    }
    let punct = PUNCTUATION.into_iter().find(|punct| rest.starts_with(punct));
    let punct = punct.ok_or_else(|| format!("unexpected character `{}`", rest.chars().next().unwrap_or(' ')))?;
    Ok((Token::Punct(punct), punct.len()))
}

/// An integer, or a number with a point or an exponent. The `..` of a range is not a point.
fn number(rest: &str) -> Result<(Token, usize), String> {
    let bytes = rest.as_bytes();
    let digits = |mut at: usize| {
        while bytes.get(at).is_some_and(u8::is_ascii_digit) {
            at += 1;
        }
        at
    };
    let mut end = digits(usize::from(bytes[0] == b'-'));
    let mut float = false;
    if bytes.get(end) == Some(&b'.') && bytes.get(end + 1).is_some_and(u8::is_ascii_digit) {
        float = true;
        end = digits(end + 1);
    }
    if matches!(bytes.get(end), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(bytes.get(end + 1), Some(b'-' | b'+')));
        if bytes.get(end + 1 + sign).is_some_and(u8::is_ascii_digit) {
            float = true;
            end = digits(end + 1 + sign);
        }
    }
    let text = &rest[..end];
    let token = match float {
        true => text.parse().ok().filter(|value: &f64| value.is_finite()).map(Token::Float),
        false => text.parse().ok().map(Token::Int),
    };
    token.map(|token| (token, end)).ok_or_else(|| format!("the number `{text}` is too large"))
}
