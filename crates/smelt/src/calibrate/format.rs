//! The layout of an activations file: names of tensors, and their offsets, which are known before any is computed.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

/// The tensor that says which tokens the rows are of.
pub(super) const KEYS: &str = "keys";

/// The name of a Hessian.
pub(super) fn hessian_name(tensor: &str) -> String {
    format!("{tensor}.hessian")
}

/// A tensor whose rows are kept.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct TensorEntry {
    pub name: String,
    pub channels: usize,
    /// Whether its Hessian is kept, too.
    pub hessian: bool,
}

/// The layout of a file.
pub(super) struct Layout {
    /// What precedes the data.
    pub header: Vec<u8>,
    /// Offset and length in the file, by name.
    pub places: BTreeMap<String, (u64, u64)>,
    /// Size of the file.
    pub bytes: u64,
}

/// A tensor as safetensors has it.
struct Stored {
    name: String,
    dtype: &'static str,
    shape: [usize; 2],
}

impl Stored {
    fn bytes(&self) -> u64 {
        let bytes = match self.dtype {
            "BF16" => 2,
            "F32" => 4,
            _ => 8,
        };
        bytes * self.shape.iter().product::<usize>() as u64
    }
}

impl Layout {
    /// A file with this many rows of each tensor.
    pub fn of(model: &str, rows: usize, tensors: &[TensorEntry]) -> Layout {
        let mut stored = vec![Stored { name: KEYS.to_owned(), dtype: "U64", shape: [rows, 1] }];
        // 8-byte elements first, then 4, then 2: everything is aligned
        stored.extend(tensors.iter().filter(|tensor| tensor.hessian).map(|tensor| Stored {
            name: hessian_name(&tensor.name),
            dtype: "F32",
            shape: [tensor.channels, tensor.channels],
        }));
        stored.extend(tensors.iter().map(|tensor| Stored {
            name: tensor.name.clone(),
            dtype: "BF16",
            shape: [rows, tensor.channels],
        }));
        let mut fields = Map::new();
        fields.insert("__metadata__".to_owned(), json!({ "model": model }));
        let mut end = 0;
        let mut places = BTreeMap::new();
        for tensor in &stored {
            let start = end;
            end += tensor.bytes();
            let field = json!({ "dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [start, end] });
            fields.insert(tensor.name.clone(), field);
            places.insert(tensor.name.clone(), (start, tensor.bytes()));
        }
        let mut text = Value::Object(fields).to_string().into_bytes();
        text.resize(text.len().next_multiple_of(8), b' ');
        let header = [&(text.len() as u64).to_le_bytes()[..], &text].concat();
        let data = header.len() as u64;
        places.values_mut().for_each(|(start, _)| *start += data);
        Layout { header, places, bytes: data + end }
    }
}
