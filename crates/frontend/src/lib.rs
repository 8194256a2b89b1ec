//! Hugging Face checkpoints: a directory becomes a graph and lazily read weights. Knows no pass and no kernel; a
//! decoder-only model is a row of the architecture table, not code.

mod architecture;
mod blocks;
mod checkpoint;
mod config;
mod decoder;
mod json;
mod keys;
mod model_tensors;
mod options;
mod quantized;
mod report;
mod rope;
mod surplus;
mod tensors;
mod tied;
mod weight_files;
mod window;

pub use architecture::architectures;
pub use blocks::{Activation, Mlp, Norm};
pub use checkpoint::Checkpoint;
pub use config::ModelConfig;
pub use model_tensors::{EMBEDDING, HEAD};
pub use options::ImportOptions;
pub use quantized::{KvCache, KvReach};
pub use report::ImportError;
pub use rope::Rope;
