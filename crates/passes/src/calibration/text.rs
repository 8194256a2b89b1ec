//! The text of a calibration: JSON with one line per array, tensors sorted by name, each float with the fewest digits
//! that round-trip.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::{Map, Value};

use super::{Calibration, Histogram, SCHEMA_VERSION, TensorStats};

/// Writes a calibration.
pub(super) fn print(calibration: &Calibration) -> String {
    let mut out = String::new();
    // writing to a String cannot fail, and strings cannot fail to be JSON
    let quoted = |text: &str| Value::from(text).to_string();
    let Calibration { schema_version, model, samples, tokens, max_len, method, tensors } = calibration;
    let _ = write!(
        out,
        "{{\n  \"schema_version\": {schema_version},\n  \"model\": {},\n  \"samples\": {samples},\n  \
         \"tokens\": {tokens},\n  \"max_len\": {max_len},\n  \"method\": {},\n  \"tensors\": {{",
        quoted(model),
        quoted(&method.to_string())
    );
    for (index, (name, stats)) in tensors.iter().enumerate() {
        let comma = if index > 0 { "," } else { "" };
        let _ = write!(out, "{comma}\n    {}: {{", quoted(name));
        print_stats(&mut out, stats);
        out.push_str("\n    }");
    }
    out.push_str(if tensors.is_empty() { "}\n}\n" } else { "\n  }\n}\n" });
    out
}

fn print_stats(out: &mut String, stats: &TensorStats) {
    let TensorStats { tokens, min, max, nan, .. } = stats;
    let _ = write!(out, "\n      \"tokens\": {tokens},\n      \"min\": {min:?},\n      \"max\": {max:?},");
    let _ = write!(out, "\n      \"nan\": {nan},\n      \"channel_absmax\": [");
    list(out, stats.channel_absmax.iter().map(|value| format!("{value:?}")));
    out.push_str("],\n      \"channel_mean_square\": [");
    list(out, stats.channel_mean_square.iter().map(|value| format!("{value:?}")));
    out.push(']');
    for (name, histogram) in [("histogram", &stats.histogram), ("token_absmax", &stats.token_absmax)] {
        let _ = write!(out, ",\n      \"{name}\": {{\"exponent\": {}, \"bins\": [", histogram.exponent());
        list(out, histogram.bins()[..histogram.used()].iter().map(u64::to_string));
        out.push_str("]}");
    }
}

fn list(out: &mut String, items: impl Iterator<Item = String>) {
    for (index, item) in items.enumerate() {
        if index > 0 {
            out.push(',');
        }
        out.push_str(&item);
    }
}

/// Reads a calibration, or returns the first error in the text.
pub(super) fn parse(text: &str) -> Result<Calibration, String> {
    let value: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let mut fields = Fields::of(value, "the file")?;
    // checked first: another version may have other fields
    let schema_version = fields.count("schema_version")?;
    if schema_version != u64::from(SCHEMA_VERSION) {
        return Err(format!("it has schema_version {schema_version}, this program reads {SCHEMA_VERSION}"));
    }
    let model = fields.text("model")?;
    let (samples, tokens, max_len) = (fields.count("samples")?, fields.count("tokens")?, fields.count("max_len")?);
    let method = fields.text("method")?.parse()?;
    let mut tensors = BTreeMap::new();
    for (name, value) in Fields::of(fields.take("tensors")?, "`tensors`")?.map {
        let stats = parse_stats(Fields::of(value, &format!("`{name}`"))?)?;
        tensors.insert(name, stats);
    }
    fields.end()?;
    Ok(Calibration { schema_version: SCHEMA_VERSION, model, samples, tokens, max_len, method, tensors })
}

fn parse_stats(mut fields: Fields) -> Result<TensorStats, String> {
    let stats = TensorStats {
        tokens: fields.count("tokens")?,
        min: fields.number("min")?,
        max: fields.number("max")?,
        nan: fields.count("nan")?,
        channel_absmax: fields.magnitudes("channel_absmax")?,
        channel_mean_square: fields.magnitudes("channel_mean_square")?,
        histogram: fields.histogram("histogram")?,
        token_absmax: fields.histogram("token_absmax")?,
    };
    let (channels, squares) = (stats.channels(), stats.channel_mean_square.len());
    if channels == 0 || channels != squares {
        return Err(fields.wrong(&format!("as many squares as channels, at least one: found {squares} and {channels}")));
    }
    if stats.tokens == 0 || stats.token_absmax.total() != stats.tokens {
        return Err(fields.wrong("at least one token, each of them in `token_absmax`"));
    }
    let values = stats.tokens.checked_mul(channels as u64);
    if values != Some(stats.histogram.total()) {
        return Err(fields.wrong("every value of every token in `histogram`"));
    }
    if !(stats.min <= stats.max && stats.absmax() == stats.max.abs().max(stats.min.abs())) {
        return Err(fields.wrong("`min` and `max` that agree with `channel_absmax`"));
    }
    fields.end()?;
    Ok(stats)
}

/// The unread fields of an object.
struct Fields {
    map: Map<String, Value>,
    /// Description of the object, for messages.
    what: String,
}

impl Fields {
    fn of(value: Value, what: &str) -> Result<Fields, String> {
        match value {
            Value::Object(map) => Ok(Fields { map, what: what.to_owned() }),
            _ => Err(format!("expected {what} to be an object")),
        }
    }

    fn wrong(&self, expected: &str) -> String {
        format!("expected {} to have {expected}", self.what)
    }

    fn take(&mut self, name: &str) -> Result<Value, String> {
        self.map.remove(name).ok_or_else(|| self.wrong(&format!("a field `{name}`")))
    }

    fn count(&mut self, name: &str) -> Result<u64, String> {
        self.take(name)?.as_u64().ok_or_else(|| self.wrong(&format!("a count as `{name}`")))
    }

    fn text(&mut self, name: &str) -> Result<String, String> {
        match self.take(name)? {
            Value::String(text) => Ok(text),
            _ => Err(self.wrong(&format!("a string as `{name}`"))),
        }
    }

    fn number(&mut self, name: &str) -> Result<f32, String> {
        float(&self.take(name)?).ok_or_else(|| self.wrong(&format!("a number as `{name}`")))
    }

    fn list(&mut self, name: &str) -> Result<Vec<Value>, String> {
        match self.take(name)? {
            Value::Array(list) => Ok(list),
            _ => Err(self.wrong(&format!("an array as `{name}`"))),
        }
    }

    fn magnitudes(&mut self, name: &str) -> Result<Vec<f32>, String> {
        let list = self.list(name)?;
        let numbers: Option<Vec<f32>> = list.iter().map(|value| float(value).filter(|value| *value >= 0.0)).collect();
        numbers.ok_or_else(|| self.wrong(&format!("numbers of at least 0 in `{name}`")))
    }

    fn histogram(&mut self, name: &str) -> Result<Histogram, String> {
        let mut fields = Fields::of(self.take(name)?, &format!("`{name}` of {}", self.what))?;
        let exponent = fields.take("exponent")?.as_i64().and_then(|exponent| i32::try_from(exponent).ok());
        let exponent = exponent.ok_or_else(|| fields.wrong("an integer as `exponent`"))?;
        let bins: Option<Vec<u64>> = fields.list("bins")?.iter().map(Value::as_u64).collect();
        let bins = bins.ok_or_else(|| fields.wrong("counts in `bins`"))?;
        let histogram = Histogram::from_parts(exponent, bins).map_err(|reason| format!("{}: {reason}", fields.what))?;
        fields.end()?;
        Ok(histogram)
    }

    /// Refuses unread fields.
    fn end(&self) -> Result<(), String> {
        match self.map.keys().next() {
            Some(name) => Err(format!("{} has an unknown field `{name}`", self.what)),
            None => Ok(()),
        }
    }
}

/// A number as f32, if it is in range.
fn float(value: &Value) -> Option<f32> {
    let value = value.as_f64()? as f32;
    value.is_finite().then_some(value)
}
