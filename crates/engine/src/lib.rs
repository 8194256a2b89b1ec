//! From requests to steps: tokens in, tokens out. Manages the blocks of the KV cache, packs prompt chunks and decode
//! tokens into steps, and selects the smallest program that fits. Knows no text and no compiler.

mod blocks;
mod engine;
mod profile;
mod sequence;
mod step;

pub use blocks::BlockPool;
pub use engine::{Engine, EngineError, Event};
pub use profile::{ProfiledSequence, ProfiledStep};
pub use sequence::{FinishReason, GenerationParams, Request, RequestId};
