//! Timing caches: kernel times by device, as JSON with one line per candidate, sorted, so that they can be diffed and
//! merged like sources.

use std::collections::BTreeMap;
use std::path::Path;

use codegen::{Outcome, Timings};
use plan::input::{self, TEXT_BYTES};
use serde::Deserialize;

use crate::Error;

/// Version of the file's fields.
const VERSION: u32 = 1;

/// The timings of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TimingCache {
    /// By target, then by device.
    targets: BTreeMap<String, BTreeMap<String, Timings>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    timings: Vec<Entry>,
}

/// The candidates for one op on one device.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    target: String,
    device: String,
    op: String,
    candidates: Vec<Candidate>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Candidate {
    kernel: String,
    code: String,
    ns: Option<u64>,
    slow: Option<String>,
}

impl TimingCache {
    /// Reads a file. Anything else, or a damaged file, is refused as a whole.
    pub fn read(path: &Path) -> Result<TimingCache, Error> {
        let text = input::read(path, TEXT_BYTES).map_err(|error| Error::Io { path: path.to_owned(), error })?;
        TimingCache::parse(&text).map_err(|reason| {
            let path = path.display();
            Error::BadInput(format!("{path}: not a timing cache: {reason}; remove it to have it rewritten"))
        })
    }

    fn parse(text: &[u8]) -> Result<TimingCache, String> {
        // the version is checked first: another one may have other fields
        let mut value: serde_json::Value = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        let version = value.as_object_mut().and_then(|object| object.remove("schema_version"));
        match version.and_then(|version| version.as_u64()) {
            Some(version) if version == u64::from(VERSION) => {}
            Some(version) => return Err(format!("it has schema_version {version}, this program reads {VERSION}")),
            None => return Err("expected an object with schema_version and timings".to_owned()),
        }
        let file: File = serde_json::from_value(value).map_err(|error| error.to_string())?;
        let mut cache = TimingCache::default();
        for entry in file.timings {
            let timings = cache.of(&entry.target, &entry.device);
            let outcomes = timings.ops.entry(entry.op.clone()).or_default();
            if !outcomes.is_empty() {
                return Err(format!("duplicate entry for `{}`", entry.op));
            }
            for Candidate { kernel, code, ns, slow } in entry.candidates {
                let nanoseconds = match (ns, slow) {
                    (Some(time), None) if time > 0 => Ok(time),
                    (None, Some(reason)) => Err(reason),
                    _ => return Err(format!("expected either `ns` above 0 or `slow` of `{kernel}`")),
                };
                if outcomes.insert(kernel.clone(), Outcome { code, nanoseconds }).is_some() {
                    return Err(format!("duplicate entry for `{kernel}` of `{}`", entry.op));
                }
            }
        }
        Ok(cache)
    }

    /// The timings of a device, to be added to.
    pub fn of(&mut self, target: &str, device: &str) -> &mut Timings {
        self.targets.entry(target.to_owned()).or_default().entry(device.to_owned()).or_default()
    }

    /// Names of the devices with timings for a target.
    pub fn devices(&self, target: &str) -> Vec<&str> {
        self.targets.get(target).into_iter().flat_map(BTreeMap::keys).map(String::as_str).collect()
    }

    /// The text of the file.
    pub fn print(&self) -> String {
        // strings cannot fail to be JSON
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        let mut entries = Vec::new();
        for (target, devices) in &self.targets {
            for (device, timings) in devices {
                for (op, outcomes) in &timings.ops {
                    let candidates = outcomes.iter().map(|(kernel, outcome)| {
                        let (kernel, code) = (quoted(kernel), quoted(&outcome.code));
                        let result = match &outcome.nanoseconds {
                            Ok(time) => format!("\"ns\": {time}"),
                            Err(reason) => format!("\"slow\": {}", quoted(reason)),
                        };
                        format!("        {{\"kernel\": {kernel}, \"code\": {code}, {result}}}")
                    });
                    entries.push(format!(
                        "    {{\n      \"target\": {},\n      \"device\": {},\n      \"op\": {},\n      \
                         \"candidates\": [\n{}\n      ]\n    }}",
                        quoted(target),
                        quoted(device),
                        quoted(op),
                        candidates.collect::<Vec<_>>().join(",\n")
                    ));
                }
            }
        }
        let entries = if entries.is_empty() { String::new() } else { format!("\n{}\n  ", entries.join(",\n")) };
        format!("{{\n  \"schema_version\": {VERSION},\n  \"timings\": [{entries}]\n}}\n")
    }

    /// Writes the file under a temporary name and renames it.
    pub fn write(&self, path: &Path) -> Result<(), Error> {
        let written = plan::partial::write_file(path, self.print().as_bytes());
        written.map_err(|error| Error::Io { path: path.to_owned(), error })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> TimingCache {
        let mut cache = TimingCache::default();
        for (device, time) in [("NVIDIA H200", 14_812), ("NVIDIA H100 80GB HBM3", 19_004)] {
            let outcome = |nanoseconds| Outcome { code: "0123456789abcdef".to_owned(), nanoseconds };
            let outcomes = BTreeMap::from([
                ("linear_skinny {warps = 8}".to_owned(), outcome(Ok(time))),
                ("linear_wgmma {cols = 64}".to_owned(), outcome(Err("it has \"8\" bytes stack frame".to_owned()))),
            ]);
            cache.of("sm_90a", device).record("linear bf16[8, 64], weight bf16[32, 64] : bf16[8, 32]", outcomes);
        }
        cache
    }

    #[test]
    fn what_is_printed_is_read() {
        let cache = example();
        assert_eq!(TimingCache::parse(cache.print().as_bytes()), Ok(cache.clone()));
        assert_eq!(cache.devices("sm_90a"), ["NVIDIA H100 80GB HBM3", "NVIDIA H200"]);
        assert_eq!(cache.devices("cpu"), Vec::<&str>::new());
        let empty = TimingCache::default();
        assert_eq!(TimingCache::parse(empty.print().as_bytes()), Ok(empty));
        // a line for each candidate
        assert_eq!(cache.print().lines().filter(|line| line.contains("\"kernel\"")).count(), 4);
    }

    #[test]
    fn other_files_are_refused_with_what_is_wrong() {
        let text = example().print();
        let refused = |from: &str, to: &str, reason: &str| {
            assert!(text.contains(from), "{from}");
            let found = TimingCache::parse(text.replacen(from, to, 1).as_bytes()).expect_err(to);
            assert!(found.contains(reason), "{found}");
        };
        refused("\"schema_version\": 1", "\"schema_version\": 7", "schema_version 7, this program reads 1");
        refused("\"schema_version\": 1,", "", "expected an object with schema_version");
        refused("\"ns\": 19004", "\"ns\": 0", "expected either `ns` above 0 or `slow` of `linear_skinny {warps = 8}`");
        refused("\"ns\": 19004", "\"ms\": 19004", "unknown field `ms`");
        refused("NVIDIA H100 80GB HBM3", "NVIDIA H200", "duplicate entry for `");
        refused(
            "linear_wgmma {cols = 64}",
            "linear_skinny {warps = 8}",
            "duplicate entry for `linear_skinny {warps = 8}` of `linear bf16",
        );
        for text in ["", "[]", "{\"schema_version\": 1}", "{\"schema_version\": 1, \"timings\": [{}]}"] {
            assert!(TimingCache::parse(text.as_bytes()).is_err(), "{text}");
        }
    }
}
