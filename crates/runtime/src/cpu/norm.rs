//! Norms of rows or of heads, a few rows per task.

use super::rows::{row_tasks, task_rows};
use super::simd::{Element, LANES, Lanes, dispatch};
use super::{Args, CpuKernel, Tensor};
use plan::DType;

/// A norm of each row, or of each head if the weight has that width. Inputs are x, or a and b whose sum is normalized;
/// a weight; and for layer norm perhaps a bias; parameter `eps`. Outputs are the sum, if there is one, and the norm.
pub(super) struct Norm {
    name: &'static str,
    adds: bool,
    centred: bool,
}

pub(super) const RMS_NORM: Norm = Norm { name: "rms_norm", adds: false, centred: false };
pub(super) const ADD_RMS_NORM: Norm = Norm { name: "add_rms_norm", adds: true, centred: false };
pub(super) const LAYER_NORM: Norm = Norm { name: "layer_norm", adds: false, centred: true };
pub(super) const ADD_LAYER_NORM: Norm = Norm { name: "add_layer_norm", adds: true, centred: true };

impl Norm {
    /// Number of inputs, and of outputs, with the shape of x.
    fn rows(&self) -> usize {
        if self.adds { 2 } else { 1 }
    }

    fn normalize(&self, x: &[f32], factors: &Factors, out: &mut [f32]) {
        let count = x.len() as f32;
        let mut centred = x;
        if self.centred {
            let mean = sum(x) / count;
            out.iter_mut().zip(x).for_each(|(out, x)| *out = x - mean);
            centred = out;
        }
        let scale = 1.0 / (square_sum(centred) / count + factors.eps).sqrt();
        match self.centred {
            true => out.iter_mut().zip(&factors.weight).for_each(|(out, weight)| *out = *out * scale * weight),
            false => {
                let terms = x.iter().zip(&factors.weight);
                out.iter_mut().zip(terms).for_each(|(out, (x, weight))| *out = x * scale * weight);
            }
        }
        out.iter_mut().zip(&factors.bias).for_each(|(out, bias)| *out += bias);
    }
}

/// Shared by all rows.
struct Factors {
    eps: f32,
    weight: Vec<f32>,
    /// Empty if there is none.
    bias: Vec<f32>,
}

impl CpuKernel for Norm {
    fn name(&self) -> &'static str {
        self.name
    }

    fn check(&self, args: &Args) -> Result<(), String> {
        let (rows, inputs) = (self.rows(), args.inputs.len());
        let has_bias = self.centred && inputs == rows + 2;
        args.expect_counts(rows + 1 + usize::from(has_bias), rows)?;
        args.float("eps")?;
        let (shape, width) = (args.inputs[0].shape(), args.inputs[0].width());
        let size = args.inputs[rows].len();
        if size == 0 || !width.is_multiple_of(size) {
            return Err(format!("expected a weight for rows of {width} elements or for their heads, found {size}"));
        }
        args.inputs[rows..].iter().try_for_each(|factor| check_weight(factor, size))?;
        let full = args.inputs[..rows].iter().chain(&args.outputs);
        full.into_iter().try_for_each(|tensor| tensor.expect_shape(DType::F32, shape))
    }

    fn tasks(&self, args: &Args) -> usize {
        row_tasks(&args.inputs[0])
    }

    unsafe fn run(&self, args: &Args, task: usize) -> Result<(), String> {
        let (full, factors) = args.inputs.split_at(self.rows());
        let width = full[0].width();
        let widened = |factor: &Tensor| factor.widened(0..factor.len());
        let (weight, bias) = (widened(&factors[0])?, factors.get(1).map(widened).transpose()?);
        let factors = Factors { eps: args.float("eps")?, weight, bias: bias.unwrap_or_default() };
        for row in task_rows(task, full[0].row_count()) {
            let range = row * width..(row + 1) * width;
            let mut x = &full[0].floats()?[range.clone()];
            if self.adds {
                // SAFETY: rows are divided between tasks.
                let sum = unsafe { args.outputs[0].write::<f32>(range.clone())? };
                let terms = x.iter().zip(&full[1].floats()?[range.clone()]);
                sum.iter_mut().zip(terms).for_each(|(sum, (a, b))| *sum = a + b);
                x = sum;
            }
            // SAFETY: rows are divided between tasks.
            let out = unsafe { args.outputs[self.rows() - 1].write::<f32>(range)? };
            let heads = x.chunks_exact(factors.weight.len()).zip(out.chunks_exact_mut(factors.weight.len()));
            heads.for_each(|(x, out)| self.normalize(x, &factors, out));
        }
        Ok(())
    }
}

/// Whether a tensor is a norm weight, or a bias, of `width` elements.
pub(super) fn check_weight(weight: &Tensor, width: usize) -> Result<(), String> {
    match weight.shape() == [width] && weight.dtype().is_float() {
        true => Ok(()),
        false => Err(format!("expected a weight or bias of {width} elements")),
    }
}

/// RMSNorm of a row or a head.
pub(super) fn normalize(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let scale = 1.0 / (square_sum(x) / x.len() as f32 + eps).sqrt();
    for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
        *out = x * scale * weight;
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

dispatch!(
    /// The sum.
    fn sum<E: Element>(x: &[E]) -> f32 = sum_body
);

#[inline(always)]
fn sum_body<L: Lanes, E: Element>(x: &[E]) -> f32 {
    let (mut sums, one) = (L::splat(0.0), L::splat(1.0));
    let chunks = x.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        // SAFETY: a chunk has eight elements.
        sums = sums.add_product(unsafe { L::load(chunk.as_ptr()) }, one);
    }
    rest.iter().fold(sums.sum(), |sum, value| sum + value.widen())
}
