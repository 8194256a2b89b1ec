//! Requests to steps: tokens in, tokens out. Keeps the blocks of the KV cache, packs prompt chunks and single tokens
//! into steps, and picks the program that fits. Knows no text and no compiler.

mod blocks;
mod engine;
mod profile;
mod sequence;
mod step;

pub use blocks::BlockPool;
pub use engine::{Engine, EngineError, Event};
pub use profile::{ProfiledSequence, ProfiledStep};
pub use sequence::{FinishReason, GenerationParams, Request, RequestId};
