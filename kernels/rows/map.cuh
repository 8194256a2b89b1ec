// An elementwise formula over [rows][kCols]: computed in float, each result rounded once.
//
//   F::of(x, y)  from x[0], x[1], ... (one element of each operand) the results y[0], y[1], ...
//   Full<T>      an operand of that shape        Row<T>  a broadcast operand [kCols]
//   Grid: ceil(rows * kCols / 2048) blocks, eight elements per thread.
#pragma once
#include "common/scalar.cuh"
#include "rows/elementwise.cuh"

namespace smelt {

template <class T> struct Full {
  using Type = T;
  static constexpr bool kRow = false;
};

template <class T> struct Row {
  using Type = T;
  static constexpr bool kRow = true;
};

// The operands: a list of pointers.
template <class... Operands> struct Inputs {
  static constexpr int kCount = 0, kBytes = 1;
  template <int kCols, int kWidth, int kAll> __device__ __forceinline__ void load(float (&)[kWidth][kAll], i64) const {}
};

template <class First, class... Rest> struct Inputs<First, Rest...> {
  using T = typename First::Type;
  static constexpr int kCount = 1 + Inputs<Rest...>::kCount;
  // of the widest element
  static constexpr int kBytes = sizeof(T) > Inputs<Rest...>::kBytes ? sizeof(T) : Inputs<Rest...>::kBytes;

  const T* first;
  Inputs<Rest...> rest;

  // Element `at + i` of each operand to x[i].
  template <int kCols, int kWidth, int kAll>
  __device__ __forceinline__ void load(float (&x)[kWidth][kAll], i64 at) const {
    const auto values = load_vector<kWidth>(first + (First::kRow ? at % kCols : at));
#pragma unroll
    for (int i = 0; i < kWidth; ++i) x[i][kAll - kCount] = to_float(values[i]);
    rest.template load<kCols>(x, at);
  }
};

// The results: a list of pointers.
template <class... Ts> struct Outputs {
  static constexpr int kCount = 0, kBytes = 1;
  template <int kWidth, int kAll> __device__ __forceinline__ void store(const float (&)[kWidth][kAll], i64) const {}
};

template <class T, class... Rest> struct Outputs<T, Rest...> {
  static constexpr int kCount = 1 + Outputs<Rest...>::kCount;
  static constexpr int kBytes = sizeof(T) > Outputs<Rest...>::kBytes ? sizeof(T) : Outputs<Rest...>::kBytes;

  T* first;
  Outputs<Rest...> rest;

  template <int kWidth, int kAll> __device__ __forceinline__ void store(const float (&y)[kWidth][kAll], i64 at) const {
    store_vector<T, kWidth>(first + at, [&](int i) { return y[i][kAll - kCount]; });
    rest.store(y, at);
  }
};

template <class F, int kCols, class Out, class In> struct Map {
  static constexpr int kThreads = kElementThreads;
  static constexpr int kBytes = In::kBytes > Out::kBytes ? In::kBytes : Out::kBytes;
  static_assert((kBytes == 2 || kBytes == 4) && In::kCount > 0 && Out::kCount > 0);
  // as many elements as 16 bytes of the widest type
  static constexpr int kWidth = kBytes == 4 ? vector_width<float, kCols>() : vector_width<bf16, kCols>();

  Out out;
  In in;
  int rows;

  __device__ __forceinline__ void stream(int) {}

  __device__ __forceinline__ void tile(int tile) {
    each_vector<kCols, kWidth>(tile, rows, [&](i64 at) {
      float x[kWidth][In::kCount], y[kWidth][Out::kCount];
      in.template load<kCols>(x, at);
#pragma unroll
      for (int i = 0; i < kWidth; ++i) F::of(x[i], y[i]);
      out.store(y, at);
    });
  }
};

}  // namespace smelt
