// Powers of two: PTX ISA, "ex2".
#pragma once

namespace smelt::ptx {

// 2^x, within 2 units in the last place; results below 2^-126 are zero, 2^-inf too.
__device__ __forceinline__ float ex2_approx_ftz_f32(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

}  // namespace smelt::ptx
