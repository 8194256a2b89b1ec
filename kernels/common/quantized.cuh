// Quantized values: floats divided by a scale, rounded to nearest, ties to even, saturating.
#pragma once
#include "common/types.cuh"

namespace smelt {

// The smallest scale: a row of zeros has one whose reciprocal is finite.
constexpr float kSmallestScale = 0x1p-100f;

template <class C> constexpr float kLargestQuantized = 0.0f;
template <> constexpr float kLargestQuantized<i8> = 127.0f;
template <> constexpr float kLargestQuantized<f8e4m3> = 448.0f;

// The scale of values whose largest magnitude has these bits. A NaN stays one.
template <class C> __device__ __forceinline__ float scale_of(u32 largest) {
  const float scale = __fdiv_rn(__uint_as_float(largest), kLargestQuantized<C>);
  return scale < kSmallestScale ? kSmallestScale : scale;
}

// The bits of a magnitude. They are ordered as magnitudes are, with NaN above all.
__device__ __forceinline__ u32 magnitude(float x) { return __float_as_uint(x) & 0x7fffffff; }

// x[i] * reciprocal, quantized.
template <class C, int kWidth>
__device__ __forceinline__ Vec<C, kWidth> quantize(const float (&x)[kWidth], float reciprocal) {
  Vec<C, kWidth> values;
  if constexpr (kLargestQuantized<C> == kLargestQuantized<i8>) {
#pragma unroll
    for (int i = 0; i < kWidth; ++i) values[i] = C(min(max(__float2int_rn(__fmul_rn(x[i], reciprocal)), -128), 127));
  } else {
#pragma unroll
    for (int i = 0; i < kWidth; i += 2) {
      const float low = __fmul_rn(x[i], reciprocal), high = i + 1 < kWidth ? __fmul_rn(x[i + 1], reciprocal) : 0.0f;
      const u16 pair = ptx::cvt_rn_satfinite_e4m3x2_f32(high, low);
      values[i].bits = u8(pair);
      if (i + 1 < kWidth) values[i + 1].bits = u8(pair >> 8);
    }
  }
  return values;
}

}  // namespace smelt
