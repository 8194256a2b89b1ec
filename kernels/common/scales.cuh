// Scales of quantized values, and the index of a value's scale.
#pragma once
#include "common/types.cuh"

namespace smelt {

// The scales, of S, of a matrix of kWidth columns: kRows x kCols elements share one; 0 is all of that axis.
template <class S, int kRows, int kCols, int kWidth> struct Scales {
  using Type = S;
  static constexpr bool kScaled = true;
  static constexpr bool kGrouped = kCols != 0;  // a row has several
  static constexpr int kShared = kCols, kSharedRows = kRows;
  static constexpr int kPerRow = kCols == 0 ? 1 : ceil_div(kWidth, kCols);

  // The offset of a row's scales.
  static __device__ __forceinline__ int line(int row) {
    if constexpr (kRows == 0) return 0;
    else return row / kRows * kPerRow;
  }

  // The offset of a column's scale, relative to its row.
  static __device__ __forceinline__ int column(int col) {
    if constexpr (kCols == 0) return 0;
    else return col / kCols;
  }

  static __device__ __forceinline__ float at(const S* scales, int row, int col) {
    return to_float(scales[line(row) + column(col)]);
  }
};

// For unquantized values, without scales.
struct Unscaled {
  using Type = float;
  static constexpr bool kScaled = false, kGrouped = false;
  static constexpr int kShared = 0, kSharedRows = 0, kPerRow = 0;

  static __device__ __forceinline__ int line(int) { return 0; }
  static __device__ __forceinline__ int column(int) { return 0; }
  static __device__ __forceinline__ float at(const float*, int, int) { return 1.0f; }
};

}  // namespace smelt
