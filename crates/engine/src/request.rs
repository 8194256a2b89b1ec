//! What callers ask for.

use std::time::Duration;

/// Identifies a request of one engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// A generation request.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Request {
    /// Prompt token ids.
    pub prompt: Vec<u32>,
    /// How to generate.
    pub params: GenerationParams,
    /// From 0, the default, which goes first, to 7.
    pub priority: u8,
    /// How long it may take in all: no step that begins later computes anything for it.
    pub timeout: Option<Duration>,
}

/// Generation parameters. Sampling is greedy: the most likely token, the lowest id on a tie.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerationParams {
    /// Maximum number of tokens to generate.
    pub max_tokens: u32,
    /// Whether to continue after stop tokens.
    pub ignore_eos: bool,
    /// Whether to return logits of every position: prompt positions, then one row per generated token.
    pub logits: bool,
}

impl Default for GenerationParams {
    fn default() -> GenerationParams {
        GenerationParams { max_tokens: 128, ignore_eos: false, logits: false }
    }
}

/// Why a sequence ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// It generated a stop token.
    Stop,
    /// It generated the maximum number of tokens.
    Length,
    /// The caller ended it.
    Cancelled,
    /// Its time was over.
    Timeout,
}

impl FinishReason {
    /// The word of OpenAI's API, which has none for the last two.
    pub fn name(self) -> &'static str {
        match self {
            FinishReason::Stop => "stop",
            FinishReason::Length => "length",
            FinishReason::Cancelled => "cancelled",
            FinishReason::Timeout => "timeout",
        }
    }
}
