//! Root-mean-square norms, a few rows a task.

use super::rows::{row_tasks, task_rows};
use super::simd::{Element, LANES, Lanes, dispatch};
use super::{Args, CpuKernel};
use plan::DType;

/// Inputs x and gain, parameter `eps`.
pub(super) struct RmsNorm;
/// Inputs a, b and gain, parameter `eps`; outputs the sum and its norm.
pub(super) struct AddRmsNorm;

fn check_gain(args: &Args, gain: usize) -> Result<(), String> {
    args.float("eps")?;
    let gain = &args.inputs[gain];
    let width = args.inputs[0].width();
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
        check_gain(args, 1)?;
        args.inputs[0].expect(DType::F32)?;
        args.outputs[0].expect_shape(DType::F32, args.inputs[0].shape())
    }

    fn tasks(&self, args: &Args) -> usize {
        row_tasks(&args.inputs[0])
    }

    fn run(&self, args: &Args, task: usize) -> Result<(), String> {
        let (x, width, eps) = (args.inputs[0].floats()?, args.inputs[0].width(), args.float("eps")?);
        let gain = args.inputs[1].widened(0..width)?;
        for row in task_rows(task, args.inputs[0].row_count()) {
            let range = row * width..(row + 1) * width;
            // SAFETY: rows are divided between tasks.
            let out = unsafe { args.outputs[0].write::<f32>(range.clone())? };
            normalize(&x[range], &gain, eps, out);
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
        check_gain(args, 2)?;
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

fn normalize(x: &[f32], gain: &[f32], eps: f32, out: &mut [f32]) {
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
