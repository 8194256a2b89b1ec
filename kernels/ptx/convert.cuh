// Conversions between 16-bit floats and float: PTX ISA, "cvt".
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

// `high` lands in the upper half.
__device__ __forceinline__ unsigned cvt_rn_bf16x2_f32(float high, float low) {
  unsigned bits;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
  return bits;
}

// `high` lands in the upper half.
__device__ __forceinline__ unsigned cvt_rn_f16x2_f32(float high, float low) {
  unsigned bits;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
  return bits;
}

}  // namespace smelt::ptx
