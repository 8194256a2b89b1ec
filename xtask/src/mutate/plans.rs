//! Damage to plans: changed fields, with valid hashes; random bytes in metadata and headers, with valid hashes; and
//! bytes with invalid hashes.

use std::fs;
use std::path::{Path, PathBuf};

use plan::{Code, Plan, PlanFile, PlanWriter};
use serde_json::Value;

use super::random::Random;
use super::{bytes, json};

/// As in `file.rs` of `plan`: the hashed part of the header, and the position of the metadata entry.
const HASHED_HEADER: usize = 128;
const METADATA: usize = 80;

/// A plan that runs.
pub struct Fixture {
    /// Its file.
    pub bytes: Vec<u8>,
    /// Whether it is for the CPU.
    pub on_cpu: bool,
    plan: Plan,
    fields: Value,
    weights: Vec<u8>,
}

impl Fixture {
    /// The plan of a file.
    pub fn read(path: &Path) -> Result<Fixture, String> {
        let file = PlanFile::open(path).map_err(|error| error.to_string())?;
        let bytes = fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
        Fixture::of(file.plan().clone(), bytes, file.weights().to_vec())
    }

    /// The same plan as a GPU plan, whose code only looks like machine code.
    pub fn for_gpu(&self, scratch: &Path) -> Result<Fixture, String> {
        let mut plan = Plan { target: "sm_90a".to_owned(), ..self.plan.clone() };
        let mut cubin = vec![0; 64];
        cubin[..6].copy_from_slice(b"\x7fELF\x02\x01");
        cubin[18] = 190;
        for kernel in &mut plan.kernels {
            kernel.code = Some(Code { source: String::new(), cubin: cubin.clone(), threads: 128, shared_bytes: 0 });
        }
        let bytes = write(&plan, &self.weights, scratch)?;
        Fixture::of(plan, bytes, self.weights.clone())
    }

    /// A plan, the bytes of its file, and those of its weights.
    pub fn of(plan: Plan, bytes: Vec<u8>, weights: Vec<u8>) -> Result<Fixture, String> {
        let fields = serde_json::to_value(&plan).map_err(|error| format!("a plan as JSON: {error}"))?;
        Ok(Fixture { bytes, on_cpu: plan.target == "cpu", plan, fields, weights })
    }

    /// A plan with some changed fields. `scratch` is a path for a temporary file.
    pub fn with_other_fields(&self, random: &mut Random, scratch: &Path) -> Result<Vec<u8>, String> {
        // most changes give no plan: a number that does not fit its type, a size that does not parse
        for _ in 0..40 {
            let mut fields = self.fields.clone();
            for _ in 0..1 + random.below(3) / 2 {
                // most validation is of programs
                let place = match random.below(8) {
                    0..4 => &mut fields["programs"],
                    4 => &mut fields["kernels"],
                    5 => &mut fields["weights"],
                    _ => &mut fields,
                };
                if random.once_in(5) { resize(place, random) } else { json::edit(place, &[], random) }
            }
            match serde_json::from_value::<Plan>(fields) {
                Ok(plan) if plan != self.plan => return write(&plan, &self.weights, scratch),
                _ => {}
            }
        }
        self.with_other_metadata(random)
    }

    /// Random bytes in the metadata, or in a header, with valid hashes.
    pub fn with_other_metadata(&self, random: &mut Random) -> Result<Vec<u8>, String> {
        let mut header = self.bytes[..HASHED_HEADER].to_vec();
        let start = header[METADATA..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes)) as usize;
        let (head, metadata) = self.bytes.split_at(start);
        let mut metadata = metadata.to_vec();
        let sizes = if random.once_in(8) { sizes(&self.fields["programs"]) } else { Vec::new() };
        if !sizes.is_empty() || !random.once_in(8) {
            metadata = match sizes.is_empty() {
                true => bytes::mutate(&metadata, random),
                false => {
                    let old = string(&random.pick(&sizes).1);
                    let places = metadata.windows(old.len()).enumerate().filter(|(_, bytes)| *bytes == old);
                    let places: Vec<usize> = places.map(|(at, _)| at).collect();
                    let at = if places.is_empty() { 0 } else { *random.pick(&places) };
                    let terms = *random.pick(&[3, 1000, 30_000]);
                    [&metadata[..at], &string(&size(terms, random)), &metadata[at + old.len()..]].concat()
                }
            };
            header[METADATA + 8..METADATA + 16].copy_from_slice(&(metadata.len() as u64).to_le_bytes());
            header[METADATA + 16..].copy_from_slice(blake3::hash(&metadata).as_bytes());
        } else {
            header = bytes::mutate(&header, random);
            header.resize(HASHED_HEADER, 0);
        }
        let hash = blake3::hash(&header);
        Ok([&header, &hash.as_bytes()[..], &head[HASHED_HEADER + 32..], &metadata].concat())
    }

    /// Random bytes in the file.
    pub fn with_other_bytes(&self, random: &mut Random) -> Vec<u8> {
        // the header page is a small part of the file
        match random.once_in(3) {
            true => [bytes::mutate(&self.bytes[..4096], random), self.bytes[4096..].to_vec()].concat(),
            false => bytes::mutate(&self.bytes, random),
        }
    }
}

/// Changes a size of the plan.
fn resize(place: &mut Value, random: &mut Random) {
    let sizes = sizes(place);
    if sizes.is_empty() {
        return;
    }
    let (at, text) = random.pick(&sizes);
    // longer ones are put into the bytes: the types of `plan`, which parse them here too, may be slow
    let terms = *random.pick(&[3, 40, 200]);
    let size = match random.below(6) {
        0 => random.pick(&sizes).1.clone(),
        1 => format!("{text} + 1"),
        2 => format!("2 * ({text})"),
        _ => size(terms, random),
    };
    if let Some(value) = place.pointer_mut(at) {
        *value = Value::String(size);
    }
}

/// A size that no compiler would write: a constant, a product, a long sum, or an invalid one.
fn size(terms: usize, random: &mut Random) -> String {
    let sum = |term: fn(usize) -> String| (2..2 + terms).map(term).collect::<Vec<_>>().join(" + ");
    match random.below(10) {
        0 => "0".to_owned(),
        1 => u64::MAX.to_string(),
        2 => (1u64 << random.below(64)).to_string(),
        3 => random.word(&["T", "B", "R", "T * T", "T * B * R", "Z", "context"]).to_owned(),
        4 => sum(|index| format!("ceil(T, {index})")),
        5 => sum(|index| format!("max(T, {index})")),
        6 => format!("{} * T", random.pick(&[0, 3, 1 << 31, u64::MAX])),
        7 => "ceil(T, 18446744073709551615)".to_owned(),
        8 => "max(".repeat(terms),
        _ => "(T + B) * ".repeat(terms.min(2000)) + "R",
    }
}

/// A text as bincode writes it: its length, in as few bytes as it takes, then its bytes.
fn string(text: &str) -> Vec<u8> {
    let length = match text.len() {
        length @ 0..251 => vec![length as u8],
        length @ 251..65536 => [&[251], &(length as u16).to_le_bytes()[..]].concat(),
        length => [&[252], &(length as u32).to_le_bytes()[..]].concat(),
    };
    [&length, text.as_bytes()].concat()
}

/// Sizes of a plan, with their positions.
fn sizes(value: &Value) -> Vec<(String, String)> {
    let mut found = Vec::new();
    collect(value, &mut PathBuf::from("/"), &mut found);
    found
}

/// Pointers to sizes, and their texts: strings of the digits, symbols and signs that sizes have.
fn collect(value: &Value, way: &mut PathBuf, found: &mut Vec<(String, String)>) {
    let mut below = |name: String, child: &Value| {
        way.push(name);
        collect(child, way, found);
        way.pop();
    };
    match value {
        Value::Array(items) => items.iter().enumerate().for_each(|(index, item)| below(index.to_string(), item)),
        Value::Object(map) => map.iter().for_each(|(key, item)| below(key.clone(), item)),
        Value::String(text) if text.parse::<plan::Dim>().is_ok() => {
            found.push((way.to_string_lossy().into_owned(), text.clone()));
        }
        _ => {}
    }
}

/// The file of a plan, valid or not.
pub fn write(plan: &Plan, weights: &[u8], scratch: &Path) -> Result<Vec<u8>, String> {
    let written = PlanWriter::create(scratch).and_then(|mut writer| {
        writer.append(weights)?;
        writer.finish(plan)
    });
    written.map_err(|error| error.to_string())?;
    let bytes = fs::read(scratch).map_err(|error| format!("{}: {error}", scratch.display()))?;
    fs::remove_file(scratch).map_err(|error| format!("{}: {error}", scratch.display()))?;
    Ok(bytes)
}
