// Registers of a warpgroup, from and to those of its block: PTX ISA, "setmaxnreg". All its threads call it; counts are
// multiples of 8. The kernel needs __launch_bounds__.
#pragma once

namespace smelt::ptx {

template <int kRegisters> __device__ __forceinline__ void setmaxnreg_inc() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

template <int kRegisters> __device__ __forceinline__ void setmaxnreg_dec() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

}  // namespace smelt::ptx
