//! In-place quantization and dequantization.

use ir::DType;
use ir::scale_of;

/// Quantizes values with one scale and dequantizes them, as `quantize` and `dequantize` define it.
pub(crate) fn round_by(values: &mut [f32], scale: f32, to: DType) {
    let reciprocal = 1.0 / scale;
    match to {
        DType::I8 | DType::I4 => values.iter_mut().for_each(|value| *value = integer(*value * reciprocal, to) * scale),
        _ => values.iter_mut().for_each(|value| *value = to.round(*value * reciprocal) * scale),
    }
}

/// The same with a scale per `group` neighbours, from their largest magnitude.
pub(crate) fn round_groups(values: &mut [f32], group: usize, to: DType) {
    values.chunks_mut(group).for_each(|values| round_by(values, scale_of(absmax(values), to), to));
}

/// The nearest quantized integer of a number.
pub(crate) fn integer(value: f32, to: DType) -> f32 {
    let bounds = to.smallest_code().zip(to.largest_code());
    let (smallest, largest) = bounds.unwrap_or((f32::MIN, f32::MAX));
    nearest(value.clamp(smallest, largest))
}

/// The nearest integer of a number below 2^22 in magnitude, ties to even. Adding 1.5 * 2^23 leaves no bit for a
/// fraction; `round_ties_even` would be a call, ten times as slow, on processors without an instruction for it.
fn nearest(value: f32) -> f32 {
    const SHIFT: f32 = 12_582_912.0;
    (value + SHIFT) - SHIFT
}

/// The largest magnitude.
pub(crate) fn absmax(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |largest, value| value.abs().max(largest))
}

/// The dot product, in one order on every machine.
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    // as many sums as two of the widest vector registers hold
    let mut sums = [0.0f32; 32];
    let (a_chunks, a_rest) = a.as_chunks::<32>();
    let (b_chunks, b_rest) = b.as_chunks::<32>();
    for (a, b) in a_chunks.iter().zip(b_chunks) {
        for (sum, (a, b)) in sums.iter_mut().zip(a.iter().zip(b)) {
            *sum += a * b;
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_round_to_nearest_even_and_saturate() {
        let mut values = [0.5, 1.5, -2.5, 6.6, 100.0, -100.0];
        round_by(&mut values, 1.0, DType::I4);
        assert_eq!(values, [0.0, 2.0, -2.0, 7.0, 7.0, -8.0]);
        for value in [0.49999997f32, 126.5, -63.5, 2.0e6, -3.0] {
            assert_eq!(nearest(value), value.round_ties_even());
        }
    }

    #[test]
    fn groups_have_scales_of_their_own() {
        let mut values = [7.0, 1.2, 0.07, 0.012];
        round_groups(&mut values, 2, DType::I4);
        assert_eq!(values, [7.0, 1.0, 0.07, 0.01]);
    }
}
