//! Why a tokenizer did not load, or text and tokens could not be turned into each other.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// What can go wrong with text.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    /// The file is not a tokenizer, or not a consistent one.
    #[error("bad tokenizer: {0}; expected a tokenizer.json as Hugging Face `tokenizers` writes it")]
    Tokenizer(String),
    /// The tokenizer has no tokens for this text.
    #[error("the tokenizer cannot encode this text: {0}")]
    Encode(String),
    /// The tokenizer's decoder refused these tokens.
    #[error("the tokenizer cannot decode these tokens: {0}")]
    Decode(String),
}

/// Runs a piece of the `tokenizers` crate, which asserts some of what it should check: a template that names an unknown
/// special token panics when it first encodes, a stripping decoder when it meets an empty token. A bad file must not
/// end the process.
pub(crate) fn guarded<T>(work: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err("its parts contradict each other".to_owned()),
    }
}
