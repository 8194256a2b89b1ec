// The epilogue of a sum after its bias: nothing, or an elementwise formula that the unit declares; then rounding, or
// quantization.
#pragma once
#include "common/quantized.cuh"
#include "common/scalar.cuh"

namespace smelt {

struct Same {
  static __device__ __forceinline__ void of(const float* x, float* y) { y[0] = x[0]; }
};

template <class F> __device__ __forceinline__ float apply(float x) {
  float y;
  F::of(&x, &y);
  return y;
}

// A result of Y: rounded, or quantized by the reciprocal of its scale.
template <class Y> __device__ __forceinline__ Y finish(float value, float reciprocal) {
  if constexpr (sizeof(Y) == 1) {
    return quantize<Y, 1>({value}, reciprocal)[0];
  } else {
    return from_float<Y>(value);
  }
}

}  // namespace smelt
