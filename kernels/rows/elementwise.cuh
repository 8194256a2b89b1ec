// Elementwise kernels over [rows][kCols]: computed in float and rounded once. Code shared by regions, and
//
//   Swiglu  out = silu(left half of a row) * right half, from gate_up [rows][2 * kCols]
//   Grid: ceil(rows * kCols / 2048) blocks, eight elements per thread.
#pragma once
#include "common/body.cuh"
#include "common/silu.cuh"

namespace smelt {

constexpr int kElementThreads = 256;

// Calls `each(at)` for the first element of every vector of kWidth that this thread has in a tile.
template <int kCols, int kWidth, class Each>
__device__ __forceinline__ void each_vector(int tile, int rows, Each each) {
  constexpr int kTurns = 8 / kWidth;
#pragma unroll
  for (int turn = 0; turn < kTurns; ++turn) {
    const i64 at = ((i64(tile) * kTurns + turn) * kElementThreads + threadIdx.x) * kWidth;
    if (at < i64(rows) * kCols) each(at);
  }
}

// Stores f(0), f(1), ... as a vector.
template <class T, int kWidth, class F> __device__ __forceinline__ void store_vector(T* out, F f) {
  Vec<T, kWidth> values;
#pragma unroll
  for (int i = 0; i < kWidth; ++i) values[i] = from_float<T>(f(i));
  *reinterpret_cast<Vec<T, kWidth>*>(out) = values;
}

template <int kWidth, class T> __device__ __forceinline__ Vec<T, kWidth> load_vector(const T* x) {
  return *reinterpret_cast<const Vec<T, kWidth>*>(x);
}

template <class T, int kCols> struct Swiglu {
  static constexpr int kThreads = kElementThreads;
  static constexpr int kWidth = vector_width<T, kCols>();

  T* out;
  const T* gate_up;
  int rows;

  __device__ __forceinline__ void stream(int) {}

  __device__ __forceinline__ void tile(int tile) {
    each_vector<kCols, kWidth>(tile, rows, [&](i64 at) {
      const T* left = gate_up + at + at / kCols * kCols;
      const auto gate = load_vector<kWidth>(left), up = load_vector<kWidth>(left + kCols);
      store_vector<T, kWidth>(out + at, [&](int i) { return silu_for<T>(to_float(gate[i])) * to_float(up[i]); });
    });
  }
};

}  // namespace smelt
