//! Streaming writer of a safetensors file: sizes are known before bytes are.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use codegen::{CodegenError, WriteError};
use ir::WeightSource;
use plan::PlanError;
use serde_json::{Map, Value, json};

use super::tensors::{Content, Exported, Tensor};
use crate::{Error, Progress};

impl Exported {
    /// Writes all tensors; returns the size of the file.
    pub fn write(&self, path: &Path, weights: &dyn WeightSource, progress: &mut dyn Progress) -> Result<u64, Error> {
        let mut tensors: Vec<&Tensor> = self.tensors.iter().collect();
        // wide elements first: each is then aligned
        tensors.sort_by_key(|tensor| (std::cmp::Reverse(width(tensor.dtype)), tensor.name.as_str()));
        let header = header(&tensors);
        let total: u64 = tensors.iter().map(|tensor| tensor.content.bytes()).sum();
        let io = |error| Error::Io { path: path.to_owned(), error };
        let mut file = BufWriter::new(File::create(path).map_err(io)?);
        file.write_all(&(header.len() as u64).to_le_bytes()).map_err(io)?;
        file.write_all(&header).map_err(io)?;
        let mut written = 0;
        for tensor in tensors {
            match &tensor.content {
                Content::Bytes(bytes) => file.write_all(bytes).map_err(io)?,
                Content::Recipe { recipe, flip } => {
                    let done = recipe.chunks(weights, &mut |chunk| {
                        chunk.iter_mut().for_each(|byte| *byte ^= flip);
                        let written = file.write_all(chunk);
                        Ok(written.map_err(|error| PlanError::Io { path: path.to_owned(), error })?)
                    });
                    done.map_err(|error: WriteError| Error::from(CodegenError::from(error)))?;
                }
            }
            written += tensor.content.bytes();
            progress.weights(written, total);
        }
        file.flush().map_err(io)?;
        Ok(8 + header.len() as u64 + total)
    }
}

/// Bytes per element.
fn width(dtype: &str) -> u64 {
    match dtype {
        "I64" => 8,
        "F32" | "I32" => 4,
        "F16" | "BF16" => 2,
        _ => 1,
    }
}

/// Names, types and offsets, padded to whole words.
fn header(tensors: &[&Tensor]) -> Vec<u8> {
    let mut header = Map::new();
    header.insert("__metadata__".to_owned(), json!({ "format": "pt" }));
    let mut start = 0;
    for tensor in tensors {
        let end = start + tensor.content.bytes();
        let place: Value = json!({ "dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [start, end] });
        header.insert(tensor.name.clone(), place);
        start = end;
    }
    let mut text = Value::Object(header).to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    text
}
