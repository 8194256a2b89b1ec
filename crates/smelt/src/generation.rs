//! Prompts, and what is generated from them.

use std::time::Instant;

use engine::FinishReason;
use serde::Serialize;

/// A prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prompt {
    /// Text, for models with a tokenizer.
    Text(String),
    /// Token ids.
    Tokens(Vec<u32>),
}

impl From<&str> for Prompt {
    fn from(text: &str) -> Prompt {
        Prompt::Text(text.to_owned())
    }
}

impl From<Vec<u32>> for Prompt {
    fn from(ids: Vec<u32>) -> Prompt {
        Prompt::Tokens(ids)
    }
}

/// What was generated from one prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct Generation {
    /// The prompt as tokens.
    pub prompt_ids: Vec<u32>,
    /// Generated tokens; the last may be a stop token.
    pub token_ids: Vec<u32>,
    /// Their text, for models with a tokenizer.
    pub text: Option<String>,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// If requested: `[positions, vocab]`, one row per prompt position, then one per generated token.
    pub logits: Vec<f32>,
}

/// Times in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct GenerateTimings {
    /// From the plan file to the first possible step.
    #[serde(serialize_with = "rounded")]
    pub load_ms: f64,
    /// From the request to its first token.
    #[serde(serialize_with = "rounded")]
    pub prefill_ms: f64,
    /// From the first token to the last.
    #[serde(serialize_with = "rounded")]
    pub decode_ms: f64,
    /// Tokens after the first, divided by `decode_ms`; zero if there are none.
    #[serde(serialize_with = "rounded")]
    pub decode_tokens_per_s: f64,
}

/// To a thousandth: more digits are noise.
fn rounded<S: serde::Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64((value * 1e3).round() / 1e3)
}

/// The times of requests that generated this many tokens after their first one.
pub(crate) fn timings(start: Instant, first: Instant, end: Instant, tokens: usize) -> GenerateTimings {
    let decode_ms = end.duration_since(first).as_secs_f64() * 1e3;
    let later = tokens.saturating_sub(1);
    let decode_tokens_per_s = if later > 0 { later as f64 / (decode_ms / 1e3) } else { 0.0 };
    let prefill_ms = first.duration_since(start).as_secs_f64() * 1e3;
    GenerateTimings { load_ms: 0.0, prefill_ms, decode_ms, decode_tokens_per_s }
}
