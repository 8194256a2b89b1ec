// Loads of shared memory by its address: PTX ISA, "ld".
#pragma once
#include "common/types.cuh"

namespace smelt::ptx {

__device__ __forceinline__ void ld_shared(u32 address, u32 (&words)[4]) {
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
               : "r"(address)
               : "memory");
}

__device__ __forceinline__ u16 ld_shared_u16(u32 address) {
  u16 half;
  asm volatile("ld.shared.u16 %0, [%1];" : "=h"(half) : "r"(address) : "memory");
  return half;
}

}  // namespace smelt::ptx
