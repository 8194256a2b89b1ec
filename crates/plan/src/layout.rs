//! Orders of a weight's elements in memory.

use serde::{Deserialize, Serialize};

/// The order of a weight's elements in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Layout {
    /// One row behind the other.
    #[default]
    RowMajor,
    /// Matrices of 16-bit elements in units that tensor cores read as they lie: see [`Tiles`].
    Tiled,
    /// The same, of a matrix of two halves: each strip has eight rows of the first half, then the same eight of the
    /// second, so that one thread meets a gate and its product. The number of rows is a multiple of 16.
    TiledHalves,
    /// 4-bit codes one row behind the other, two in a byte, the first in its lower half. Rows have an even width.
    Packed,
}

impl Layout {
    /// The name in dumps.
    pub fn name(self) -> &'static str {
        match self {
            Layout::RowMajor => "row_major",
            Layout::Tiled => "tiled",
            Layout::TiledHalves => "tiled_halves",
            Layout::Packed => "packed",
        }
    }
}

/// The tiled layout of a matrix, `[strips][units][2048 bytes]`. A unit holds 16 rows of 64 columns as two atoms of eight
/// rows of 128 bytes; the 16-byte chunk `c` of row `r` of an atom stands at chunk `c ^ (r % 8)`, which is the 128-byte
/// swizzle of shared memory (PTX ISA, "wgmma: shared memory matrix layout"). Rows and columns are padded with zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tiles {
    /// Strips of 16 rows.
    pub strips: u64,
    /// Units of 64 columns in a strip.
    pub units: u64,
}

impl Tiles {
    /// Rows of a strip.
    pub const ROWS: u64 = 16;
    /// Columns of a unit.
    pub const COLS: u64 = 64;
    /// Elements of a unit.
    pub const UNIT: u64 = Self::ROWS * Self::COLS;
    /// Elements of a 16-byte chunk.
    pub const CHUNK: u64 = 8;

    /// The tiles of a matrix, where its padded size does not overflow.
    pub fn of(rows: u64, cols: u64) -> Option<Tiles> {
        let tiles = Tiles { strips: rows.div_ceil(Self::ROWS), units: cols.div_ceil(Self::COLS) };
        tiles.elements().map(|_| tiles)
    }

    /// Where row `row` of a matrix of so many rows stands among the rows of the strips of
    /// [`Layout::TiledHalves`]. Rows of the other layouts stay where they are.
    pub fn place_of_half_row(row: u64, rows: u64) -> u64 {
        let (half, row) = if row < rows / 2 { (0, row) } else { (1, row - rows / 2) };
        row / 8 * Self::ROWS + half * 8 + row % 8
    }

    /// The row that stands at a place: the inverse of [`Tiles::place_of_half_row`].
    pub fn half_row_at(place: u64, rows: u64) -> u64 {
        let (strip, row) = (place / Self::ROWS, place % Self::ROWS);
        row / 8 * (rows / 2) + strip * 8 + row % 8
    }

    /// Elements with padding.
    pub fn elements(self) -> Option<u64> {
        self.strips.checked_mul(self.units)?.checked_mul(Self::UNIT)
    }

    /// The element, within its unit, at which the chunk of eight columns from `col` on of a row stands. Both count
    /// within the unit.
    pub fn chunk_at(row: u64, col: u64) -> u64 {
        let (atom, row) = (row / 8, row % 8);
        atom * Self::UNIT / 2 + row * Self::COLS + ((col / Self::CHUNK) ^ row) * Self::CHUNK
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_of_a_unit_are_a_permutation() {
        let mut places: Vec<u64> =
            (0..16).flat_map(|row| (0..8).map(move |chunk| Tiles::chunk_at(row, chunk * 8))).collect();
        places.sort_unstable();
        assert_eq!(places, (0..128).map(|chunk| chunk * 8).collect::<Vec<_>>());
        // row 3, column 17: chunk 2 stands at 2 ^ 3 = 1
        assert_eq!(Tiles::chunk_at(3, 16), 3 * 64 + 8);
    }

    #[test]
    fn rows_of_halves_take_turns() {
        let places: Vec<u64> = (0..32).map(|row| Tiles::place_of_half_row(row, 32)).collect();
        assert_eq!((places[0], places[7], places[8], places[16], places[31]), (0, 7, 16, 8, 31));
        assert!((0..32).all(|row| Tiles::half_row_at(places[row as usize], 32) == row));
    }

    #[test]
    fn sizes_are_padded() {
        let tiles = Tiles::of(17, 65).expect("small");
        assert_eq!((tiles.strips, tiles.units, tiles.elements()), (2, 2, Some(4096)));
        assert_eq!(Tiles::of(u64::MAX, 64), None);
    }
}
