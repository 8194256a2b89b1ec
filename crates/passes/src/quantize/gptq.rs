//! 4-bit weights, rounded column by column so that each compensates the output error of the previous ones. (GPTQ, arXiv
//! 2210.17323.)
//!
//! With `H` the mean of `x x^T`, a row `w` that is quantized to `q` has the mean square error `e^T H e`, `e = w - q`.
//! That is the square of `L^T e` for `H = L L^T`. Columns are rounded from the last to the first: entry `i` of `L^T e`
//! then depends only on known values and on `q_i`, which minimizes it. This is equivalent to the paper's use of the
//! inverse of `H`, with a single factorization. The columns with the largest activations are ordered last, and so
//! rounded first; groups are of columns in their original order, so that nothing is permuted at run time.

use ir::ops::Constant;
use ir::scale_of;
use ir::{DType, Graph, HostTensor, OpId, Patch, TensorType};
use rayon::prelude::*;

use super::by_input::{hessian, members, weights};
use super::cholesky::cholesky;
use super::format_info::InputGroup;
use super::linear::{QuantizedValue, over_quantized};
use super::nearest::GROUP;
use super::rounding::{absmax, dot, integer};
use crate::{PassContext, PassError};

/// Damping: this share of the mean of the diagonal is added to each diagonal entry. Directions that the sample hardly
/// has would otherwise be unconstrained.
const DAMPING: f64 = 0.01;
/// Rows that are rounded together: each row of the factor is read once for all of them.
const ROWS: usize = 16;
/// Scales to try per group, from that of the largest magnitude down to half of it.
const SCALES: usize = 10;

/// 4-bit weights by GPTQ.
pub(super) fn quantize(graph: &mut Graph, group: &InputGroup<'_>) -> Result<(), PassError> {
    let planes = Planes::of(&hessian(graph, group.ctx, group.x)?).ok_or_else(|| {
        let name = graph.value_name(group.x);
        PassError::Input(format!("the calibration's activations of `{name}` are all zeros, or not finite"))
    })?;
    for linear in members(graph, group.layers, group.x) {
        let matrix = weights(graph, group.ctx, &[linear])?.remove(0);
        let patch = replaced(graph, group.ctx, linear, &planes.round(&matrix))?;
        graph.apply("gptq", linear, patch)?;
    }
    Ok(())
}

/// The quantized matrix, and the scales of its groups.
struct Rounded {
    codes: Vec<f32>,
    scales: Vec<f32>,
}

/// The quantized linear layer, stored with the weights.
fn replaced(graph: &Graph, ctx: &PassContext<'_>, linear: OpId, rounded: &Rounded) -> Result<Patch, PassError> {
    let name = graph.value_name(graph.result(linear));
    let shape = graph.tensor(graph.operands(linear)[1]).and_then(TensorType::const_shape);
    let Some([outputs, inputs]) = shape.and_then(|shape| <[u64; 2]>::try_from(shape).ok()) else {
        return Err(PassError::Other(format!("`{name}`: expected a matrix of constant sizes")));
    };
    let mut patch = Patch::new();
    let mut constant = |suffix: &str, dtype: DType, columns: u64, values: &[f32]| {
        let key = format!("{name}.{suffix}");
        ctx.weights.add(&key, dtype, values);
        patch.add(graph, Constant { key, ty: TensorType { dtype, shape: vec![outputs.into(), columns.into()] } }, &[])
    };
    let codes = constant("codes", DType::I4, inputs, &rounded.codes);
    let scale = constant("scale", DType::F32, inputs.div_ceil(GROUP.into()), &rounded.scales);
    over_quantized(graph, linear, &mut patch, None, QuantizedValue { codes, scale, zero_point: None })
        .ok_or_else(|| PassError::Other(format!("`{name}`: expected a linear layer")))?;
    Ok(patch)
}

/// The factor of `H`, with columns ordered by its diagonal.
struct Planes {
    /// The column at each position.
    order: Vec<usize>,
    /// Row `i` has `L[k][i] / L[i][i]` for each position `k` after `i`.
    unit: Vec<f32>,
    /// `L[i][i]`.
    pivots: Vec<f64>,
    /// The damping of the diagonal.
    damping: f64,
    /// The diagonal, by column.
    importance: Vec<f32>,
}

impl Planes {
    fn of(hessian: &[f32]) -> Option<Planes> {
        let size = hessian.len().isqrt();
        let importance: Vec<f32> = (0..size).map(|at| hessian[at * size + at]).collect();
        let mean = importance.iter().map(|value| f64::from(*value)).sum::<f64>() / size as f64;
        let damping = if mean > 0.0 { DAMPING * mean } else { 1.0 };
        let mut order: Vec<usize> = (0..size).collect();
        order.sort_by(|a, b| importance[*a].total_cmp(&importance[*b]));
        let mut factor: Vec<f64> = Vec::with_capacity(size * size);
        for row in &order {
            factor.extend(order.iter().map(|col| f64::from(hessian[row * size + col])));
        }
        (0..size).for_each(|at| factor[at * size + at] += damping);
        cholesky(&mut factor, size)?;
        let pivots: Vec<f64> = (0..size).map(|at| factor[at * size + at]).collect();
        let mut unit = vec![0.0; size * size];
        unit.par_chunks_mut(size).enumerate().for_each(|(at, row)| {
            for (later, value) in row.iter_mut().enumerate().skip(at + 1) {
                *value = (factor[later * size + at] / pivots[at]) as f32;
            }
        });
        Some(Planes { order, unit, pivots, damping, importance })
    }

    /// The correction for a position from the errors of the positions after it.
    fn owed(&self, at: usize, errors: &[f32]) -> f32 {
        dot(&self.unit[at * self.order.len()..][at + 1..errors.len()], &errors[at + 1..])
    }

    /// The mean square error of a row with these errors, by position.
    fn loss(&self, errors: &[f32]) -> f64 {
        let entry = |(at, error): (usize, &f32)| {
            let entry = self.pivots[at] * f64::from(error + self.owed(at, errors));
            entry * entry - self.damping * f64::from(*error) * f64::from(*error)
        };
        errors.iter().enumerate().map(entry).sum()
    }

    fn round(&self, matrix: &HostTensor) -> Rounded {
        let rows: Vec<&[f32]> = matrix.rows().collect();
        let rounded: Vec<Rounded> = rows.par_chunks(ROWS).flat_map(|rows| self.round_rows(rows)).collect();
        Rounded {
            codes: rounded.iter().flat_map(|row| &row.codes).copied().collect(),
            scales: rounded.iter().flat_map(|row| &row.scales).copied().collect(),
        }
    }

    /// Quantized rows whose error is at most that of round-to-nearest.
    fn round_rows(&self, rows: &[&[f32]]) -> Vec<Rounded> {
        let size = self.order.len();
        let scales = rows.iter().map(|row| self.scales(row));
        let mut rounded: Vec<Rounded> = scales.map(|scales| Rounded { codes: vec![0.0; size], scales }).collect();
        let mut errors = vec![vec![0.0f32; size]; rows.len()];
        for (at, column) in self.order.iter().enumerate().rev() {
            for ((row, rounded), errors) in rows.iter().zip(&mut rounded).zip(&mut errors) {
                let scale = rounded.scales[column / GROUP as usize];
                let code = code((row[*column] + self.owed(at, errors)) / scale);
                rounded.codes[*column] = code;
                errors[at] = row[*column] - code * scale;
            }
        }
        for ((row, rounded), errors) in rows.iter().zip(&mut rounded).zip(&errors) {
            let plain = to_nearest(row);
            if self.loss(&self.errors(row, &plain)) < self.loss(errors) {
                *rounded = plain;
            }
        }
        rounded
    }

    fn errors(&self, row: &[f32], rounded: &Rounded) -> Vec<f32> {
        let error = |column: &usize| row[*column] - rounded.codes[*column] * rounded.scales[column / GROUP as usize];
        self.order.iter().map(error).collect()
    }

    /// Group scales of a row with the minimum error by the diagonal alone.
    fn scales(&self, row: &[f32]) -> Vec<f32> {
        let groups = row.chunks(GROUP as usize).zip(self.importance.chunks(GROUP as usize));
        let scale = |(values, importance): (&[f32], &[f32])| {
            let largest = absmax(values);
            let off = |scale: f32| -> f32 {
                let off =
                    |(value, importance): (&f32, &f32)| (value - code(value / scale) * scale).powi(2) * importance;
                values.iter().zip(importance).map(off).sum()
            };
            let scale = |step: usize| scale_of(largest * (1.0 - 0.5 * step as f32 / SCALES as f32), DType::I4);
            (0..=SCALES).map(scale).min_by(|a, b| off(*a).total_cmp(&off(*b))).unwrap_or(1.0)
        };
        groups.map(scale).collect()
    }
}

/// A row rounded to nearest, without a search.
fn to_nearest(row: &[f32]) -> Rounded {
    let scales: Vec<f32> = row.chunks(GROUP as usize).map(|group| scale_of(absmax(group), DType::I4)).collect();
    let codes = row.iter().enumerate().map(|(column, value)| code(value / scales[column / GROUP as usize])).collect();
    Rounded { codes, scales }
}

fn code(value: f32) -> f32 {
    integer(value, DType::I4)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn never_worse_than_the_nearest(
            values in prop::collection::vec(-3.0f32..3.0, 6 * 140),
            weights in prop::collection::vec(-1.0f32..1.0, 3 * 140),
            outlier in 0usize..140,
        ) {
            let mut rows: Vec<Vec<f32>> = values.chunks(140).map(<[f32]>::to_vec).collect();
            rows.iter_mut().for_each(|row| row[outlier] *= 100.0);
            let mut hessian = vec![0.0f32; 140 * 140];
            for row in &rows {
                for (a, sums) in row.iter().zip(hessian.chunks_mut(140)) {
                    sums.iter_mut().zip(row).for_each(|(sum, b)| *sum += a * b / rows.len() as f32);
                }
            }
            let planes = Planes::of(&hessian).unwrap();
            let off = |weights: &[f32], rounded: &Rounded| -> f64 {
                let errors: Vec<f64> = weights.iter().enumerate().map(|(column, weight)| {
                    f64::from(weight - rounded.codes[column] * rounded.scales[column / GROUP as usize])
                }).collect();
                rows.iter().map(|row| row.iter().zip(&errors).map(|(x, e)| f64::from(*x) * e).sum::<f64>().powi(2)).sum()
            };
            let matrix = HostTensor::f32([3, 140], weights.clone());
            let all = planes.round(&matrix);
            for (index, weights) in weights.chunks(140).enumerate() {
                let rounded = Rounded {
                    codes: all.codes[index * 140..][..140].to_vec(),
                    scales: all.scales[index * 2..][..2].to_vec(),
                };
                prop_assert!(rounded.codes.iter().all(|code| code.fract() == 0.0 && (-8.0..=7.0).contains(code)));
                let (found, nearest) = (off(weights, &rounded), off(weights, &to_nearest(weights)));
                prop_assert!(found <= nearest * 1.001 + 1e-3, "{found} above {nearest}");
            }
        }
    }
}
