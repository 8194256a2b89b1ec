//! Root-mean-square norms of rows or of their heads, a few rows a task.

use super::rows::{row_tasks, task_rows};
use super::simd::{Element, LANES, Lanes, dispatch};
use super::{Args, CpuKernel, Tensor};
use plan::DType;

/// Inputs x and gain, parameter `eps`; a gain shorter than a row is that of each head.
pub(super) struct RmsNorm;
/// Inputs a, b and gain, parameter `eps`; outputs the sum and its norm.
pub(super) struct AddRmsNorm;

/// Whether a tensor is a gain of `width` elements.
pub(super) fn check_gain(gain: &Tensor, width: usize) -> Result<(), String> {
    match gain.shape() == [width] && gain.dtype().is_float() {
        true => Ok(()),
        false => Err(format!("expected a gain of {width} elements")),
    }
}

impl CpuKernel for RmsNorm {
    fn name(&self) -> &'static str {
        "rms_norm"
    }

    fn check(&self, args: &Args) -> Result<(), String> {
        args.expect_counts(2, 1)?;
        args.float("eps")?;
        let (width, size) = (args.inputs[0].width(), args.inputs[1].len());
        if size == 0 || !width.is_multiple_of(size) {
            return Err(format!("expected a gain for rows of {width} elements or for heads of them, found {size}"));
        }
        check_gain(&args.inputs[1], size)?;
        args.inputs[0].expect(DType::F32)?;
        args.outputs[0].expect_shape(DType::F32, args.inputs[0].shape())
    }

    fn tasks(&self, args: &Args) -> usize {
        row_tasks(&args.inputs[0])
    }

    fn run(&self, args: &Args, task: usize) -> Result<(), String> {
        let (x, width, eps) = (args.inputs[0].floats()?, args.inputs[0].width(), args.float("eps")?);
        let gain = args.inputs[1].widened(0..args.inputs[1].len())?;
        for row in task_rows(task, args.inputs[0].row_count()) {
            let range = row * width..(row + 1) * width;
            // SAFETY: rows are divided between tasks.
            let out = unsafe { args.outputs[0].write::<f32>(range.clone())? };
            let heads = x[range].chunks_exact(gain.len()).zip(out.chunks_exact_mut(gain.len()));
            heads.for_each(|(x, out)| normalize(x, &gain, eps, out));
        }
        Ok(())
    }
}

impl CpuKernel for AddRmsNorm {
    fn name(&self) -> &'static str {
        "add_rms_norm"
    }

    fn check(&self, args: &Args) -> Result<(), String> {
        args.expect_counts(3, 2)?;
        args.float("eps")?;
        check_gain(&args.inputs[2], args.inputs[0].width())?;
        let shape = args.inputs[0].shape();
        args.inputs[0].expect(DType::F32)?;
        args.inputs[1].expect_shape(DType::F32, shape)?;
        args.outputs.iter().try_for_each(|out| out.expect_shape(DType::F32, shape))
    }

    fn tasks(&self, args: &Args) -> usize {
        row_tasks(&args.inputs[0])
    }

    fn run(&self, args: &Args, task: usize) -> Result<(), String> {
        let (a, b) = (args.inputs[0].floats()?, args.inputs[1].floats()?);
        let (width, eps) = (args.inputs[0].width(), args.float("eps")?);
        let gain = args.inputs[2].widened(0..width)?;
        for row in task_rows(task, args.inputs[0].row_count()) {
            let range = row * width..(row + 1) * width;
            // SAFETY: rows are divided between tasks.
            let sum = unsafe { args.outputs[0].write::<f32>(range.clone())? };
            for ((sum, a), b) in sum.iter_mut().zip(&a[range.clone()]).zip(&b[range.clone()]) {
                *sum = a + b;
            }
            // SAFETY: rows are divided between tasks.
            let out = unsafe { args.outputs[1].write::<f32>(range)? };
            normalize(sum, &gain, eps, out);
        }
        Ok(())
    }
}

/// Norms a row or a head.
pub(super) fn normalize(x: &[f32], gain: &[f32], eps: f32, out: &mut [f32]) {
    let scale = 1.0 / (square_sum(x) / x.len() as f32 + eps).sqrt();
    for ((out, x), gain) in out.iter_mut().zip(x).zip(gain) {
        *out = x * scale * gain;
    }
}

dispatch!(
    /// The sum of squares.
    fn square_sum<E: Element>(x: &[E]) -> f32 = square_sum_body
);

#[inline(always)]
fn square_sum_body<L: Lanes, E: Element>(x: &[E]) -> f32 {
    let mut sums = L::splat(0.0);
    let chunks = x.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        // SAFETY: a chunk has eight elements.
        let values = unsafe { L::load(chunk.as_ptr()) };
        sums = sums.add_product(values, values);
    }
    rest.iter().fold(sums.sum(), |sum, value| sum + value.widen() * value.widen())
}
