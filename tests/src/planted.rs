//! A Llama checkpoint with activation channels 128 times as large, and the matching weights scaled down: the same model
//! bit for bit, but harder to quantize.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use half::bf16;
use serde_json::Value;

/// A power of two, by which bf16 is multiplied exactly.
const BY: f32 = 128.0;

/// Copies a bf16 checkpoint to `out`, with outliers after both norms of every layer, before `down_proj` and before
/// `o_proj`.
pub fn plant_outliers(model: &Path, out: &Path) -> Result<(), String> {
    let read = |name: &str| fs::read(model.join(name)).map_err(|error| format!("{name}: {error}"));
    let config: Value = serde_json::from_slice(&read("config.json")?).map_err(|error| error.to_string())?;
    let number = |name: &str| config[name].as_u64().map(|value| value as usize).ok_or(format!("config: no {name}"));
    let mut weights = Weights::parse(read("model.safetensors")?)?;
    let (heads, kv_heads, head_dim) =
        (number("num_attention_heads")?, number("num_key_value_heads")?, number("head_dim")?);
    let (hidden, intermediate) = (number("hidden_size")?, number("intermediate_size")?);
    for layer in 0..number("num_hidden_layers")? {
        let key = |name: &str| format!("model.layers.{layer}.{name}.weight");
        // another channel in each layer
        let channel = (37 * (layer + 1)) % hidden;
        let up = (101 * (layer + 1)) % intermediate;
        let (kv_head, dim) = (layer % kv_heads, (5 * layer + 6) % head_dim);
        weights.scale(&key("input_layernorm"), |_, at| at == channel, BY)?;
        for name in ["q_proj", "k_proj", "v_proj"] {
            weights.scale(&key(&format!("self_attn.{name}")), |_, col| col == channel, 1.0 / BY)?;
        }
        weights.scale(&key("post_attention_layernorm"), |_, at| at == channel, BY)?;
        for name in ["gate_proj", "up_proj"] {
            weights.scale(&key(&format!("mlp.{name}")), |_, col| col == channel, 1.0 / BY)?;
        }
        weights.scale(&key("mlp.up_proj"), |row, _| row == up, BY)?;
        weights.scale(&key("mlp.down_proj"), |_, col| col == up, 1.0 / BY)?;
        weights.scale(&key("self_attn.v_proj"), |row, _| row == kv_head * head_dim + dim, BY)?;
        // all heads that share the values
        let reads = |col: usize| col / head_dim / (heads / kv_heads) == kv_head && col % head_dim == dim;
        weights.scale(&key("self_attn.o_proj"), |_, col| reads(col), 1.0 / BY)?;
    }
    fs::create_dir_all(out).map_err(|error| error.to_string())?;
    for name in ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"] {
        fs::copy(model.join(name), out.join(name)).map_err(|error| format!("{name}: {error}"))?;
    }
    fs::write(out.join("model.safetensors"), &weights.bytes).map_err(|error| error.to_string())
}

/// A file of tensors: 8 bytes of length, a header of JSON, and the data.
struct Weights {
    bytes: Vec<u8>,
    header: HashMap<String, Value>,
    data: usize,
}

impl Weights {
    fn parse(bytes: Vec<u8>) -> Result<Weights, String> {
        let length = bytes.first_chunk::<8>().map(|length| u64::from_le_bytes(*length) as usize);
        let data = 8 + length.ok_or("no safetensors file")?;
        let header = bytes.get(8..data).ok_or("no safetensors file")?;
        let header = serde_json::from_slice(header).map_err(|error| error.to_string())?;
        Ok(Weights { bytes, header, data })
    }

    /// Multiplies the elements of a matrix, or of one row, that are chosen by row and column.
    fn scale(&mut self, key: &str, chosen: impl Fn(usize, usize) -> bool, by: f32) -> Result<(), String> {
        let tensor = self.header.get(key).ok_or_else(|| format!("there is no tensor `{key}`"))?;
        let numbers = |name: &str| -> Vec<usize> {
            let numbers = tensor[name].as_array().into_iter().flatten();
            numbers.filter_map(|value| value.as_u64().map(|value| value as usize)).collect()
        };
        let (shape, place) = (numbers("shape"), numbers("data_offsets"));
        let dtype = tensor["dtype"].as_str().unwrap_or_default();
        let (Some(width), &[start, end], "BF16") = (shape.last(), &place[..], dtype) else {
            return Err(format!("`{key}`: expected a tensor of bf16"));
        };
        let data = self.bytes.get_mut(self.data + start..self.data + end).ok_or("the file is truncated")?;
        for (index, cell) in data.as_chunks_mut::<2>().0.iter_mut().enumerate() {
            if chosen(index / width, index % width) {
                *cell = bf16::from_f32(bf16::from_le_bytes(*cell).to_f32() * by).to_le_bytes();
            }
        }
        Ok(())
    }
}
