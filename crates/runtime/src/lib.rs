//! Plans on devices. Knows nothing of graphs and of how a plan came to be.

pub mod cpu;
pub mod cuda;
mod trace;

pub use cpu::CpuExecutor;
pub use cuda::CudaExecutor;
pub use trace::{TraceExecutor, trace};
