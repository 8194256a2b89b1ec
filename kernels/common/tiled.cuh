// The tiled layout of a matrix of 16-bit elements: [strips of 16 rows][units of 64 columns][2048 bytes]. A unit is two
// atoms of 8 rows x 128 bytes; the 16-byte chunk c of row r of an atom stands at chunk c ^ r.
#pragma once
#include "common/types.cuh"

namespace smelt {

// The element at which column `col` of a row stands, in a matrix of `cols` columns.
__device__ __forceinline__ i64 tiled_at(i64 row, i64 col, i64 cols) {
  const i64 unit = row / 16 * ((cols + 63) / 64) + col / 64;
  const int atom = int(row / 8 % 2), r = int(row % 8), c = int(col % 64) / 8;
  return unit * 1024 + atom * 512 + r * 64 + (c ^ r) * 8 + col % 8;
}

// Where a row stands among the rows of strips that have eight rows of the first half, then the same of the second.
__device__ __forceinline__ i64 half_row_place(i64 row, i64 rows) {
  const i64 half = row < rows / 2 ? 0 : 1, r = row - half * (rows / 2);
  return r / 8 * 16 + half * 8 + r % 8;
}

}  // namespace smelt
