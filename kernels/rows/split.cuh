// Splits each row of x into parts: x [rows][sum of kSizes] to one [rows][size] for each size, of T.
//
//   Grid: rows, one block each.
#pragma once
#include "common/body.cuh"

namespace smelt {

template <class T, int... kSizes> struct Split {
  static constexpr int kThreads = 256;
  static constexpr int kParts = sizeof...(kSizes);
  static constexpr int kCols = (kSizes + ...);
  static constexpr int kSize[kParts] = {kSizes...};
  // A power of two divides all sizes, and so all offsets, where it divides their bitwise or.
  static constexpr int kWidth = vector_width<T, (kSizes | ...)>();
  using Values = Vec<T, kWidth>;

  T* parts[kParts];
  const T* x;
  int rows;

  __device__ __forceinline__ void stream(int) {}

  __device__ __forceinline__ void tile(int tile) {
    const T* from = x + i64(tile) * kCols;
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      T* to = parts[part] + i64(tile) * kSize[part];
      for (int col = threadIdx.x * kWidth; col < kSize[part]; col += kThreads * kWidth) {
        *reinterpret_cast<Values*>(to + col) = *reinterpret_cast<const Values*>(from + col);
      }
      from += kSize[part];
    }
  }
};

}  // namespace smelt
