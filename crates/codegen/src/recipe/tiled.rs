//! A tiled matrix, written a range of units at a time.

use std::ops::Range;

use ir::WeightSource;
use plan::{DType, Tiles};

use crate::Recipe;

/// A row-major matrix to be tiled.
pub(super) struct Matrix<'a> {
    pub inner: &'a Recipe,
    pub rows: u64,
    pub cols: u64,
    pub tiles: Tiles,
    pub halves: bool,
}

impl Matrix<'_> {
    /// Computes a range of whole units, in elements, or in bytes for packed types. Pieces of [`Recipe::write`] begin
    /// and end at units.
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

#[cfg(test)]
mod tests {
    use ir::{HostTensor, NoWeights};

    use super::*;

    /// The quantized value at a position of a matrix, read from its tiles.
    fn code_at(tiles: Tiles, bytes: &[u8], dtype: DType, row: u64, col: u64) -> i8 {
        let (strip, unit, chunk) = (row / 16, col / tiles.cols, col % tiles.cols / tiles.chunk_cols());
        let chunk = (strip * tiles.units + unit) * Tiles::UNIT_BYTES + Tiles::chunk_at(row % 16, chunk);
        let chunk = &bytes[chunk as usize..][..16];
        let col = (col % tiles.chunk_cols()) as usize;
        if dtype != DType::I4 {
            return chunk[col] as i8;
        }
        let word = u32::from_le_bytes(chunk.as_chunks().0[col / 8]);
        (word >> (16 * (col % 2) + 4 * (col % 8 / 2)) & 0xf) as i8 - 8
    }

    #[test]
    fn codes_of_all_widths_come_back() {
        // whole units and remainders of both axes
        for (dtype, rows, cols) in
            [(DType::I8, 32, 130), (DType::I4, 32, 300), (DType::I4, 16, 7), (DType::I8, 16, 128)]
        {
            for halves in [false, true] {
                let code = |row: u64, col: u64| ((row * 7 + col * 3) % 15) as i8 - 7;
                let values = (0..rows * cols).map(|at| f32::from(code(at / cols, at % cols))).collect();
                let value = HostTensor::f32([rows as usize, cols as usize], values);
                let recipe = Recipe::tiled(Recipe::Value(value, dtype), rows, cols, halves).unwrap();
                let mut bytes = vec![0; recipe.elements() as usize];
                recipe.read(&NoWeights, 0..recipe.elements(), &mut bytes).unwrap();
                let tiles = Tiles::of(dtype, rows, cols).unwrap();
                assert_eq!(bytes.len() as u64, tiles.bytes());
                for (row, col) in (0..rows).flat_map(|row| (0..cols).map(move |col| (row, col))) {
                    let place = if halves { Tiles::place_of_half_row(row, rows) } else { row };
                    let found = code_at(tiles, &bytes, dtype, place, col);
                    assert_eq!(found, code(row, col), "{dtype} {rows}x{cols}, {halves}: {row}, {col}");
                }
                // and padding is zero
                for col in cols..tiles.units * tiles.cols {
                    assert_eq!(code_at(tiles, &bytes, dtype, 0, col), 0, "{dtype}: {col}");
                }
            }
        }
    }
}
