//! Quantization: linear layers in 8-bit and 4-bit formats. A format is a row of `format.rs`, and if it searches for
//! values, a file with its search.

mod assignment;
mod awq;
mod by_input;
mod channel_scaling;
mod cholesky;
mod format;
mod format_info;
mod gptq;
mod kv;
mod linear;
mod nearest;
mod quantize_linears;
mod reconstruction_loss;
mod rounding;
mod smoothquant;
mod static_scales;

pub use assignment::{Assignment, LinearInfo, linears};
pub use format::Format;
pub use kv::{KvMagnitudes, ScaleKv};
pub use linear::Layers;
pub use static_scales::ActivationScales;
