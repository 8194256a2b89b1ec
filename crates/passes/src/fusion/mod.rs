//! Fusions: several ops become one that reads and writes memory once.

mod add_rms_norm;
mod elementwise;
mod merge_linears;
mod rope_append_kv;
mod silu_mul;
mod swiglu;

pub use add_rms_norm::FuseAddRmsNorm;
pub use elementwise::FuseElementwise;
pub use merge_linears::MergeLinears;
pub use rope_append_kv::FuseRopeAppendKv;
pub use silu_mul::FuseSiluMul;
pub use swiglu::FuseSwiglu;
