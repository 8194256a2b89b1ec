// The row that a block normalizes: shared by the norms, and by linear kernels with a norm as prologue.
#pragma once
#include "common/body.cuh"
#include "common/reduce.cuh"

namespace smelt {

// In each iteration a thread takes kWidth columns. kCentered: the mean is subtracted first, and there may be a bias.
template <class T, class N, class W, int kCols, float kEps, int kBlock, bool kCentered = false> struct NormRow {
  static_assert(kBlock % 32 == 0 && kBlock >= 32 && kBlock <= 1024, "whole warps");
  static constexpr int kWidth = vector_width<T, kCols>();
  static constexpr int kTurns = ceil_div(kCols, kWidth * kBlock);
  // A short row stays in registers between the passes, with its weight and bias; a longer one is read in each.
  static constexpr bool kKept = kTurns * kWidth <= 16;
  static constexpr int kKeptTurns = kKept ? kTurns : 1;
  using Values = Vec<T, kWidth>;
  using Weights = Vec<W, kWidth>;

  float x[kKeptTurns][kWidth];
  Weights weights[kKeptTurns];
  Weights biases[kCentered ? kKeptTurns : 1];

  // Calls `visit(at, column)` for the first column of each iteration, which is stored at `at`.
  template <class Visit> static __device__ __forceinline__ void each(Visit visit) {
#pragma unroll kKeptTurns
    for (int turn = 0; turn < kTurns; ++turn) {
      const int column = (turn * kBlock + int(threadIdx.x)) * kWidth;
      if (column < kCols) visit(kKept ? turn : 0, column);
    }
  }

  // The values at `from`, or the sums of two rows.
  static __device__ __forceinline__ void read(const T* from, float (&elements)[kWidth]) {
    const Values values = *reinterpret_cast<const Values*>(from);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) elements[i] = to_float(values[i]);
  }
  static __device__ __forceinline__ void read_sum(const T* a, const T* b, float (&elements)[kWidth]) {
    const Values left = *reinterpret_cast<const Values*>(a), right = *reinterpret_cast<const Values*>(b);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) elements[i] = to_float(left[i]) + to_float(right[i]);
  }
  static __device__ __forceinline__ void write(T* to, const float (&elements)[kWidth]) {
    Values values;
#pragma unroll
    for (int i = 0; i < kWidth; ++i) values[i] = from_float<T>(elements[i]);
    *reinterpret_cast<Values*>(to) = values;
  }

  __device__ __forceinline__ void load_weight(const W* weight, const W* bias, int at, int column) {
    weights[at] = *reinterpret_cast<const Weights*>(weight + column);
    if constexpr (kCentered) {
      if (bias != nullptr) biases[at] = *reinterpret_cast<const Weights*>(bias + column);
    }
  }

  __device__ __forceinline__ void stream(const W* weight, const W* bias) {
    if constexpr (kKept) each([&](int at, int column) { load_weight(weight, bias, at, column); });
  }

  // The mean to subtract, and the factor.
  struct Moments {
    float mean;
    float scale;
  };

  // `read(column, x)` returns the values of an iteration.
  template <class Read> __device__ __forceinline__ Moments moments(Read read) {
    // load
    float sum = 0.0f;
    each([&](int at, int column) {
      read(column, x[at]);
#pragma unroll
      for (int i = 0; i < kWidth; ++i) sum += kCentered ? x[at][i] : x[at][i] * x[at][i];
    });

    // reduce
    float mean = 0.0f;
    if constexpr (kCentered) {
      mean = block_sum<kBlock>(sum) / kCols;
      sum = 0.0f;
      each([&](int at, int column) {
        if constexpr (!kKept) read(column, x[at]);
#pragma unroll
        for (int i = 0; i < kWidth; ++i) sum += (x[at][i] - mean) * (x[at][i] - mean);
      });
    }
    return {mean, rsqrtf(block_sum<kBlock>(sum) / kCols + kEps)};
  }

  // The normalized values of an iteration; the values before the norm are in `x[at]`, too.
  template <class Read>
  __device__ __forceinline__ Vec<N, kWidth> normed(Moments moments, const W* weight, const W* bias, int at, int column,
                                                   Read read) {
    if constexpr (!kKept) read(column, x[at]), load_weight(weight, bias, at, column);
    Vec<N, kWidth> values;
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      float value = kCentered ? x[at][i] - moments.mean : x[at][i];
      value = value * moments.scale * to_float(weights[at][i]);
      if constexpr (kCentered) {
        if (bias != nullptr) value += to_float(biases[at][i]);
      }
      values[i] = from_float<N>(value);
    }
    return values;
  }

  // `write(column, x)` gets the values of `read` once all are read.
  template <class Read, class Write>
  __device__ __forceinline__ void norm(N* to, const W* weight, const W* bias, Read read, Write write) {
    const Moments found = moments(read);

    // store
    each([&](int at, int column) {
      const auto values = normed(found, weight, bias, at, column, read);
      write(column, x[at]);
      *reinterpret_cast<Vec<N, kWidth>*>(to + column) = values;
    });
  }
};

}  // namespace smelt
