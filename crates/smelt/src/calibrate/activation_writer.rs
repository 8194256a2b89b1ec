//! Writing an activations file. Each layer's rows and Hessians are written in place, and none is kept in memory.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use half::bf16;

use super::CalibrateOptions;
use super::format::{KEYS, Layout, TensorEntry, hessian_name};
use super::samples::Samples;
use super::segments::Segment;
use crate::Error;

/// Writes the tensors of one file.
pub(super) struct ActivationWriter {
    layout: Layout,
    keys: Vec<u64>,
}

impl ActivationWriter {
    /// For the file of a run.
    pub fn of_run(model: &str, segments: &[Segment], samples: &Samples, options: &CalibrateOptions) -> Self {
        let keys = samples.kept.iter().map(|kept| kept.key).collect();
        let tensors = segments.iter().flat_map(|segment| &segment.tensors);
        let tensors = tensors.map(|tensor| TensorEntry {
            name: tensor.name.clone(),
            channels: tensor.channels,
            hessian: tensor.by_linear && options.hessian,
        });
        ActivationWriter::new(model, keys, &tensors.collect::<Vec<_>>())
    }

    /// For a file of these tensors, with a row for each key.
    pub fn new(model: &str, keys: Vec<u64>, tensors: &[TensorEntry]) -> ActivationWriter {
        ActivationWriter { layout: Layout::of(model, keys.len(), tensors), keys }
    }

    /// Size of the file.
    pub fn bytes(&self) -> u64 {
        self.layout.bytes
    }

    /// Creates the file, with zeros where nothing is written yet.
    pub fn create(&self, path: &Path) -> Result<File, Error> {
        let io = |error| Error::Io { path: path.to_owned(), error };
        let mut file = File::create(path).map_err(io)?;
        file.set_len(self.layout.bytes).map_err(io)?;
        file.write_all(&self.layout.header).map_err(io)?;
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
        let place = self.layout.places.get(name).filter(|(_, length)| offset + bytes.len() as u64 <= *length);
        let (start, _) = place.ok_or_else(|| std::io::Error::other(format!("`{name}` has no such row")))?;
        file.seek(SeekFrom::Start(start + offset))?;
        file.write_all(bytes)
    }
}
