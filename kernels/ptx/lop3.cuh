// Bitwise operations of three words: PTX ISA, "lop3".
#pragma once
#include "common/types.cuh"

namespace smelt::ptx {

// (x & mask) | bits, as one instruction.
template <u32 kMask> __device__ __forceinline__ u32 lop3_and_or(u32 x, u32 bits) {
  u32 d;
  asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(d) : "r"(x), "n"(kMask), "r"(bits));
  return d;
}

}  // namespace smelt::ptx
