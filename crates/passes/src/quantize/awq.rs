//! 4-bit weights with channel scaling that protects the channels of large activations. (AWQ, arXiv 2306.00978.)

use ir::ops::{Constant, LinearParts, Quantize};
use ir::scale_of;
use ir::{DType, Graph, OpId, Patch, TensorType};
use rayon::prelude::*;

use super::by_input::{SEARCH_ROWS, magnitudes, members, multiply, rows, weights};
use super::channel_scaling::{FoldInto, candidates};
use super::format_info::InputGroup;
use super::linear::{QuantizedValue, over_quantized};
use super::nearest::GROUP;
use super::reconstruction_loss::{Outputs, divided};
use super::rounding::{absmax, dot, round_by, round_groups};
use crate::calibration::Rows;
use crate::{PassContext, PassError};

/// Exponents of the activation magnitudes to try: tenths.
const STEPS: usize = 10;
/// Scales to try per group, from that of the largest magnitude down to half of it.
const CLIPS: usize = 10;

/// 4-bit weights by AWQ.
pub(super) fn quantize(graph: &mut Graph, group: &InputGroup<'_>) -> Result<(), PassError> {
    let &InputGroup { x, layers, ctx, .. } = group;
    let linears = members(graph, layers, x);
    let rows = rows(graph, ctx, x, SEARCH_ROWS)?;
    let fold = FoldInto::of(graph, ctx, x);
    let factors = factors(&rows, &fold, &Outputs::of(&rows, &weights(graph, ctx, &linears)?))?;
    let read = fold.scale(graph, ctx, x, &linears, &factors)?;
    let rows = divided(&rows, &factors);
    for linear in members(graph, layers, read) {
        let matrix = weights(graph, ctx, &[linear])?;
        let scales = scales(&rows, &Outputs::of(&rows, &matrix));
        let patch = replaced(graph, ctx, linear, &scales)?;
        graph.apply("awq", linear, patch)?;
    }
    Ok(())
}

/// The channel factors with the minimum error of round-to-nearest.
fn factors(rows: &Rows, fold: &FoldInto, outputs: &Outputs<'_>) -> Result<Vec<f32>, PassError> {
    let mean = |total: f32, value: f32| total + value;
    let mut x = magnitudes(rows.iter(), rows.channels, mean);
    let mut w = magnitudes(outputs.weights().iter().copied(), rows.channels, mean);
    fold.share(&mut x);
    fold.share(&mut w);
    let steps = || (0..=STEPS).map(|step| step as f32 / STEPS as f32);
    // the paper's, and those that also scale up channels with small weights
    let blends = steps().map(|power| (power, 0.0)).chain(steps().map(|power| (power, 1.0 - power)));
    let losses = |factors: &Vec<f32>| {
        Ok(outputs.losses(&divided(rows, factors), |_, weight| {
            multiply(weight, factors);
            round_groups(weight, GROUP as usize, DType::I4);
        }))
    };
    outputs.best(candidates(&x, &w, blends), losses)
}

/// Group scales, row by row: clipped if that reduces the output error, which is never larger than with the largest
/// magnitudes.
fn scales(rows: &Rows, outputs: &Outputs<'_>) -> Vec<f32> {
    let group = GROUP as usize;
    let plain: Vec<Vec<f32>> = outputs
        .weights()
        .iter()
        .map(|weight| weight.chunks(group).map(|w| scale_of(absmax(w), DType::I4)).collect())
        .collect();
    let clipped: Vec<Vec<f32>> = outputs.weights().par_iter().map(|weight| clipped(rows, weight)).collect();
    let losses = |scales: &[Vec<f32>]| {
        outputs.losses(rows, |output, weight| {
            let groups = weight.chunks_mut(group).zip(&scales[output]);
            groups.for_each(|(weight, scale)| round_by(weight, *scale, DType::I4));
        })
    };
    let both = losses(&plain).into_iter().zip(losses(&clipped));
    let rows = both.zip(plain.iter().zip(&clipped));
    rows.flat_map(|((loss, with_clips), (plain, clipped))| if with_clips < loss { clipped } else { plain })
        .copied()
        .collect()
}

/// For each group of a row, the scale with the minimum error of the group's contribution to the output.
fn clipped(rows: &Rows, weight: &[f32]) -> Vec<f32> {
    let group = GROUP as usize;
    let scale = |(index, numbers): (usize, &[f32])| {
        let largest = absmax(numbers);
        let off = |scale: &f32| -> f64 {
            let mut errors = numbers.to_vec();
            round_by(&mut errors, *scale, DType::I4);
            errors.iter_mut().zip(numbers).for_each(|(error, number)| *error -= number);
            rows.iter().map(|row| f64::from(dot(&row[index * group..][..errors.len()], &errors)).powi(2)).sum()
        };
        let scale = |step: usize| scale_of(largest * (1.0 - 0.5 * step as f32 / CLIPS as f32), DType::I4);
        let scales = (0..=CLIPS).map(scale).map(|scale| (off(&scale), scale));
        scales.min_by(|a, b| a.0.total_cmp(&b.0)).map_or(1.0, |(_, scale)| scale)
    };
    weight.chunks(group).enumerate().map(scale).collect()
}

/// The quantized linear layer with these scales, which are stored with the weights.
fn replaced(graph: &Graph, ctx: &PassContext<'_>, linear: OpId, scales: &[f32]) -> Result<Patch, PassError> {
    let name = graph.value_name(graph.result(linear));
    let no_linear = || PassError::Other(format!("`{name}`: expected a linear layer over a matrix"));
    let parts = LinearParts::of(graph, linear).ok_or_else(no_linear)?;
    let outputs = graph.tensor(parts.weight).and_then(|ty| ty.shape.first()?.as_const()).ok_or_else(no_linear)?;
    let groups = scales.len() as u64 / outputs.max(1);
    let key = format!("{name}.scale");
    ctx.weights.add(&key, DType::F32, scales);
    let mut patch = Patch::new();
    let ty = TensorType { dtype: DType::F32, shape: vec![outputs.into(), groups.into()] };
    let scale = patch.add(graph, Constant { key, ty }, &[]);
    let codes = patch.add(graph, Quantize { to: DType::I4 }, &[parts.weight.into(), scale]);
    over_quantized(graph, linear, &mut patch, None, QuantizedValue { codes, scale, zero_point: None })
        .ok_or_else(no_linear)?;
    Ok(patch)
}

#[cfg(test)]
mod tests {
    use ir::HostTensor;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn never_worse_than_the_nearest(
            values in prop::collection::vec(-3.0f32..3.0, 5 * 140),
            numbers in prop::collection::vec(-1.0f32..1.0, 3 * 140),
            outlier in 0usize..140,
        ) {
            let mut rows = Rows { channels: 140, values };
            rows.values.chunks_mut(140).for_each(|row| row[outlier] *= 100.0);
            let matrix = [HostTensor::f32([3, 140], numbers.clone())];
            let outputs = Outputs::of(&rows, &matrix);
            let plain = outputs.losses(&rows, |_, weight| round_groups(weight, GROUP as usize, DType::I4));
            let chosen = factors(&rows, &FoldInto::OwnOp, &outputs).unwrap();
            let smoothed = outputs.losses(&divided(&rows, &chosen), |_, weight| {
                multiply(weight, &chosen);
                round_groups(weight, GROUP as usize, DType::I4);
            });
            prop_assert!(smoothed.iter().sum::<f64>() <= plain.iter().sum::<f64>());
            let scales = scales(&rows, &outputs);
            let clipped = outputs.losses(&rows, |output, weight| {
                let groups = weight.chunks_mut(GROUP as usize).zip(&scales[output * 2..]);
                groups.for_each(|(weight, scale)| round_by(weight, *scale, DType::I4));
            });
            prop_assert!(clipped.iter().zip(&plain).all(|(clipped, plain)| clipped <= plain));
        }
    }
}
