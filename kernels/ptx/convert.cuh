// Conversions between floats of 8, 16 and 32 bits: PTX ISA, "cvt".
#pragma once

namespace smelt::ptx {

__device__ __forceinline__ unsigned short cvt_rn_bf16_f32(float x) {
  unsigned short bits;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(x));
  return bits;
}

__device__ __forceinline__ unsigned short cvt_rn_f16_f32(float x) {
  unsigned short bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
  return bits;
}

__device__ __forceinline__ float cvt_f32_f16(unsigned short bits) {
  float x;
  asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
  return x;
}

// `high` is the upper half.
__device__ __forceinline__ unsigned cvt_rn_bf16x2_f32(float high, float low) {
  unsigned bits;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
  return bits;
}

// `high` is the upper half.
__device__ __forceinline__ unsigned cvt_rn_f16x2_f32(float high, float low) {
  unsigned bits;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
  return bits;
}

// To e4m3, saturating; `high` is the upper half.
__device__ __forceinline__ unsigned short cvt_rn_satfinite_e4m3x2_f32(float high, float low) {
  unsigned short bits;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(bits) : "f"(high), "f"(low));
  return bits;
}

// Two e4m3 numbers as f16, exact.
__device__ __forceinline__ unsigned cvt_rn_f16x2_e4m3x2(unsigned short bits) {
  unsigned pair;
  asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(pair) : "h"(bits));
  return pair;
}

}  // namespace smelt::ptx
