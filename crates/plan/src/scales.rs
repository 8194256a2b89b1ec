//! The arithmetic of scales that compiler and runtime share: granularity, and the scale of a block of values.

use crate::DType;

/// The smallest scale, 2^-100, so that blocks of zeros have one whose reciprocal is finite.
pub const SMALLEST_SCALE: f32 = f32::from_bits((127 - 100) << 23);

/// The number of indices of an axis of this size that share a scale, given the number of scales: all, one, or a power
/// of two; `None` if they do not fit.
pub fn scale_block(size: u64, scales: u64) -> Option<u64> {
    if scales == 1 {
        return Some(size.max(1));
    }
    if scales == size {
        return Some(1);
    }
    let block = size.div_ceil(scales.max(1)).next_power_of_two();
    (size.div_ceil(block) == scales).then_some(block)
}

/// The scale of a block with this largest magnitude, which maps to the largest quantized value.
pub fn scale_of(largest: f32, codes: DType) -> f32 {
    let scale = largest / codes.largest_code().unwrap_or(1.0);
    if scale < SMALLEST_SCALE { SMALLEST_SCALE } else { scale }
}

/// The larger of a magnitude and those of some values; NaN if one is NaN, since its block has no scale.
pub fn largest_magnitude(known: f32, numbers: &[f32]) -> f32 {
    // magnitudes are ordered as their bits, NaN above all
    let bits = |number: f32| number.abs().to_bits() as i32;
    f32::from_bits(numbers.iter().fold(bits(known), |a, b| a.max(bits(*b))) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_follow_from_sizes() {
        let blocks = [(48, 1), (48, 48), (48, 3), (48, 2), (192, 2), (4096, 32), (48, 5), (48, 0), (0, 1)];
        let expected = [Some(48), Some(1), Some(16), Some(32), Some(128), Some(128), None, None, Some(1)];
        assert_eq!(blocks.map(|(size, scales)| scale_block(size, scales)), expected);
    }

    #[test]
    fn scales_are_finite_but_for_nan() {
        assert_eq!((scale_of(254.0, DType::I8), scale_of(0.0, DType::F8E4M3)), (2.0, SMALLEST_SCALE));
        assert_eq!(largest_magnitude(1.0, &[0.5, -3.0]), 3.0);
        assert!(scale_of(largest_magnitude(0.0, &[1.0, f32::NAN, 9.0]), DType::I8).is_nan());
    }
}
