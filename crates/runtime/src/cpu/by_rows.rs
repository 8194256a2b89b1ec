//! Kernels that compute their output row by row: what they share, so that they are written without `unsafe`.

use plan::DType;

use super::rows::{row_tasks, task_rows};
use super::{Args, CpuKernel, RowArgs};

/// A kernel with one f32 output, of which it computes a row at a time. [`ByRows`] runs it; code generation launches it
/// as `Site::by_rows` says.
///
/// While it computes a row it has the inputs, and of the output that row alone: the others belong to other tasks. So it is
/// written without `unsafe`, and cannot name its output a second time:
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
/// Nor can it keep a tensor that it saw, here or in `check`, for tensors have no copies:
///
/// ```compile_fail,E0599
/// use runtime::cpu::{Args, Tensor};
///
/// fn kept(args: &Args) -> Tensor {
///     args.outputs[0].clone()
/// }
/// ```
///
/// What it may do compiles:
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
    /// The name by which plans know it.
    fn name(&self) -> &'static str;

    /// Whether it can run with these inputs and this output. What it accepts, `row` relies on.
    fn check(&self, args: &Args) -> Result<(), String>;

    /// Computes row `row` of the output.
    fn row(&self, args: &RowArgs<'_>, row: usize, out: &mut [f32]) -> Result<(), String>;
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

    unsafe fn run(&self, args: &Args, task: usize) -> Result<(), String> {
        let out = &args.outputs[0];
        task_rows(task, out.row_count()).try_for_each(|row| {
            // SAFETY: rows are divided between tasks, and the kernel is shown no output.
            let values = unsafe { out.write::<f32>(row * out.width()..(row + 1) * out.width())? };
            self.0.row(&args.read(), row, values)
        })
    }
}
