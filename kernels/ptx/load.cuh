// Global loads and asynchronous copies with hints: PTX ISA, "ld", "cp.async".
#pragma once
#include "common/types.cuh"

namespace smelt::ptx {

// 16 bytes that this launch reads once and nothing writes while it runs: past L1, whole 256-byte sectors into L2.
__device__ __forceinline__ uint4 ld_global_stream(const void* address) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.L2::256B.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(address));
  return v;
}

// The address of an object in the shared memory window.
__device__ __forceinline__ u32 shared_address(const void* pointer) { return u32(__cvta_generic_to_shared(pointer)); }

// Copies 16 bytes to shared memory, past L1; zeros where `valid` is false.
__device__ __forceinline__ void cp_async_16(u32 shared, const void* global, bool valid = true) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(shared), "l"(global), "r"(valid ? 16 : 0)
               : "memory");
}

__device__ __forceinline__ void cp_async_commit_group() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most `kPending` of this thread's groups are pending.
template <int kPending> __device__ __forceinline__ void cp_async_wait_group() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

}  // namespace smelt::ptx
