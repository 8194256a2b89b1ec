// TMA copies from global to shared memory, which report to an mbarrier: PTX ISA, "cp.async.bulk",
// "cp.async.bulk.tensor", "prefetch.tensormap", "fence.proxy.async". One thread issues them for a whole block.
#pragma once
#include "common/types.cuh"

namespace smelt {

// A matrix and the box that is read from it, encoded by the driver (cuTensorMapEncodeTiled). A kernel takes it as
// `const __grid_constant__ TensorMap` and uses its address.
struct alignas(64) TensorMap {
  u64 opaque[16];
};

namespace ptx {

// `bytes` and both addresses are multiples of 16.
__device__ __forceinline__ void cp_async_bulk(u32 shared, const void* global, u32 bytes, u32 barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(shared),
               "l"(global), "r"(bytes), "r"(barrier)
               : "memory");
}

// The box whose first element is (`column`, `row`); elements outside the matrix are zeros, and count as bytes.
__device__ __forceinline__ void cp_async_bulk_tensor_2d(u32 shared, const TensorMap* map, int column, int row,
                                                        u32 barrier) {
  asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
               "[%0], [%1, {%2, %3}], [%4];" ::"r"(shared),
               "l"(map), "r"(column), "r"(row), "r"(barrier)
               : "memory");
}

// The same with three coordinates, the first along the innermost axis.
__device__ __forceinline__ void cp_async_bulk_tensor_3d(u32 shared, const TensorMap* map, int x, int y, int z,
                                                        u32 barrier) {
  asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
               "[%0], [%1, {%2, %3, %4}], [%5];" ::"r"(shared),
               "l"(map), "r"(x), "r"(y), "r"(z), "r"(barrier)
               : "memory");
}

// This thread's accesses to shared memory are done before copies that are issued after it touch the same bytes: without
// it, a copy may overtake loads that are still under way (PTX ISA, "Async proxy").
__device__ __forceinline__ void fence_proxy_async() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

__device__ __forceinline__ void prefetch_tensormap(const TensorMap* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

}  // namespace ptx
}  // namespace smelt
