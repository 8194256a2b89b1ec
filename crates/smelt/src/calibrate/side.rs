//! The activations file: rows and Hessians of each tensor, as safetensors with offsets that are known in advance. Each
//! layer's are written in place, and none is kept in memory.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use half::bf16;
use plan::partial::{self, PartialFolder};
use serde_json::{Map, Value, json};

use super::CalibrateOptions;
use super::activations::ActivationFile;
use super::samples::Samples;
use super::segments::Segment;
use crate::Error;

/// The tensor that says which tokens the rows are of.
pub(super) const KEYS: &str = "keys";

/// The name of a Hessian.
pub(super) fn hessian_name(tensor: &str) -> String {
    format!("{tensor}.hessian")
}

/// The layout of such a file.
pub(super) struct Side {
    header: Vec<u8>,
    /// Offset and length in the file, by name.
    places: BTreeMap<String, (u64, u64)>,
    bytes: u64,
    keys: Vec<u64>,
}

/// A tensor of a file.
struct Entry {
    name: String,
    dtype: &'static str,
    shape: [usize; 2],
}

impl Entry {
    fn bytes(&self) -> u64 {
        let bytes = match self.dtype {
            "BF16" => 2,
            "F32" => 4,
            _ => 8,
        };
        bytes * self.shape.iter().product::<usize>() as u64
    }
}

impl Side {
    /// The file of a run.
    pub fn layout(model: &str, segments: &[Segment], samples: &Samples, options: &CalibrateOptions) -> Side {
        let keys: Vec<u64> = samples.kept.iter().map(|kept| kept.key).collect();
        let tensors = segments.iter().flat_map(|segment| &segment.tensors);
        let tensors = tensors.map(|tensor| (tensor.name.clone(), tensor.channels, tensor.by_linear && options.hessian));
        Side::of(model, keys, tensors.collect())
    }

    /// A file of tensors with their channels, and whether there is a Hessian.
    fn of(model: &str, keys: Vec<u64>, tensors: Vec<(String, usize, bool)>) -> Side {
        let rows = keys.len();
        let mut entries = vec![Entry { name: KEYS.to_owned(), dtype: "U64", shape: [rows, 1] }];
        // 8-byte elements first, then 4, then 2: everything is aligned
        let hessians = tensors.iter().filter(|(.., hessian)| *hessian);
        entries.extend(hessians.map(|(name, channels, _)| Entry {
            name: hessian_name(name),
            dtype: "F32",
            shape: [*channels, *channels],
        }));
        entries.extend(tensors.into_iter().map(|(name, channels, _)| Entry {
            name,
            dtype: "BF16",
            shape: [rows, channels],
        }));
        let mut fields = Map::new();
        fields.insert("__metadata__".to_owned(), json!({ "model": model }));
        let mut end = 0;
        let mut places = BTreeMap::new();
        for entry in &entries {
            let start = end;
            end += entry.bytes();
            let field = json!({ "dtype": entry.dtype, "shape": entry.shape, "data_offsets": [start, end] });
            fields.insert(entry.name.clone(), field);
            places.insert(entry.name.clone(), (start, entry.bytes()));
        }
        let mut text = Value::Object(fields).to_string().into_bytes();
        text.resize(text.len().next_multiple_of(8), b' ');
        let header = [&(text.len() as u64).to_le_bytes()[..], &text].concat();
        let data = header.len() as u64;
        places.values_mut().for_each(|(start, _)| *start += data);
        Side { header, places, bytes: data + end, keys }
    }

    /// Size of the file.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Creates the file, with zeros where nothing is written yet.
    pub fn create(&self, path: &Path) -> Result<File, Error> {
        let io = |error| Error::Io { path: path.to_owned(), error };
        let mut file = File::create(path).map_err(io)?;
        file.set_len(self.bytes).map_err(io)?;
        file.write_all(&self.header).map_err(io)?;
        let keys: Vec<u8> = self.keys.iter().flat_map(|key| key.to_le_bytes()).collect();
        self.write(&mut file, KEYS, 0, &keys).map_err(io)?;
        Ok(file)
    }

    /// Writes a row of a tensor.
    pub fn write_row(&self, file: &mut File, tensor: &str, row: usize, values: &[f32]) -> std::io::Result<()> {
        let bytes: Vec<u8> = values.iter().flat_map(|value| bf16::from_f32(*value).to_le_bytes()).collect();
        self.write(file, tensor, row as u64 * bytes.len() as u64, &bytes)
    }

    /// Writes the Hessian of a tensor.
    pub fn write_hessian(&self, file: &mut File, tensor: &str, values: &[f32]) -> std::io::Result<()> {
        let row = values.len().isqrt().max(1);
        for (index, values) in values.chunks(row).enumerate() {
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            self.write(file, &hessian_name(tensor), (index * row * 4) as u64, &bytes)?;
        }
        Ok(())
    }

    fn write(&self, file: &mut File, name: &str, offset: u64, bytes: &[u8]) -> std::io::Result<()> {
        let place = self.places.get(name).filter(|(_, length)| offset + bytes.len() as u64 <= *length);
        let (start, _) = place.ok_or_else(|| std::io::Error::other(format!("`{name}` has no such row")))?;
        file.seek(SeekFrom::Start(start + offset))?;
        file.write_all(bytes)
    }
}

/// Merges files whose Hessians are means over these numbers of tokens. The rows with the smallest keys are kept, as
/// many as in the file with the most.
pub(super) fn merge(files: &[PathBuf], tokens: &[u64], out: &Path) -> Result<(), Error> {
    let files = files.iter().map(|path| ActivationFile::open(path)).collect::<Result<Vec<_>, _>>()?;
    let Some(first) = files.first() else { return Ok(()) };
    let tensors = first.tensors();
    for file in &files {
        if file.model() != first.model() || file.tensors() != tensors {
            let reason = "has other tensors, or is of another model: only files of one model and layout can be merged";
            return Err(Error::BadInput(format!("{}: {reason}", file.path().display())));
        }
    }
    let most = files.iter().map(|file| file.keys().len()).max().unwrap_or(0);
    // key, file and row
    let mut kept: Vec<(u64, usize, usize)> = Vec::new();
    for (index, file) in files.iter().enumerate() {
        kept.extend(file.keys().iter().enumerate().map(|(row, key)| (*key, index, row)));
    }
    kept.sort_unstable();
    kept.truncate(most);
    let side = Side::of(first.model(), kept.iter().map(|(key, ..)| *key).collect(), tensors.clone());
    let io = |error| Error::Io { path: out.to_owned(), error };
    let place = partial::place(out).map_err(io)?;
    let folder = PartialFolder::create_in(partial::folder_of(&place)).map_err(io)?;
    let complete = folder.path().join("merged.safetensors");
    let mut target = side.create(&complete)?;
    let total: u64 = tokens.iter().sum();
    for (name, channels, has_hessian) in &tensors {
        let rows: Vec<_> = files.iter().map(|file| file.tensor_rows(name)).collect();
        for (place, (_, file, row)) in kept.iter().enumerate() {
            let values = rows[*file].as_ref().and_then(|rows| rows.values.get(row * channels..(row + 1) * channels));
            side.write_row(&mut target, name, place, values.unwrap_or_default()).map_err(io)?;
        }
        if *has_hessian {
            let mut mean = vec![0.0; channels * channels];
            for (file, tokens) in files.iter().zip(tokens) {
                let share = *tokens as f32 / total.max(1) as f32;
                let hessian = file.tensor_hessian(name).unwrap_or_default();
                mean.iter_mut().zip(hessian).for_each(|(mean, value): (&mut f32, f32)| *mean += share * value);
            }
            side.write_hessian(&mut target, name, &mean).map_err(io)?;
        }
    }
    target.sync_all().map_err(io)?;
    partial::replace(&complete, &place).map_err(io)
}
