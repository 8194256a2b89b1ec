//! Kernels that compute their output row by row: what they share, so that they are written without `unsafe`.

use plan::DType;

use super::rows::{row_tasks, task_rows};
use super::{Args, CpuKernel};

/// A kernel with one f32 output, of which it computes a row at a time. [`ByRows`] runs it; code generation launches it
/// as `Site::by_rows` says.
pub trait RowKernel: Send + Sync {
    /// The name by which plans know it.
    fn name(&self) -> &'static str;

    /// Whether it can run with these inputs and this output. What it accepts, `row` relies on.
    fn check(&self, args: &Args) -> Result<(), String>;

    /// Computes row `row` of the output.
    fn row(&self, args: &Args, row: usize, out: &mut [f32]) -> Result<(), String>;
}

/// Runs a [`RowKernel`], some rows a task.
#[derive(Clone, Copy, Debug)]
pub struct ByRows<K>(pub K);

impl<K: RowKernel> CpuKernel for ByRows<K> {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn check(&self, args: &Args) -> Result<(), String> {
        args.expect_counts(args.inputs.len(), 1)?;
        args.outputs[0].expect(DType::F32)?;
        self.0.check(args)
    }

    fn tasks(&self, args: &Args) -> usize {
        row_tasks(&args.outputs[0])
    }

    fn run(&self, args: &Args, task: usize) -> Result<(), String> {
        let out = &args.outputs[0];
        task_rows(task, out.row_count()).try_for_each(|row| {
            // SAFETY: rows are divided between tasks.
            let values = unsafe { out.write::<f32>(row * out.width()..(row + 1) * out.width())? };
            self.0.row(args, row, values)
        })
    }
}
