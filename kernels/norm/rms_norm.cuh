// normed = x * rsqrt(mean(x^2) + kEps) * weight over the last axis; AddRmsNorm norms a + b and stores that sum, too.
//
//   x, a, b, sum [rows][kCols] of T; normed of N; weight [kCols] of W, which no launch before writes
//   Sums are in float, and of the unrounded a + b
//   Grid: rows, one block of kBlock threads each.
#pragma once
#include "common/body.cuh"
#include "common/reduce.cuh"

namespace smelt {

// The row of a block: in each turn a thread takes kWidth columns.
template <class T, class N, class W, int kCols, float kEps, int kBlock> struct NormRow {
  static_assert(kBlock % 32 == 0 && kBlock >= 32 && kBlock <= 1024, "whole warps");
  static constexpr int kWidth = vector_width<T, kCols>();
  static constexpr int kTurns = ceil_div(kCols, kWidth * kBlock);
  // A short row stays in registers between the two passes, with its gain; a longer one is read in both.
  static constexpr bool kKept = kTurns * kWidth <= 16;
  static constexpr int kHeld = kKept ? kTurns : 1;
  using Values = Vec<T, kWidth>;
  using Gains = Vec<W, kWidth>;

  float x[kHeld][kWidth];
  Gains gain[kHeld];

  // Calls `visit(at, column)` for the first column of each turn, which is held at `at`.
  template <class Visit> static __device__ __forceinline__ void each(Visit visit) {
#pragma unroll kHeld
    for (int turn = 0; turn < kTurns; ++turn) {
      const int column = (turn * kBlock + int(threadIdx.x)) * kWidth;
      if (column < kCols) visit(kKept ? turn : 0, column);
    }
  }

  __device__ __forceinline__ void load_gain(const W* weight, int at, int column) {
    gain[at] = *reinterpret_cast<const Gains*>(weight + column);
  }

  __device__ __forceinline__ void stream(const W* weight) {
    if constexpr (kKept) each([&](int at, int column) { load_gain(weight, at, column); });
  }

  // `read(column, x)` gives the values of a turn; `write(column, x)` takes them once all are read.
  template <class Read, class Write>
  __device__ __forceinline__ void norm(N* normed, const W* weight, Read read, Write write) {
    // load
    float squares = 0.0f;
    each([&](int at, int column) {
      read(column, x[at]);
#pragma unroll
      for (int i = 0; i < kWidth; ++i) squares += x[at][i] * x[at][i];
    });

    // reduce
    const float scale = rsqrtf(block_sum<kBlock>(squares) / kCols + kEps);

    // store
    each([&](int at, int column) {
      if constexpr (!kKept) read(column, x[at]), load_gain(weight, at, column);
      write(column, x[at]);
      Vec<N, kWidth> values;
#pragma unroll
      for (int i = 0; i < kWidth; ++i) values[i] = from_float<N>(x[at][i] * scale * to_float(gain[at][i]));
      *reinterpret_cast<Vec<N, kWidth>*>(normed + column) = values;
    });
  }
};

template <class T, class N, class W, int kCols, float kEps, int kBlock> struct RmsNorm {
  using Row = NormRow<T, N, W, kCols, kEps, kBlock>;
  using Values = typename Row::Values;
  static constexpr int kThreads = kBlock;

  N* normed;
  const T* x;
  const W* weight;
  int rows;

  Row row = {};

  __device__ __forceinline__ void stream(int) { row.stream(weight); }

  __device__ __forceinline__ void tile(int tile) {
    const i64 start = i64(tile) * kCols;
    const auto read = [&](int column, float (&held)[Row::kWidth]) {
      const Values values = *reinterpret_cast<const Values*>(x + start + column);
#pragma unroll
      for (int i = 0; i < Row::kWidth; ++i) held[i] = to_float(values[i]);
    };
    row.norm(normed + start, weight, read, [](int, const float (&)[Row::kWidth]) {});
  }
};

template <class T, class N, class W, int kCols, float kEps, int kBlock> struct AddRmsNorm {
  using Row = NormRow<T, N, W, kCols, kEps, kBlock>;
  using Values = typename Row::Values;
  static constexpr int kThreads = kBlock;

  T* sum;
  N* normed;
  const T* a;
  const T* b;
  const W* weight;
  int rows;

  Row row = {};

  __device__ __forceinline__ void stream(int) { row.stream(weight); }

  __device__ __forceinline__ void tile(int tile) {
    const i64 start = i64(tile) * kCols;
    const auto read = [&](int column, float (&held)[Row::kWidth]) {
      const Values left = *reinterpret_cast<const Values*>(a + start + column);
      const Values right = *reinterpret_cast<const Values*>(b + start + column);
#pragma unroll
      for (int i = 0; i < Row::kWidth; ++i) held[i] = to_float(left[i]) + to_float(right[i]);
    };
    const auto write = [&](int column, const float (&held)[Row::kWidth]) {
      Values values;
#pragma unroll
      for (int i = 0; i < Row::kWidth; ++i) values[i] = from_float<T>(held[i]);
      *reinterpret_cast<Values*>(sum + start + column) = values;
    };
    row.norm(normed + start, weight, read, write);
  }
};

}  // namespace smelt
