//! The grid of elementwise kernels: blocks are assigned elements of the result, independent of rows. Mirrors
//! `kernels/rows/elementwise.cuh`.

use plan::Dim;

pub(super) const THREADS: u32 = 256;
/// Elements per block: eight per thread, one 16-byte vector of a 16-bit type.
const BLOCK_ELEMENTS: u64 = 8 * THREADS as u64;

/// The number of blocks.
pub(super) fn blocks(rows: &Dim, cols: u64) -> Dim {
    (rows.clone() * cols.into()).ceil_div(BLOCK_ELEMENTS)
}
