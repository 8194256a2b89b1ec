//! Rows of weights as a product reads them: unquantized, 8-bit, or packed 4-bit.

use super::scales::Scales;
use super::simd::{Element, LANES, Lanes};

/// The storage type of a row of weights.
pub(super) trait Weight: Copy + Send + Sync + 'static {
    /// Weights per stored element.
    const WEIGHTS: usize;

    /// Whether they are quantized, which takes longer to widen.
    const IS_CODE: bool;

    /// Eight weights, widened.
    ///
    /// # Safety
    /// `at` must be valid for eight weights.
    unsafe fn load<L: Lanes>(at: *const Self) -> L;

    /// Eight weights of a plan, widened: none is NaN, which is checked when it is loaded.
    ///
    /// # Safety
    /// `at` must be valid for eight weights.
    #[inline(always)]
    unsafe fn load_finite<L: Lanes>(at: *const Self) -> L {
        // SAFETY: promised by the caller.
        unsafe { Self::load(at) }
    }

    /// Weight `index` of a row.
    fn widen(row: &[Self], index: usize) -> f32;
}

impl<E: Element> Weight for E {
    const WEIGHTS: usize = 1;
    const IS_CODE: bool = size_of::<E>() == 1;

    #[inline(always)]
    unsafe fn load<L: Lanes>(at: *const E) -> L {
        // SAFETY: promised by the caller.
        unsafe { L::load(at) }
    }

    #[inline(always)]
    unsafe fn load_finite<L: Lanes>(at: *const E) -> L {
        // SAFETY: promised by the caller.
        unsafe { L::load_finite(at) }
    }

    #[inline(always)]
    fn widen(row: &[E], index: usize) -> f32 {
        row[index].widen()
    }
}

/// Two 4-bit values, the low half first.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub(super) struct Pair(pub u8);

impl Weight for Pair {
    const WEIGHTS: usize = 2;
    const IS_CODE: bool = true;

    #[inline(always)]
    unsafe fn load<L: Lanes>(at: *const Pair) -> L {
        // SAFETY: promised by the caller.
        unsafe { L::load_packed(at.cast()) }
    }

    #[inline(always)]
    fn widen(row: &[Pair], index: usize) -> f32 {
        let code = (row[index / 2].0 >> (index % 2 * 4)) << 4;
        f32::from(code as i8 >> 4)
    }
}

/// Appends rows of quantized values as f32, each times the scale of its group if there are GROUPS, after subtracting
/// its zero point if there are ZEROS. `first` is the index of their first row among the rows of scales.
#[inline(always)]
pub(super) fn append_rows<L: Lanes, W: Weight, const GROUPS: bool, const ZEROS: bool>(
    rows: &[W],
    width: usize,
    scales: &Scales,
    first: usize,
    to: &mut Vec<f32>,
) {
    let group = if GROUPS { scales.group } else { width };
    to.reserve(rows.len() * W::WEIGHTS);
    for (row, weights) in rows.chunks_exact((width / W::WEIGHTS).max(1)).enumerate() {
        for (index, start) in (0..width).step_by(group).enumerate() {
            let scale = if GROUPS { scales.scale(first + row, index) } else { 1.0 };
            let zero = if ZEROS { scales.zero(first + row, index) } else { 0.0 };
            let end = (start + group).min(width);
            let whole = end - (end - start) % LANES;
            let len = to.len();
            for k in (start..whole).step_by(LANES) {
                // SAFETY: eight weights from `k` on exist, and were reserved.
                unsafe {
                    let weights = W::load::<L>(weights.as_ptr().add(k / W::WEIGHTS));
                    let weights = if ZEROS { weights.minus(L::splat(zero)) } else { weights };
                    let weights = if GROUPS { weights.times(L::splat(scale)) } else { weights };
                    weights.store(to.as_mut_ptr().add(len + k - start));
                }
            }
            // SAFETY: as many were reserved and written.
            unsafe { to.set_len(len + whole - start) };
            to.extend((whole..end).map(|k| (W::widen(weights, k) - zero) * scale));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::simd::{Portable, dispatch};
    use super::*;

    dispatch!(
        fn append<W: Weight>(row: &[W], scales: &Scales, to: &mut Vec<f32>) -> () = append_row
    );

    #[inline(always)]
    fn append_row<L: Lanes, W: Weight>(row: &[W], scales: &Scales, to: &mut Vec<f32>) {
        append_rows::<L, W, false, false>(row, row.len() * W::WEIGHTS, scales, 0, to);
    }

    #[test]
    fn packed_codes_come_lower_half_first() {
        // every byte, and less than a vector
        let bytes: Vec<Pair> = (0..=255).chain(7..10).map(Pair).collect();
        let quantized: Vec<f32> =
            bytes.iter().flat_map(|byte| [(byte.0 << 4) as i8 >> 4, byte.0 as i8 >> 4]).map(f32::from).collect();
        let (mut found, mut portable) = (vec![0.5], Vec::new());
        let scales = Scales::none(1, 2 * bytes.len());
        append(&bytes, &scales, &mut found);
        append_row::<Portable, Pair>(&bytes, &scales, &mut portable);
        assert_eq!(found[1..], quantized);
        assert_eq!(portable, quantized);
        found.clear();
        append(&[Pair(0x8f), Pair(0x70)], &scales, &mut found);
        assert_eq!(found, [-1.0, -8.0, 0.0, 7.0]);
    }
}
