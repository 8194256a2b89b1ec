//! Whether two evaluations of a graph agree.

use ir::{DType, Graph, HostData};
use passes::Numerics;

use crate::StepOutputs;

/// The allowed difference of values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Tolerance {
    /// Equal bits.
    Exact,
    /// `|a - b| <= tolerance * max(1, |a|)`.
    Relative(f32),
    /// The root mean square of all differences of an output is at most this share of that of its values.
    Share(f32),
}

impl Tolerance {
    /// The tolerance of these numerics in this graph.
    pub fn of(numerics: Numerics, graph: &Graph) -> Tolerance {
        match numerics {
            Numerics::Exact => Tolerance::Exact,
            Numerics::Quantizing { percent } => Tolerance::Share(percent as f32 / 100.0),
            // graphs that differ by design are not compared
            Numerics::Rounding | Numerics::Different => Tolerance::Relative(rounding(coarsest(graph))),
        }
    }
}

/// The tolerance if values are rounded to `dtype` in between: some units in the last place, since a fused op rounds
/// once where several ops round each, and a value near a rounding boundary may be rounded either way.
fn rounding(dtype: DType) -> f32 {
    match dtype {
        // 2^-24 for each of some hundred additions in another order
        DType::F32 | DType::I32 => 1e-5,
        // 11 bits: 8 halves of a unit of 2^-10
        DType::F16 => 4e-3,
        // 8 bits: 5 halves of a unit of 2^-7
        DType::BF16 => 2e-2,
        // a value near a rounding boundary may be quantized either way: some such among the terms of a sum
        DType::I8 | DType::F8E4M3 | DType::I4 => 3e-2,
    }
}

/// The narrowest dtype through which a value of a step passes; the KV cache counts, weights do not: they are the same
/// on both sides.
fn coarsest(graph: &Graph) -> DType {
    let results = graph.ops().flat_map(|id| graph.results(id)).filter(|value| !graph.is_constant(*value));
    let values = results.filter_map(|value| graph.tensor(value)).map(|ty| ty.dtype);
    let dtypes: Vec<DType> = values.chain(graph.kv().iter().map(|group| group.dtype)).collect();
    let found =
        [DType::F8E4M3, DType::I4, DType::I8, DType::BF16, DType::F16].into_iter().find(|dtype| dtypes.contains(dtype));
    found.unwrap_or(DType::F32)
}

/// Compares the outputs of all steps; the error names the largest difference.
pub fn compare(
    graph: &Graph,
    expected: &[StepOutputs],
    found: &[StepOutputs],
    tolerance: Tolerance,
) -> Result<(), String> {
    if expected.len() != found.len() {
        return Err(format!("expected {} steps, found {}", expected.len(), found.len()));
    }
    for (step, (expected, found)) in expected.iter().zip(found).enumerate() {
        // a pass may add outputs after the existing ones
        if expected.len() > found.len() {
            return Err(format!("step {step}: expected {} outputs, found {}", expected.len(), found.len()));
        }
        for ((output, expected), found) in graph.outputs().iter().zip(expected).zip(found) {
            let place = format!("step {step}, output `{}`", output.name);
            compare_one(expected, found, tolerance).map_err(|reason| format!("{place}: {reason}"))?;
        }
    }
    Ok(())
}

fn compare_one(expected: &HostData, found: &HostData, tolerance: Tolerance) -> Result<(), String> {
    let (expected, found) = match (expected, found) {
        (HostData::I32(expected), HostData::I32(found)) if expected == found => return Ok(()),
        (HostData::F32(expected), HostData::F32(found)) if expected.len() == found.len() => (expected, found),
        _ => return Err(format!("expected {expected:?}, found {found:?}")),
    };
    if let Tolerance::Share(most) = tolerance {
        let squares = |values: &mut dyn Iterator<Item = f32>| values.map(|value| f64::from(value).powi(2)).sum::<f64>();
        let difference = squares(&mut expected.iter().zip(found).map(|(a, b)| a - b));
        let share = (difference / squares(&mut expected.iter().copied())).sqrt();
        return match difference == 0.0 || share <= f64::from(most) {
            true => Ok(()),
            false => Err(format!("expected a share of at most {most} that differs, found {share:.4}")),
        };
    }
    let mut worst: Option<(f32, usize)> = None;
    for (index, (a, b)) in expected.iter().zip(found).enumerate() {
        let excess = match tolerance {
            _ if a.to_bits() == b.to_bits() => 0.0,
            Tolerance::Exact | Tolerance::Share(_) => f32::INFINITY,
            Tolerance::Relative(tolerance) => {
                let excess = (a - b).abs() / (tolerance * a.abs().max(1.0));
                // a NaN on one side only, or infinity beside a number
                if excess.is_nan() { f32::INFINITY } else { excess }
            }
        };
        if excess > 1.0 && worst.is_none_or(|(most, _)| excess > most) {
            worst = Some((excess, index));
        }
    }
    match worst {
        None => Ok(()),
        Some((_, index)) => Err(format!(
            "element {index} of {}: expected {}, found {} ({tolerance:?})",
            expected.len(),
            expected[index],
            found[index]
        )),
    }
}
