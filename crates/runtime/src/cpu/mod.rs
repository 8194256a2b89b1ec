//! Plans on a CPU: kernels in Rust that read narrow weights directly, and sum in an order that depends neither on the
//! number of rows nor on the number of threads. A token's logits are the same bits in any batch.

mod args;
mod attention;
mod bandwidth;
mod by_rows;
#[cfg(test)]
mod edges;
mod executor;
mod finite;
mod linear;
mod map;
mod memory;
mod norm;
mod place;
mod rope;
mod rows;
mod scales;
mod simd;
mod weights;

/// Whether the kernels are compiled with optimization. Without, they are some hundred times slower.
pub const OPTIMIZED: bool = !matches!(env!("SMELT_KERNEL_OPT_LEVEL").as_bytes(), b"0" | b"1");

pub use args::{Args, KvLayer, RowArgs, Tensor};
pub use bandwidth::read_bandwidth;
pub use by_rows::{ByRows, RowKernel};
pub use executor::CpuExecutor;
pub use memory::available as available_memory;
pub use simd::instruction_set;

use plan::Kernel;

/// A kernel of the CPU. Tasks of one launch run in any order and at the same time: each writes its own elements.
pub trait CpuKernel: Send + Sync {
    /// Its name in plans.
    fn name(&self) -> &'static str;

    /// The kernel with the configuration of a plan, if it has any: parsed once, when the plan is loaded.
    fn configured(&self, kernel: &Kernel) -> Result<Option<Box<dyn CpuKernel>>, String> {
        let _ = kernel;
        Ok(None)
    }

    /// Whether it supports these arguments: their number, dtypes and shapes. `run` relies on it.
    fn check(&self, args: &Args) -> Result<(), String>;

    /// The number of tasks for arguments that `check` accepts. A plan with another number is refused.
    fn tasks(&self, args: &Args) -> usize;

    /// Runs one of the tasks.
    ///
    /// # Safety
    /// `check` has accepted the arguments, `task` is below `tasks`, and no other call for this launch is given the same
    /// task at the same time. Nothing but tasks of this launch touches its outputs meanwhile.
    unsafe fn run(&self, args: &Args, task: usize) -> Result<(), String>;
}

/// The kernels of smelt.
pub(crate) fn kernels() -> Vec<Box<dyn CpuKernel>> {
    vec![
        Box::new(linear::Linear::default()),
        Box::new(scales::Quantize),
        Box::new(scales::QuantizeBlocks),
        Box::new(attention::PagedAttention),
        Box::new(rope::RopeAppendKv),
        Box::new(rope::AppendKv),
        Box::new(rope::Rope),
        Box::new(norm::RMS_NORM),
        Box::new(norm::ADD_RMS_NORM),
        Box::new(norm::LAYER_NORM),
        Box::new(norm::ADD_LAYER_NORM),
        Box::new(rows::Embedding),
        Box::new(rows::GatherRows),
        Box::new(rows::Argmax),
        Box::new(rows::Split),
        Box::new(ByRows(rows::Swiglu)),
        Box::new(map::Map::default()),
    ]
}
