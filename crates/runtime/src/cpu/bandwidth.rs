//! Memory bandwidth of all threads together: the upper bound of decode speed.

use std::time::Instant;

use rayon::prelude::*;

use super::memory::Memory;
use super::simd::{Element, LANES, Lanes, dispatch};

/// Bandwidth in bytes per second of all threads of the current pool over this many bytes: the best of five passes. The
/// memory is allocated like that of weights. A size that fits in caches measures those.
pub fn read_bandwidth(bytes: u64) -> Result<f64, String> {
    const PIECE: usize = 1 << 16;
    let bytes = bytes.max(4) / 4 * 4;
    let mut memory = Memory::zeroed(bytes)?;
    // Written, and not zero: untouched pages would all be one page.
    memory.part(0, bytes).par_chunks_mut(4 * PIECE).for_each(|piece| piece.fill(0x3f));
    let data = memory.floats();
    let pass = || {
        let start = Instant::now();
        let sum: f32 = data.par_chunks(PIECE).map(sum).sum();
        let seconds = start.elapsed().as_secs_f64();
        std::hint::black_box(sum);
        bytes as f64 / seconds
    };
    Ok((0..5).map(|_| pass()).fold(0.0, f64::max))
}

dispatch!(
    /// The sum of all elements, with enough independent sums to be limited only by memory.
    fn sum<E: Element>(values: &[E]) -> f32 = sum_body
);

#[inline(always)]
fn sum_body<L: Lanes, E: Element>(values: &[E]) -> f32 {
    const SUMS: usize = 8;
    let mut sums = [L::splat(0.0); SUMS];
    for chunk in values.chunks_exact(SUMS * LANES) {
        for (index, sum) in sums.iter_mut().enumerate() {
            // SAFETY: a chunk holds `SUMS` vectors.
            *sum = sum.add_product(unsafe { L::load(chunk.as_ptr().add(index * LANES)) }, L::splat(1.0));
        }
    }
    sums.into_iter().map(L::sum).sum()
}
