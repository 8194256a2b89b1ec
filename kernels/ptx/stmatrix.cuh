// Stores of matrix fragments to shared memory: PTX ISA, "stmatrix".
#pragma once
#include "common/types.cuh"

namespace smelt::ptx {

// Four 8x8 matrices of 16-bit elements; lane l gives the shared-memory address of row l % 8 of matrix l / 8, and holds
// elements 2 (l % 4) and the next of row l / 4 of each.
__device__ __forceinline__ void stmatrix_x4(u32 address, u32 r0, u32 r1, u32 r2, u32 r3) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(r0), "r"(r1),
               "r"(r2), "r"(r3)
               : "memory");
}

}  // namespace smelt::ptx
