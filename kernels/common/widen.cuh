// Quantized 8-bit and 4-bit values as floats, without rounding: each is exact in bf16 and in f16.
#pragma once
#include "common/types.cuh"
#include "ptx/half2.cuh"
#include "ptx/lop3.cuh"

namespace smelt {

__device__ __forceinline__ float to_float(i8 x) { return float(x); }
// In a byte of its own.
__device__ __forceinline__ float to_float(i4 x) { return float(i8(x.bits)); }
__device__ __forceinline__ float to_float(f8e4m3 x) { return ptx::cvt_f32_f16(u16(ptx::cvt_rn_f16x2_e4m3x2(x.bits))); }

template <> __device__ __forceinline__ i8 from_float<i8>(float x) {
  return i8(min(max(__float2int_rn(x), -128), 127));
}
template <> __device__ __forceinline__ i4 from_float<i4>(float x) {
  return {u8(min(max(__float2int_rn(x), -8), 7))};
}
template <> __device__ __forceinline__ f8e4m3 from_float<f8e4m3>(float x) {
  return {u8(ptx::cvt_rn_satfinite_e4m3x2_f32(0.0f, x))};
}

// A 16-bit float in which integers have a step of one from here on, twice: 128 in bf16, 1024 in f16.
template <class T> constexpr u32 kUnits2 = 0;
template <> constexpr u32 kUnits2<bf16> = 0x43004300;
template <> constexpr u32 kUnits2<f16> = 0x64006400;

// The values of a word of a tile as pairs of T, in the order of their columns.
template <class W, class T> struct Widen;

template <class T> struct Widen<i8, T> {
  static constexpr int kPairs = 2;

  static __device__ __forceinline__ void pairs(u32 (&out)[kPairs], u32 word) {
#pragma unroll
    for (int i = 0; i < kPairs; ++i) {
      const u32 spread = __byte_perm(word, 0, i == 0 ? 0x4140 : 0x4342);  // {0, q, 0, q}
      // the lower seven bits minus the sign bit with its weight of 128
      out[i] = ptx::sub_rn_x2<T>(ptx::lop3_and_or<0x007f007f>(spread, kUnits2<T>),
                                 ptx::lop3_and_or<0x00800080>(spread, kUnits2<T>));
    }
  }
};

template <class T> struct Widen<i4, T> {
  static constexpr int kPairs = 4;

  static __device__ __forceinline__ void pairs(u32 (&out)[kPairs], u32 word) {
#pragma unroll
    for (int i = 0; i < kPairs; ++i) out[i] = pair(word >> (4 * i));
  }

  // The same with kOffset added to each value, which saves a subtraction.
  static constexpr float kOffset = 8 + (sizeof(T) == 2 && kUnits2<T> == kUnits2<bf16> ? 128 : 1024);

  static __device__ __forceinline__ void pairs_with_offset(u32 (&out)[kPairs], u32 word) {
#pragma unroll
    for (int i = 0; i < kPairs; ++i) out[i] = ptx::lop3_and_or<0x000f000f>(word >> (4 * i), kUnits2<T>);
  }

  // The pair at the lowest bits of the halves of a word; stored with 8 added.
  static __device__ __forceinline__ u32 pair(u32 shifted) {
    return ptx::sub_rn_x2<T>(ptx::lop3_and_or<0x000f000f>(shifted, kUnits2<T>), kUnits2<T> + 0x00080008);
  }
};

template <> struct Widen<f8e4m3, f16> {
  static constexpr int kPairs = 2;

  static __device__ __forceinline__ void pairs(u32 (&out)[kPairs], u32 word) {
    out[0] = ptx::cvt_rn_f16x2_e4m3x2(u16(word));
    out[1] = ptx::cvt_rn_f16x2_e4m3x2(u16(word >> 16));
  }
};

template <> struct Widen<f8e4m3, bf16> {
  static constexpr int kPairs = 2;

  static __device__ __forceinline__ void pairs(u32 (&out)[kPairs], u32 word) {
    Widen<f8e4m3, f16>::pairs(out, word);
#pragma unroll
    for (int i = 0; i < kPairs; ++i)
      out[i] = pack2<bf16>(ptx::cvt_f32_f16(u16(out[i])), ptx::cvt_f32_f16(u16(out[i] >> 16)));
  }
};

}  // namespace smelt
