//! JSON files of a checkpoint, read key by key. Errors go to the report, and reading continues.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::Path;

use serde_json::{Map, Value};

use crate::report::Report;

/// Parses a file that must hold one object.
pub(crate) fn parse(file: &Path, bytes: &[u8], report: &mut Report) -> Option<Map<String, Value>> {
    match read(bytes) {
        Ok(Value::Object(map)) => return Some(map),
        Ok(other) => {
            report.bad_input(format!("{}: expected a JSON object, found {}", file.display(), shown(&other)));
        }
        Err(error) => report.bad_input(format!("{}: invalid JSON: {error}", file.display())),
    }
    None
}

/// Parses a text. Python writes numbers that are not finite as bare words, which is not JSON: they are read as strings,
/// so that a key that needs a number refuses them, and one that does not matter is ignored.
fn read(bytes: &[u8]) -> serde_json::Result<Value> {
    serde_json::from_slice(bytes).or_else(|error| match quote_words(bytes) {
        Some(quoted) => serde_json::from_slice(&quoted),
        None => Err(error),
    })
}

/// The text with `Infinity`, `-Infinity` and `NaN` in quotes; `None` if it contains none of them.
fn quote_words(bytes: &[u8]) -> Option<Vec<u8>> {
    const WORDS: [&[u8]; 3] = [b"-Infinity", b"Infinity", b"NaN"];
    let mut quoted = Vec::with_capacity(bytes.len());
    let (mut rest, mut found, mut in_string) = (bytes, false, false);
    while let Some((first, after)) = rest.split_first() {
        if let Some(word) = WORDS.into_iter().find(|word| !in_string && rest.starts_with(word)) {
            quoted.push(b'"');
            quoted.extend(word);
            quoted.push(b'"');
            rest = &rest[word.len()..];
            found = true;
            continue;
        }
        let length = if in_string && *first == b'\\' { 2.min(rest.len()) } else { 1 };
        in_string ^= *first == b'"';
        quoted.extend(&rest[..length]);
        rest = if length == 1 { after } else { &rest[length..] };
    }
    found.then_some(quoted)
}

/// A value as messages show it: its JSON, shortened.
fn shown(value: &Value) -> String {
    const SHOWN: usize = 60;
    let text = value.to_string();
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// An object of a file, or one nested in it. Readers return `None` if the key is missing, or if its value has the wrong
/// type: that is reported.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Object<'a> {
    file: &'a Path,
    /// The key of a nested object in its file.
    parent: Option<&'a str>,
    map: &'a Map<String, Value>,
}

impl<'a> Object<'a> {
    /// The object of a file.
    pub fn new(file: &'a Path, map: &'a Map<String, Value>) -> Object<'a> {
        Object { file, parent: None, map }
    }

    /// The object under a key; `None` if it is missing, `null` or empty.
    pub fn nested(&self, key: &'a str, report: &mut Report) -> Option<Object<'a>> {
        self.present(key)?;
        let map = self.expect(key, "an object", Value::as_object, report)?;
        (!map.is_empty()).then_some(Object { parent: Some(key), map, ..*self })
    }

    /// All keys and values, in file order.
    pub fn entries(&self) -> impl Iterator<Item = (&'a str, &'a Value)> + use<'a> {
        self.map.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// The value of a key, `null` included.
    pub fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key)
    }

    /// The value of a key; `None` if it is missing or `null`.
    pub fn present(&self, key: &str) -> Option<&'a Value> {
        self.get(key).filter(|value| !value.is_null())
    }

    /// A whole number in a range.
    pub fn size(&self, key: &str, range: RangeInclusive<u32>, report: &mut Report) -> Option<u32> {
        let expected = format!("a whole number from {} to {}", range.start(), range.end());
        let convert = |value: &Value| value.as_u64().and_then(|value| u32::try_from(value).ok());
        self.expect(key, &expected, |value| convert(value).filter(|size| range.contains(size)), report)
    }

    /// A number above zero.
    pub fn positive(&self, key: &str, report: &mut Report) -> Option<f64> {
        let convert = |value: &Value| value.as_f64().filter(|value| value.is_finite() && *value > 0.0);
        self.expect(key, "a number above 0", convert, report)
    }

    /// `true` or `false`.
    pub fn flag(&self, key: &str, report: &mut Report) -> Option<bool> {
        self.expect(key, "true or false", Value::as_bool, report)
    }

    /// A string.
    pub fn text(&self, key: &str, report: &mut Report) -> Option<&'a str> {
        self.expect(key, "a string", Value::as_str, report)
    }

    /// The value of a key, converted.
    pub fn expect<T>(
        &self,
        key: &str,
        expected: &str,
        convert: impl FnOnce(&'a Value) -> Option<T>,
        report: &mut Report,
    ) -> Option<T> {
        let value = self.get(key)?;
        let converted = convert(value);
        if converted.is_none() {
            report.bad_input(self.found(key, value, format_args!("expected {expected}")));
        }
        converted
    }

    /// ``DIR/config.json: `rope_scaling.factor` is 0, `` and the rest.
    pub fn found(&self, key: &str, value: &Value, rest: impl Display) -> String {
        format!("{}, {rest}", self.said(key, value))
    }

    /// ``DIR/config.json: `rope_scaling.factor` is 0``.
    pub fn said(&self, key: &str, value: &Value) -> String {
        format!("{}: {} is {}", self.file.display(), self.key(key), shown(value))
    }

    /// ``DIR/config.json: `rope_scaling.factor` is missing, `` and the rest.
    pub fn missing(&self, key: &str, rest: impl Display) -> String {
        format!("{}: {} is missing, {rest}", self.file.display(), self.key(key))
    }

    fn key(&self, key: &str) -> String {
        let key = key.escape_debug();
        self.parent.map_or_else(|| format!("`{key}`"), |parent| format!("`{parent}.{key}`"))
    }
}
