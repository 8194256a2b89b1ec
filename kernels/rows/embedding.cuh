// Rows of a table by index.
//
//   Embedding   out [tokens][kCols] = table[ids[t]], table [vocab][kCols] of T; kTiled: laid out as in common/tiled.cuh
//   GatherRows  out [rows][kCols] = x[indices[r]], x [x_rows][kCols] of T
//   Out-of-range indices give zero rows. Grid: one block per row of the result.
#pragma once
#include "common/body.cuh"
#include "common/tiled.cuh"

namespace smelt {

// Copies row `index` of a table of `count` rows.
template <class T, int kCols, bool kTiled, int kThreads>
__device__ __forceinline__ void copy_row(T* out, const T* table, int index, int count) {
  // a chunk of a tiled row is 16 bytes, the last one may be partial
  constexpr int kWidth = vector_width<T, kCols>();
  using Values = Vec<T, kWidth>;
  const bool known = index >= 0 && index < count;
  for (int col = threadIdx.x * kWidth; col < kCols; col += kThreads * kWidth) {
    Values values = {};
    if (known) {
      const i64 at = kTiled ? tiled_at<T>(index, col, kCols) : i64(index) * kCols + col;
      values = *reinterpret_cast<const Values*>(table + at);
    }
    *reinterpret_cast<Values*>(out + col) = values;
  }
}

template <class T, int kCols, bool kTiled> struct Embedding {
  static_assert(!kTiled || sizeof(T) == 2, "tables in tiles hold 16-bit elements");
  static constexpr int kThreads = 256;

  T* out;
  const int* ids;
  const T* table;
  int tokens;
  int vocab;

  __device__ __forceinline__ void stream(int) {}

  __device__ __forceinline__ void tile(int tile) {
    copy_row<T, kCols, kTiled, kThreads>(out + i64(tile) * kCols, table, ids[tile], vocab);
  }
};

template <class T, int kCols> struct GatherRows {
  static constexpr int kThreads = 256;

  T* out;
  const T* x;
  const int* indices;
  int rows;
  int x_rows;

  __device__ __forceinline__ void stream(int) {}

  __device__ __forceinline__ void tile(int tile) {
    copy_row<T, kCols, false, kThreads>(out + i64(tile) * kCols, x, indices[tile], x_rows);
  }
};

}  // namespace smelt
