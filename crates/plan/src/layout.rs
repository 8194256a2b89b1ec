//! Memory layouts of weights.

use serde::{Deserialize, Serialize};

use crate::DType;

/// Alignment of each weight in the file and in memory: covers cache lines, vector loads and TMA descriptors.
pub const WEIGHT_ALIGN: u64 = 256;

/// The memory layout of a weight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Layout {
    /// Row-major.
    #[default]
    RowMajor,
    /// Matrices of 16-bit, 8-bit or 4-bit elements in units that tensor cores read without a shuffle: see [`Tiles`].
    Tiled,
    /// The same for a matrix of two halves: each strip has eight rows of the first half, then the same eight of the
    /// second, so that one thread holds matching gate and up values. The number of rows is a multiple of 16.
    TiledHalves,
    /// 4-bit values, row-major, two per byte, the first in the low half. Rows have an even width.
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

/// The tiled layout of a matrix, `[strips][units][2048 bytes]`. A unit holds 16 rows as two atoms of eight rows of 128
/// bytes: 64 columns of 16 bits, 128 of 8 bits, or 256 of 4 bits. The 16-byte chunk `c` of row `r` of an atom is stored
/// at chunk `c ^ (r % 8)`, which is the 128-byte swizzle of shared memory (PTX ISA, "wgmma: shared memory matrix
/// layout"). Rows and columns are padded with zeros; [`Tiles::pack`] defines the order of 4-bit values in a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tiles {
    /// Strips of 16 rows.
    pub strips: u64,
    /// Units in a strip.
    pub units: u64,
    /// Columns of a unit.
    pub cols: u64,
}

impl Tiles {
    /// Rows of a strip.
    pub const ROWS: u64 = 16;
    /// Bytes of a unit.
    pub const UNIT_BYTES: u64 = 2048;
    /// Bytes of a chunk.
    pub const CHUNK_BYTES: u64 = 16;
    /// Chunks of a row of a unit.
    pub const CHUNKS: u64 = 8;

    /// Columns of a unit of such elements; `None` for those without a tiled layout.
    pub fn cols_of(dtype: DType) -> Option<u64> {
        match dtype {
            DType::F16 | DType::BF16 => Some(64),
            DType::I8 | DType::F8E4M3 => Some(128),
            DType::I4 => Some(256),
            DType::F32 | DType::I32 => None,
        }
    }

    /// The tiles of a matrix, if its type has any and its padded size does not overflow.
    pub fn of(dtype: DType, rows: u64, cols: u64) -> Option<Tiles> {
        let of_unit = Tiles::cols_of(dtype)?;
        let tiles = Tiles { strips: rows.div_ceil(Self::ROWS), units: cols.div_ceil(of_unit), cols: of_unit };
        tiles.strips.checked_mul(tiles.units)?.checked_mul(Self::UNIT_BYTES).map(|_| tiles)
    }

    /// The position of row `row`, of a matrix of this many rows, among the rows of the strips of
    /// [`Layout::TiledHalves`]. Rows of other layouts keep their position.
    pub fn place_of_half_row(row: u64, rows: u64) -> u64 {
        let (half, row) = if row < rows / 2 { (0, row) } else { (1, row - rows / 2) };
        row / 8 * Self::ROWS + half * 8 + row % 8
    }

    /// The row at a position: the inverse of [`Tiles::place_of_half_row`].
    pub fn half_row_at(place: u64, rows: u64) -> u64 {
        let (strip, row) = (place / Self::ROWS, place % Self::ROWS);
        row / 8 * (rows / 2) + strip * 8 + row % 8
    }

    /// Bytes with padding.
    pub fn bytes(self) -> u64 {
        self.strips * self.units * Self::UNIT_BYTES
    }

    /// Columns of a chunk.
    pub fn chunk_cols(self) -> u64 {
        self.cols / Self::CHUNKS
    }

    /// The byte offset in its unit of chunk `chunk` of a row of the unit.
    pub fn chunk_at(row: u64, chunk: u64) -> u64 {
        let (atom, row) = (row / 8, row % 8);
        (atom * 8 + row) * Self::CHUNKS * Self::CHUNK_BYTES + (chunk ^ row) * Self::CHUNK_BYTES
    }

    /// Packs a chunk of a row of 4-bit values, given as one byte each; a partial chunk is padded with zeros. Values are
    /// stored plus 8. Eight neighbours share a little-endian word, with the pair `(2i, 2i + 1)` at bits `4i` and `16 +
    /// 4i`: `word >> 4i & 0x000f000f` is that pair in two halves, which two instructions convert to 16-bit floats.
    pub fn pack(codes: &[u8]) -> [u8; Self::CHUNK_BYTES as usize] {
        let mut words = [0x8888_8888u32; 4];
        for (index, code) in codes.iter().enumerate() {
            let (pair, odd) = (index % 8 / 2, index % 2);
            words[index / 8] ^= u32::from(code & 0xf) << (16 * odd + 4 * pair);
        }
        let mut chunk = [0; Self::CHUNK_BYTES as usize];
        chunk.as_chunks_mut::<4>().0.iter_mut().zip(words).for_each(|(cell, word)| *cell = word.to_le_bytes());
        chunk
    }

    /// The padding byte.
    pub fn padding(dtype: DType) -> u8 {
        if dtype == DType::I4 { 0x88 } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_of_a_unit_are_a_permutation() {
        let mut places: Vec<u64> =
            (0..16).flat_map(|row| (0..8).map(move |chunk| Tiles::chunk_at(row, chunk))).collect();
        places.sort_unstable();
        assert_eq!(places, (0..128).map(|chunk| chunk * 16).collect::<Vec<_>>());
        // row 3, chunk 2 is stored at 2 ^ 3 = 1
        assert_eq!(Tiles::chunk_at(3, 2), 3 * 128 + 16);
    }

    #[test]
    fn rows_of_halves_take_turns() {
        let places: Vec<u64> = (0..32).map(|row| Tiles::place_of_half_row(row, 32)).collect();
        assert_eq!((places[0], places[7], places[8], places[16], places[31]), (0, 7, 16, 8, 31));
        assert!((0..32).all(|row| Tiles::half_row_at(places[row as usize], 32) == row));
    }

    #[test]
    fn sizes_are_padded() {
        for (dtype, cols) in [(DType::BF16, 64), (DType::I8, 128), (DType::F8E4M3, 128), (DType::I4, 256)] {
            let tiles = Tiles::of(dtype, 17, cols + 1).expect("small");
            assert_eq!((tiles.strips, tiles.units, tiles.bytes()), (2, 2, 8192), "{dtype}");
        }
        assert_eq!(Tiles::of(DType::BF16, u64::MAX, 64), None);
        assert_eq!(Tiles::of(DType::F32, 16, 64), None);
    }

    #[test]
    fn codes_of_4_bits_lie_in_pairs_16_bits_apart() {
        // -8..=7, and zeros
        let codes: Vec<u8> = (-8..8i8).map(|code| code as u8).collect();
        let chunk = Tiles::pack(&codes);
        let words: Vec<u32> = chunk.as_chunks().0.iter().map(|cell| u32::from_le_bytes(*cell)).collect();
        for (index, code) in codes.iter().chain(&[0; 16]).enumerate() {
            let pair = words[index / 8] >> (4 * (index % 8 / 2)) & 0x000f_000f;
            assert_eq!((pair >> (16 * (index % 2)) & 0xf) as i32 - 8, i32::from(*code as i8), "code {index}");
        }
        assert_eq!(Tiles::pack(&[]), [Tiles::padding(DType::I4); 16]);
    }
}
