// Element by element over [rows][kCols]: out = op(inputs), computed in float and rounded once.
//
//   Grid: ceil(rows * kCols / 2048) blocks, eight elements a thread.
#pragma once
#include "common/body.cuh"
#include "common/silu.cuh"

namespace smelt {

// What a block of a kernel over elements takes.
template <int kWidth> struct Elements {
  static constexpr int kThreads = 256;
  static constexpr int kTurns = 8 / kWidth;

  // The first element of this thread in a turn.
  static __device__ __forceinline__ i64 at(int tile, int turn) {
    return ((i64(tile) * kTurns + turn) * kThreads + threadIdx.x) * kWidth;
  }
};

struct AddOp {
  static __device__ __forceinline__ float of(float a, float b) { return a + b; }
};

struct MulOp {
  static __device__ __forceinline__ float of(float a, float b) { return a * b; }
};

struct SiluMulOp {
  static __device__ __forceinline__ float of(float gate, float up) { return silu(gate) * up; }
};

template <class Op, class T, int kCols> struct Binary {
  static constexpr int kWidth = vector_width<T, kCols>();
  using Block = Elements<kWidth>;
  using Values = Vec<T, kWidth>;
  static constexpr int kThreads = Block::kThreads;

  T* out;
  const T* a;
  const T* b;
  int rows;

  __device__ __forceinline__ void stream(int) {}

  __device__ __forceinline__ void tile(int tile) {
#pragma unroll
    for (int turn = 0; turn < Block::kTurns; ++turn) {
      const i64 at = Block::at(tile, turn);
      if (at >= i64(rows) * kCols) return;
      const Values x = *reinterpret_cast<const Values*>(a + at), y = *reinterpret_cast<const Values*>(b + at);
      Values values;
#pragma unroll
      for (int i = 0; i < kWidth; ++i) values[i] = from_float<T>(Op::of(to_float(x[i]), to_float(y[i])));
      *reinterpret_cast<Values*>(out + at) = values;
    }
  }
};

template <class T, int kCols> struct Silu {
  static constexpr int kWidth = vector_width<T, kCols>();
  using Block = Elements<kWidth>;
  using Values = Vec<T, kWidth>;
  static constexpr int kThreads = Block::kThreads;

  T* out;
  const T* x;
  int rows;

  __device__ __forceinline__ void stream(int) {}

  __device__ __forceinline__ void tile(int tile) {
#pragma unroll
    for (int turn = 0; turn < Block::kTurns; ++turn) {
      const i64 at = Block::at(tile, turn);
      if (at >= i64(rows) * kCols) return;
      Values values = *reinterpret_cast<const Values*>(x + at);
#pragma unroll
      for (int i = 0; i < kWidth; ++i) values[i] = from_float<T>(silu(to_float(values[i])));
      *reinterpret_cast<Values*>(out + at) = values;
    }
  }
};

// Swiglu: silu of the left half of each row times the right half, [rows][2 * kCols] to [rows][kCols].
template <class T, int kCols> struct Swiglu {
  static constexpr int kWidth = vector_width<T, kCols>();
  using Block = Elements<kWidth>;
  using Values = Vec<T, kWidth>;
  static constexpr int kThreads = Block::kThreads;

  T* out;
  const T* gate_up;
  int rows;

  __device__ __forceinline__ void stream(int) {}

  __device__ __forceinline__ void tile(int tile) {
#pragma unroll
    for (int turn = 0; turn < Block::kTurns; ++turn) {
      const i64 at = Block::at(tile, turn);
      if (at >= i64(rows) * kCols) return;
      const T* left = gate_up + at + at / kCols * kCols;
      const Values gate = *reinterpret_cast<const Values*>(left);
      const Values up = *reinterpret_cast<const Values*>(left + kCols);
      Values values;
#pragma unroll
      for (int i = 0; i < kWidth; ++i) values[i] = from_float<T>(silu(to_float(gate[i])) * to_float(up[i]));
      *reinterpret_cast<Values*>(out + at) = values;
    }
  }
};

// The same values in another float type.
template <class From, class To, int kCols> struct Cast {
  static constexpr int kWidth = sizeof(From) > sizeof(To) ? vector_width<From, kCols>() : vector_width<To, kCols>();
  using Block = Elements<kWidth>;
  static constexpr int kThreads = Block::kThreads;

  To* out;
  const From* x;
  int rows;

  __device__ __forceinline__ void stream(int) {}

  __device__ __forceinline__ void tile(int tile) {
#pragma unroll
    for (int turn = 0; turn < Block::kTurns; ++turn) {
      const i64 at = Block::at(tile, turn);
      if (at >= i64(rows) * kCols) return;
      const Vec<From, kWidth> values = *reinterpret_cast<const Vec<From, kWidth>*>(x + at);
      Vec<To, kWidth> rounded;
#pragma unroll
      for (int i = 0; i < kWidth; ++i) rounded[i] = from_float<To>(to_float(values[i]));
      *reinterpret_cast<Vec<To, kWidth>*>(out + at) = rounded;
    }
  }
};

}  // namespace smelt
