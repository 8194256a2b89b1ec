// Arithmetic on pairs of 16-bit floats: PTX ISA, "sub".
#pragma once
#include "common/types.cuh"

namespace smelt::ptx {

// a - b, rounded to nearest even. T is bf16 or f16.
template <class T> __device__ __forceinline__ u32 sub_rn_x2(u32 a, u32 b);

template <> __device__ __forceinline__ u32 sub_rn_x2<bf16>(u32 a, u32 b) {
  u32 d;
  asm("sub.rn.bf16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
  return d;
}

template <> __device__ __forceinline__ u32 sub_rn_x2<f16>(u32 a, u32 b) {
  u32 d;
  asm("sub.rn.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
  return d;
}

}  // namespace smelt::ptx
