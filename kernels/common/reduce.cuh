// Reductions in a fixed order: the same bits in every run.
#pragma once
#include "common/types.cuh"

namespace smelt {

constexpr u32 kFullWarp = 0xffffffffu;

// The sum over the 32 lanes of a warp, in every lane.
__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(kFullWarp, x, offset);
  return x;
}

// The largest over the 32 lanes of a warp, in every lane.
__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) x = fmaxf(x, __shfl_xor_sync(kFullWarp, x, offset));
  return x;
}

// The sum over a block of `kThreads` threads, in every thread. All of them call it, and may call it again at once.
template <int kThreads> __device__ __forceinline__ float block_sum(float x) {
  static_assert(kThreads % 32 == 0 && kThreads <= 1024, "whole warps");
  constexpr int kWarps = kThreads / 32;
  __shared__ float partial[kWarps];
  x = warp_sum(x);
  if constexpr (kWarps == 1) return x;
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = x;
  __syncthreads();
  float sum = 0.0f;
#pragma unroll
  for (int warp = 0; warp < kWarps; ++warp) sum += partial[warp];
  __syncthreads();
  return sum;
}

// The largest over a block of `kThreads` threads, in every thread. All of them call it, once.
template <int kThreads> __device__ __forceinline__ u32 block_max(u32 x) {
  static_assert(kThreads % 32 == 0 && kThreads <= 1024, "whole warps");
  constexpr int kWarps = kThreads / 32;
  __shared__ u32 largest[kWarps];
  x = __reduce_max_sync(kFullWarp, x);
  if constexpr (kWarps == 1) return x;
  if (threadIdx.x % 32 == 0) largest[threadIdx.x / 32] = x;
  __syncthreads();
#pragma unroll
  for (int warp = 0; warp < kWarps; ++warp) x = max(x, largest[warp]);
  return x;
}

}  // namespace smelt
