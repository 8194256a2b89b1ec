//! CUDA C to cubins: the files of `kernels/`, flattened units, NVRTC, and its cache.

mod cache;
mod compiler;
mod diagnostics;
mod nvrtc;
mod search;
mod source;

pub use compiler::{Built, Compiler};
pub use diagnostics::Usage;
pub use nvrtc::{Nvrtc, find};
pub use source::{Header, KERNEL_FILES, flatten};
