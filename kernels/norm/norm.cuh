// normed = x * rsqrt(mean(x^2) + kEps) * weight over the last axis (RmsNorm), or
// (x - mean(x)) * rsqrt(mean((x - mean(x))^2) + kEps) * weight + bias (LayerNorm, kCentered). AddRmsNorm and
// AddLayerNorm normalize a + b and store that sum, too.
//
//   x, a, b, sum [rows][kCols] of T; normed of N; weight, bias [kCols] of W, which no earlier launch writes; bias may
//   be a literal nullptr in the unit
//   Accumulation is in float, of unrounded a + b
//   Grid: rows, one block of kBlock threads each.
#pragma once
#include "norm/row.cuh"

namespace smelt {

// The arguments after the values: LayerNorm has a bias.
template <class W, bool kCentered> struct NormWeights {
  const W* weight;
  static constexpr const W* bias = nullptr;
};
template <class W> struct NormWeights<W, true> {
  const W* weight;
  const W* bias;
};

template <class T, class N, class W, int kCols, float kEps, int kBlock, bool kCentered> struct Norm {
  using Row = NormRow<T, N, W, kCols, kEps, kBlock, kCentered>;
  static constexpr int kThreads = kBlock;

  N* normed;
  const T* x;
  NormWeights<W, kCentered> weights;
  int rows;

  Row row = {};

  __device__ __forceinline__ void stream(int) { row.stream(weights.weight, weights.bias); }

  __device__ __forceinline__ void tile(int tile) {
    const i64 start = i64(tile) * kCols;
    const auto read = [&](int column, float (&values)[Row::kWidth]) { Row::read(x + start + column, values); };
    row.norm(normed + start, weights.weight, weights.bias, read, [](int, const float (&)[Row::kWidth]) {});
  }
};

template <class T, class N, class W, int kCols, float kEps, int kBlock, bool kCentered> struct AddNorm {
  using Row = NormRow<T, N, W, kCols, kEps, kBlock, kCentered>;
  static constexpr int kThreads = kBlock;

  T* sum;
  N* normed;
  const T* a;
  const T* b;
  NormWeights<W, kCentered> weights;
  int rows;

  Row row = {};

  __device__ __forceinline__ void stream(int) { row.stream(weights.weight, weights.bias); }

  __device__ __forceinline__ void tile(int tile) {
    const i64 start = i64(tile) * kCols;
    const auto read = [&](int column, float (&values)[Row::kWidth]) {
      Row::read_sum(a + start + column, b + start + column, values);
    };
    const auto write = [&](int column, const float (&sums)[Row::kWidth]) { Row::write(sum + start + column, sums); };
    row.norm(normed + start, weights.weight, weights.bias, read, write);
  }
};

template <class T, class N, class W, int kCols, float kEps, int kBlock>
using RmsNorm = Norm<T, N, W, kCols, kEps, kBlock, false>;
template <class T, class N, class W, int kCols, float kEps, int kBlock>
using AddRmsNorm = AddNorm<T, N, W, kCols, kEps, kBlock, false>;
template <class T, class N, class W, int kCols, float kEps, int kBlock>
using LayerNorm = Norm<T, N, W, kCols, kEps, kBlock, true>;
template <class T, class N, class W, int kCols, float kEps, int kBlock>
using AddLayerNorm = AddNorm<T, N, W, kCols, kEps, kBlock, true>;

}  // namespace smelt
