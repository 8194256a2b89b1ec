//! Linear layers by input: the groups, what is known of their activations, and their weights.

use ir::ops::LinearParts;
use ir::{Graph, HostTensor, OpId, Value, constant_value};
use rayon::prelude::*;

use super::Layers;
use crate::calibration::Rows;
use crate::{PassContext, PassError};

/// Sampled rows of activations on which searches measure the output error.
pub(crate) const SEARCH_ROWS: usize = 256;

/// The inputs of the linear layers of `layers`, last first: what is folded into a linear layer then comes before its
/// own quantization. By name, which stays valid when handling one input replaces the op that computes the next.
pub(crate) fn inputs(graph: &Graph, layers: &Layers) -> Vec<String> {
    let mut inputs: Vec<Value> = Vec::new();
    for id in graph.ops().filter(|id| layers.contain(graph, *id)) {
        let x = graph.operands(id)[0];
        if !inputs.contains(&x) {
            inputs.push(x);
        }
    }
    inputs.into_iter().rev().map(|x| graph.value_name(x).to_owned()).collect()
}

/// The value of this name.
pub(crate) fn find(graph: &Graph, name: &str) -> Result<Value, PassError> {
    graph.find(name).ok_or_else(|| PassError::Other(format!("`{name}` no longer exists")))
}

/// The linear layers of `layers` over `x`, in order.
pub(crate) fn members(graph: &Graph, layers: &Layers, x: Value) -> Vec<OpId> {
    let mut members: Vec<OpId> = graph.uses(x).into_iter().map(|user| user.op).collect();
    members.sort_by_key(|id| graph.place(*id));
    members.dedup();
    members.retain(|id| layers.contain(graph, *id) && graph.operands(*id)[0] == x);
    members
}

/// The floating-point weights of linear layers.
pub(crate) fn weights(graph: &Graph, ctx: &PassContext<'_>, linears: &[OpId]) -> Result<Vec<HostTensor>, PassError> {
    let read = |id: &OpId| {
        let parts =
            LinearParts::of(graph, *id).ok_or_else(|| PassError::Other("expected a linear layer".to_owned()))?;
        let weight = constant_value(graph, parts.weight, ctx.weights);
        let weight = weight.map_err(|error| PassError::Other(error.to_string()))?;
        match weight.floats().iter().all(|value| value.is_finite()) {
            true => Ok(weight),
            false => Err(PassError::Input(format!(
                "`{}`: a weight is NaN or infinite, which cannot be quantized",
                graph.value_name(parts.weight)
            ))),
        }
    };
    linears.par_iter().map(read).collect()
}

/// The key of the factors that a value's channels were multiplied by since the calibration.
pub(crate) fn shrink_key(name: &str) -> String {
    format!("{name}.shrink")
}

/// A sample of the rows of `x`, at most `most` of them, evenly spaced.
pub(crate) fn rows(graph: &Graph, ctx: &PassContext<'_>, x: Value, most: usize) -> Result<Rows, PassError> {
    let name = graph.value_name(x);
    let width = width(graph, x)?;
    let known = ctx.activations.and_then(|activations| activations.rows(name));
    let known = known.filter(|rows| rows.channels == width).ok_or_else(|| lacks("rows", name, width))?;
    let finite: Vec<&[f32]> = known.iter().filter(|row| row.iter().all(|value| value.is_finite())).collect();
    if finite.is_empty() {
        return Err(PassError::Input(format!("the calibration has no row of `{name}` without NaN or infinity")));
    }
    let count = finite.len().min(most);
    let mut values: Vec<f32> = (0..count).flat_map(|row| finite[row * finite.len() / count]).copied().collect();
    if let Some(shrink) = ctx.weights.values(&shrink_key(name)) {
        values.chunks_exact_mut(width).for_each(|row| multiply(row, &shrink));
    }
    Ok(Rows { channels: width, values })
}

/// The mean of `x x^T`, of all rows if the calibration has it, of the sampled ones otherwise.
pub(crate) fn hessian(graph: &Graph, ctx: &PassContext<'_>, x: Value) -> Result<Vec<f32>, PassError> {
    let name = graph.value_name(x);
    let width = width(graph, x)?;
    let known = ctx.activations.and_then(|activations| activations.hessian(name));
    let known = known.filter(|known| known.len() == width * width && known.iter().all(|value| value.is_finite()));
    let Some(mut hessian) = known else { return Ok(mean_products(&rows(graph, ctx, x, usize::MAX)?)) };
    if let Some(shrink) = ctx.weights.values(&shrink_key(name)) {
        for (row, by) in hessian.chunks_exact_mut(width).zip(&shrink) {
            multiply(row, &shrink);
            row.iter_mut().for_each(|value| *value *= by);
        }
    }
    Ok(hessian)
}

/// The mean of `x x^T` over rows, each sum in the order of the rows.
fn mean_products(rows: &Rows) -> Vec<f32> {
    let count = rows.len().max(1) as f32;
    let mut products = vec![0.0; rows.channels * rows.channels];
    products.par_chunks_mut(rows.channels).enumerate().for_each(|(channel, sums)| {
        for row in rows.iter() {
            sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += row[channel] * value);
        }
        sums.iter_mut().for_each(|sum| *sum /= count);
    });
    products
}

/// A fold over the magnitudes of each channel, from 0.
pub(crate) fn magnitudes<'a>(
    rows: impl Iterator<Item = &'a [f32]>,
    channels: usize,
    fold: impl Fn(f32, f32) -> f32,
) -> Vec<f32> {
    let mut all = vec![0.0; channels];
    for row in rows {
        all.iter_mut().zip(row).for_each(|(so_far, value)| *so_far = fold(*so_far, value.abs()));
    }
    all
}

/// Elementwise product.
pub(crate) fn multiply(row: &mut [f32], by: &[f32]) {
    row.iter_mut().zip(by).for_each(|(value, by)| *value *= by);
}

/// Values per row.
pub(crate) fn width(graph: &Graph, x: Value) -> Result<usize, PassError> {
    let width = graph.tensor(x).and_then(|ty| ty.width());
    width.map(|width| width as usize).ok_or_else(|| PassError::Other("expected rows of a constant width".to_owned()))
}

fn lacks(what: &str, name: &str, width: usize) -> PassError {
    PassError::Input(format!("the calibration has no {what} of `{name}`, {width} values wide"))
}
