//! Reading the activations file of a calibration.

use std::path::{Path, PathBuf};

use half::bf16;
use passes::calibration::{Activations, Rows};
use plan::input::{Changed, InputFile, Stamp};
use plan::mapped::MappedFile;
use safetensors::{Dtype, SafeTensors};

use super::format::{KEYS, TensorEntry, hessian_name};
use crate::Error;

/// Rows and Hessians of a calibration, mapped.
pub struct ActivationFile {
    path: PathBuf,
    stamp: Stamp,
    map: MappedFile,
    model: String,
}

impl ActivationFile {
    /// Opens a file.
    pub fn open(path: &Path) -> Result<ActivationFile, Error> {
        let io = |error| Error::Io { path: path.to_owned(), error };
        let bad = |reason: &str| Error::BadInput(format!("{}: not an activations file: {reason}", path.display()));
        let file = InputFile::open(path).map_err(io)?;
        let map = file.map().map_err(io)?;
        let (_, metadata) = SafeTensors::read_metadata(&map).map_err(|error| bad(&error.to_string()))?;
        let model = metadata.metadata().as_ref().and_then(|fields| fields.get("model")).cloned();
        let model = model.ok_or_else(|| bad("it does not name its model"))?;
        SafeTensors::deserialize(&map).map_err(|error| bad(&error.to_string()))?;
        Ok(ActivationFile { path: path.to_owned(), stamp: file.stamp().clone(), map, model })
    }

    /// Fingerprint of the model.
    pub fn model(&self) -> &str {
        &self.model
    }

    /// All its bytes.
    pub fn contents(&self) -> &[u8] {
        &self.map
    }

    /// Whether the file is unchanged since it was opened.
    pub fn check_unchanged(&self) -> Result<(), Changed> {
        self.stamp.check()
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A tensor's bytes, if it has this dtype, and its sizes.
    fn bytes(&self, name: &str, dtype: Dtype) -> Option<(&[u8], Vec<usize>)> {
        let tensors = SafeTensors::deserialize(&self.map).ok()?;
        let tensor = tensors.tensor(name).ok().filter(|tensor| tensor.dtype() == dtype)?;
        Some((tensor.data(), tensor.shape().to_vec()))
    }

    /// The keys of the rows.
    pub(super) fn keys(&self) -> Vec<u64> {
        let bytes = self.bytes(KEYS, Dtype::U64).map_or(&[][..], |(bytes, _)| bytes);
        bytes.as_chunks::<8>().0.iter().map(|key| u64::from_le_bytes(*key)).collect()
    }

    /// The tensors, in the order of their names.
    pub(super) fn tensors(&self) -> Vec<TensorEntry> {
        let Ok(tensors) = SafeTensors::deserialize(&self.map) else { return Vec::new() };
        let names = tensors.names();
        let rows = names.iter().filter_map(|name| {
            let tensor = tensors.tensor(name).ok().filter(|tensor| tensor.dtype() == Dtype::BF16)?;
            let channels = tensor.shape().get(1).copied()?;
            let hessian = tensors.tensor(&hessian_name(name)).is_ok();
            Some(TensorEntry { name: (*name).to_owned(), channels, hessian })
        });
        let mut rows: Vec<_> = rows.collect();
        rows.sort_unstable();
        rows
    }

    pub(super) fn tensor_rows(&self, tensor: &str) -> Option<Rows> {
        let (bytes, shape) = self.bytes(tensor, Dtype::BF16)?;
        let values = bytes.as_chunks::<2>().0.iter().map(|cell| bf16::from_le_bytes(*cell).to_f32());
        Some(Rows { channels: shape.get(1).copied()?, values: values.collect() })
    }

    pub(super) fn tensor_hessian(&self, tensor: &str) -> Option<Vec<f32>> {
        let (bytes, _) = self.bytes(&hessian_name(tensor), Dtype::F32)?;
        Some(bytes.as_chunks::<4>().0.iter().map(|cell| f32::from_le_bytes(*cell)).collect())
    }
}

impl Activations for ActivationFile {
    fn rows(&self, tensor: &str) -> Option<Rows> {
        self.tensor_rows(tensor)
    }

    fn hessian(&self, tensor: &str) -> Option<Vec<f32>> {
        self.tensor_hessian(tensor)
    }
}

impl std::fmt::Debug for ActivationFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ActivationFile").field("path", &self.path).finish_non_exhaustive()
    }
}
