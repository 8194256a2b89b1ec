//! Options of the importer.

use plan::DType;

use crate::ImportError;

/// Types and bounds of the imported graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportOptions {
    /// Type that weights are cast to, if they are stored in another.
    pub weights: DType,
    /// Type of activations, the inputs of matrix products. The residual stream is f32.
    pub activations: DType,
    /// Type of the KV cache.
    pub kv: DType,
    /// Tokens of a KV block.
    pub block_tokens: u32,
    /// Packed tokens per step, the bound of `T`.
    pub max_num_tokens: u32,
    /// Sequences per step, the bound of `B`.
    pub max_batch_size: u32,
    /// Rows per step whose logits are computed, the bound of `R`.
    pub max_logit_rows: u32,
    /// Tokens per sequence.
    pub max_seq_len: u32,
    /// Ids below this may be sampled, for vocabularies that are padded past their tokenizer. `None`, or more than the
    /// vocabulary: all of it.
    pub sampled_ids: Option<u32>,
}

impl ImportOptions {
    pub(crate) fn check(&self) -> Result<(), ImportError> {
        let mut problems = Vec::new();
        if !self.kv.is_float() && !matches!(self.kv, DType::I8 | DType::F8E4M3) {
            problems.push(format!("the dtype of kv is {}, expected f32, f16, bf16, i8 or f8e4m3", self.kv));
        }
        for (name, dtype) in [("weights", self.weights), ("activations", self.activations)] {
            if !dtype.is_float() {
                problems.push(format!("the dtype of {name} is {dtype}, expected f32, f16 or bf16"));
            }
        }
        let sizes = [
            ("block_tokens", self.block_tokens),
            ("max_num_tokens", self.max_num_tokens),
            ("max_batch_size", self.max_batch_size),
            ("max_logit_rows", self.max_logit_rows),
            ("max_seq_len", self.max_seq_len),
            ("sampled_ids", self.sampled_ids.unwrap_or(1)),
        ];
        for (name, _) in sizes.into_iter().filter(|(_, size)| *size == 0) {
            problems.push(format!("`{name}` is 0, expected at least 1"));
        }
        if problems.is_empty() { Ok(()) } else { Err(ImportError::BadInput(problems)) }
    }
}
