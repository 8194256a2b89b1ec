//! From requests to steps: tokens in, tokens out. Manages the blocks of the KV cache, packs prompt chunks and decode
//! tokens into steps, and selects the smallest program that fits. Knows no text and no compiler.

mod core;
mod engine;
mod profile;
mod request;
mod step;

pub use core::{Policy, Settings, Stats};
pub use engine::{Engine, EngineError, Event};
pub use profile::{ProfiledSequence, ProfiledStep};
pub use request::{FinishReason, GenerationParams, Request, RequestId};
