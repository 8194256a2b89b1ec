//! Kernels that compute their output row by row: shared code, so that they need no `unsafe`.

use plan::DType;

use super::rows::{row_tasks, task_rows};
use super::{Args, CpuKernel, RowArgs};

/// A kernel with one f32 output that computes one row at a time. [`ByRows`] runs it; code generation launches it with
/// `Site::by_rows`.
///
/// While it computes a row it has the inputs, and only that row of the output: the others belong to other tasks. So it
/// is written without `unsafe`, and cannot access its output in another way:
///
/// ```compile_fail,E0609
/// use runtime::cpu::{Args, RowArgs, RowKernel};
///
/// struct LooksAtItsOutput;
///
/// impl RowKernel for LooksAtItsOutput {
///     fn name(&self) -> &'static str {
///         "swiglu"
///     }
///
///     fn check(&self, _: &Args) -> Result<(), String> {
///         Ok(())
///     }
///
///     fn row(&self, args: &RowArgs<'_>, row: usize, out: &mut [f32]) -> Result<(), String> {
///         out[0] = args.outputs[0].row(row)?[0] + 1.0;
///         Ok(())
///     }
/// }
/// ```
///
/// Nor can it keep a tensor from here or from `check`, since tensors cannot be cloned:
///
/// ```compile_fail,E0599
/// use runtime::cpu::{Args, Tensor};
///
/// fn kept(args: &Args) -> Tensor {
///     args.outputs[0].clone()
/// }
/// ```
///
/// This compiles:
///
/// ```
/// use runtime::cpu::{Args, RowArgs, RowKernel};
///
/// struct Twice;
///
/// impl RowKernel for Twice {
///     fn name(&self) -> &'static str {
///         "twice"
///     }
///
///     fn check(&self, args: &Args) -> Result<(), String> {
///         args.expect_counts(1, 1)?;
///         args.inputs[0].expect_shape(plan::DType::F32, args.outputs[0].shape())
///     }
///
///     fn row(&self, args: &RowArgs<'_>, row: usize, out: &mut [f32]) -> Result<(), String> {
///         out.iter_mut().zip(args.inputs[0].row(row)?).for_each(|(out, x)| *out = 2.0 * x);
///         Ok(())
///     }
/// }
/// ```
pub trait RowKernel: Send + Sync {
    /// Its name in plans.
    fn name(&self) -> &'static str;

    /// Whether it supports these inputs and this output. `row` relies on it.
    fn check(&self, args: &Args) -> Result<(), String>;

    /// Computes row `row` of the output.
    fn row(&self, args: &RowArgs<'_>, row: usize, out: &mut [f32]) -> Result<(), String>;
}

/// Runs a [`RowKernel`], some rows per task.
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

    unsafe fn run(&self, args: &Args, task: usize) -> Result<(), String> {
        let out = &args.outputs[0];
        task_rows(task, out.row_count()).try_for_each(|row| {
            // SAFETY: rows are divided between tasks, and the kernel has no other access to the output.
            let values = unsafe { out.write::<f32>(row * out.width()..(row + 1) * out.width())? };
            self.0.row(&args.read(), row, values)
        })
    }
}
