// out = kLimit * tanh(x / kLimit), element by element over [rows][kCols]; in float, rounded once.
//
//   x, out [rows][kCols] of T
//   Grid: ceil(rows * kCols / 2048) blocks, eight elements a thread.
#pragma once
#include "common/body.cuh"

namespace custom {

using namespace smelt;

template <class T, int kCols, float kLimit> struct SoftClip {
  static_assert(kLimit > 0.0f, "a positive limit");
  static constexpr int kThreads = 256;
  static constexpr int kElements = 8;

  T* out;
  const T* x;
  int rows;

  // No weights to ask for.
  __device__ __forceinline__ void stream(int) {}

  __device__ __forceinline__ void tile(int tile) {
    const i64 count = i64(rows) * kCols;
    const i64 first = i64(tile) * kThreads * kElements + threadIdx.x;
#pragma unroll
    for (int i = 0; i < kElements; ++i) {
      // neighbouring threads have neighbouring elements
      const i64 at = first + i * kThreads;
      if (at < count) out[at] = from_float<T>(kLimit * tanhf(to_float(x[at]) / kLimit));
    }
  }
};

}  // namespace custom
