//! Fusions: several ops become one that reads and writes memory once.

mod add_layer_norm;
mod add_rms_norm;
mod elementwise;
mod linear_activation;
mod linear_add;
mod linear_quantize;
mod linear_swiglu;
mod merge_linears;
mod norm_linear;
mod norm_quantize;
mod rope_append_kv;
mod rope_attention;
mod silu_mul;
mod swiglu;

pub use add_layer_norm::FuseAddLayerNorm;
pub use add_rms_norm::FuseAddRmsNorm;
pub use elementwise::FuseElementwise;
pub use linear_activation::FuseLinearActivation;
pub use linear_add::FuseLinearAdd;
pub use linear_quantize::FuseLinearQuantize;
pub use linear_swiglu::FuseLinearSwiglu;
pub use merge_linears::MergeLinears;
pub use norm_linear::FuseNormLinear;
pub use norm_quantize::FuseNormQuantize;
pub use rope_append_kv::FuseRopeAppendKv;
pub use rope_attention::FuseRopeAttention;
pub use silu_mul::FuseSiluMul;
pub use swiglu::FuseSwiglu;
