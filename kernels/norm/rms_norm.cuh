// normed = x * rsqrt(mean(x^2) + kEps) * weight over the last axis; AddRmsNorm normalizes a + b and stores that sum,
// too.
//
//   x, a, b, sum [rows][kCols] of T; normed of N; weight [kCols] of W, which no earlier launch writes
//   Sums are in float, and of the unrounded a + b
//   Grid: rows, one block of kBlock threads each.
#pragma once
#include "norm/row.cuh"

namespace smelt {

template <class T, class N, class W, int kCols, float kEps, int kBlock> struct RmsNorm {
  using Row = NormRow<T, N, W, kCols, kEps, kBlock>;
  static constexpr int kThreads = kBlock;

  N* normed;
  const T* x;
  const W* weight;
  int rows;

  Row row = {};

  __device__ __forceinline__ void stream(int) { row.stream(weight, nullptr); }

  __device__ __forceinline__ void tile(int tile) {
    const i64 start = i64(tile) * kCols;
    const auto read = [&](int column, float (&values)[Row::kWidth]) { Row::read(x + start + column, values); };
    row.norm(normed + start, weight, nullptr, read, [](int, const float (&)[Row::kWidth]) {});
  }
};

template <class T, class N, class W, int kCols, float kEps, int kBlock> struct AddRmsNorm {
  using Row = NormRow<T, N, W, kCols, kEps, kBlock>;
  static constexpr int kThreads = kBlock;

  T* sum;
  N* normed;
  const T* a;
  const T* b;
  const W* weight;
  int rows;

  Row row = {};

  __device__ __forceinline__ void stream(int) { row.stream(weight, nullptr); }

  __device__ __forceinline__ void tile(int tile) {
    const i64 start = i64(tile) * kCols;
    const auto read = [&](int column, float (&values)[Row::kWidth]) {
      Row::read_sum(a + start + column, b + start + column, values);
    };
    const auto write = [&](int column, const float (&sums)[Row::kWidth]) { Row::write(sum + start + column, sums); };
    row.norm(normed + start, weight, nullptr, read, write);
  }
};

}  // namespace smelt
