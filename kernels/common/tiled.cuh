// The tiled layout of a matrix: [strips of 16 rows][units][2048 bytes]. A unit is two atoms of 8 rows x 128 bytes,
// which are 64 columns of 16 bits, 128 of 8 bits or 256 of 4 bits; the 16-byte chunk c of row r of an atom is at chunk
// c ^ r. Eight 4-bit values, each with 8 added, share a word: value 2i at bits 4i, value 2i + 1 at bits 16 + 4i.
#pragma once
#include "common/types.cuh"

namespace smelt {

// Columns of a unit, and of a chunk.
template <class T> constexpr int kUnitCols = 128 / sizeof(T);
template <> constexpr int kUnitCols<i4> = 256;
template <class T> constexpr int kChunkCols = kUnitCols<T> / 8;

// The byte offset of the chunk with column `col` of a row, in a matrix of `cols` columns.
template <class T> __device__ __forceinline__ i64 tiled_chunk(i64 row, i64 col, i64 cols) {
  constexpr int kCols = kUnitCols<T>;
  const i64 unit = row / 16 * ((cols + kCols - 1) / kCols) + col / kCols;
  const int atom = int(row / 8 % 2), r = int(row % 8), c = int(col % kCols) / kChunkCols<T>;
  return unit * 2048 + atom * 1024 + r * 128 + (c ^ r) * 16;
}

// The element offset of column `col` of a row.
template <class T> __device__ __forceinline__ i64 tiled_at(i64 row, i64 col, i64 cols) {
  return tiled_chunk<T>(row, col, cols) / int(sizeof(T)) + col % kChunkCols<T>;
}

// The word that holds a 4-bit value, and its shift.
__device__ __forceinline__ i64 tiled_word(i64 row, i64 col, i64 cols) {
  return tiled_chunk<i4>(row, col, cols) / 4 + col % kChunkCols<i4> / 8;
}
__device__ __forceinline__ int tiled_shift(i64 col) { return 16 * int(col % 2) + 4 * int(col % 8 / 2); }

// The position of a row among the rows of strips that have eight rows of the first half, then the same of the second.
__device__ __forceinline__ i64 half_row_place(i64 row, i64 rows) {
  const i64 half = row < rows / 2 ? 0 : 1, r = row - half * (rows / 2);
  return r / 8 * 16 + half * 8 + r % 8;
}

}  // namespace smelt
