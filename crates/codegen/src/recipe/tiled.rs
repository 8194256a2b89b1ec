//! A matrix in tiles, written a range of units at a time.

use std::ops::Range;

use ir::WeightSource;
use plan::{DType, Tiles};

use crate::Recipe;

/// A row-major matrix that is cut into tiles.
pub(super) struct Matrix<'a> {
    pub inner: &'a Recipe,
    pub rows: u64,
    pub cols: u64,
    pub tiles: Tiles,
    pub halves: bool,
}

impl Matrix<'_> {
    /// Computes a range of whole units, which is given in elements, or in bytes where elements share those: both of its
    /// ends are where a unit begins, as are those of the pieces of [`Recipe::write`].
    pub fn read(&self, weights: &dyn WeightSource, range: Range<u64>, out: &mut [u8]) -> Result<(), String> {
        let unit = Tiles::UNIT_BYTES / self.inner.dtype().bytes();
        if !range.start.is_multiple_of(unit) || !range.end.is_multiple_of(unit) {
            return Err(format!("elements {range:?} are not whole units of a tiled weight"));
        }
        out.fill(Tiles::padding(self.inner.dtype()));
        let (mut at, end) = (range.start / unit, range.end / unit);
        let mut rest = out;
        while at < end {
            // units of one strip: their rows are contiguous in the matrix
            let (strip, first) = (at / self.tiles.units, at % self.tiles.units);
            let count = (end - at).min(self.tiles.units - first);
            let (part, tail) = rest.split_at_mut((count * Tiles::UNIT_BYTES) as usize);
            self.read_strip(weights, strip, first..first + count, part)?;
            rest = tail;
            at += count;
        }
        Ok(())
    }

    fn read_strip(
        &self,
        weights: &dyn WeightSource,
        strip: u64,
        units: Range<u64>,
        out: &mut [u8],
    ) -> Result<(), String> {
        let dtype = self.inner.dtype();
        let cols = units.start * self.tiles.cols..(units.end * self.tiles.cols).min(self.cols);
        let mut line = vec![0; ((cols.end - cols.start) * dtype.bytes()) as usize];
        for row in 0..Tiles::ROWS.min(self.rows - strip * Tiles::ROWS) {
            let place = strip * Tiles::ROWS + row;
            let start = if self.halves { Tiles::half_row_at(place, self.rows) } else { place } * self.cols;
            self.inner.read(weights, start + cols.start..start + cols.end, &mut line)?;
            let chunk_bytes = (self.tiles.chunk_cols() * dtype.bytes()) as usize;
            for (chunk, bytes) in (0u64..).zip(line.chunks(chunk_bytes)) {
                let unit = chunk / Tiles::CHUNKS * Tiles::UNIT_BYTES;
                let place = (unit + Tiles::chunk_at(row, chunk % Tiles::CHUNKS)) as usize;
                match dtype {
                    DType::I4 => out[place..][..Tiles::CHUNK_BYTES as usize].copy_from_slice(&Tiles::pack(bytes)),
                    _ => out[place..][..bytes.len()].copy_from_slice(bytes),
                }
            }
        }
        Ok(())
    }
}
