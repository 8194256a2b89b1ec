//! Executors: plans on devices. Knows neither graphs nor how a plan was made.

pub mod cpu;
pub mod cuda;
mod trace;

pub use cpu::CpuExecutor;
pub use cuda::CudaExecutor;
pub use trace::{TraceExecutor, trace};
