// Reads bytes and adds them up, to see how fast they can come: kTurns * kDepth loads of 16 bytes per thread. With
// kBulk, a ring of kDepth copies of 4096 bytes per block instead, `kTurns` copies in all.
#pragma once
#include "common/body.cuh"
#include "ptx/bulk.cuh"
#include "ptx/load.cuh"
#include "ptx/mbarrier.cuh"

namespace smelt {

template <int kWarps, int kDepth, int kTurns, bool kBulk> struct StreamRead {
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kSharedBytes = kBulk ? kDepth * (4096 + 8) : 0;
  static constexpr i64 kBlockBytes = kBulk ? i64(kTurns) * 4096 : i64(kTurns) * kDepth * kThreads * 16;

  u32* y;
  const u8* w;

  uint4 held[kDepth];

  __device__ __forceinline__ void stream(int tile) {
    const u8* from = w + tile * kBlockBytes;
    if constexpr (kBulk) {
      if (threadIdx.x == 0) {
        const u32 ring = ptx::shared_address(shared_memory()), full = ring + kDepth * 4096;
        for (int i = 0; i < kDepth; ++i) ptx::mbarrier_init(full + 8 * i, 1);
        ptx::fence_mbarrier_init();
        for (int i = 0; i < kDepth; ++i) {
          ptx::mbarrier_arrive_expect_tx(full + 8 * i, 4096);
          ptx::cp_async_bulk(ring + 4096 * i, from + 4096 * i, 4096, full + 8 * i);
        }
      }
    } else {
#pragma unroll
      for (int i = 0; i < kDepth; ++i) held[i] = ptx::ld_global_stream(from + (i * kThreads + threadIdx.x) * 16);
    }
  }

  __device__ __forceinline__ void tile(int tile) {
    const u8* from = w + tile * kBlockBytes;
    if constexpr (kBulk) {
      if (threadIdx.x == 0) {
        const u32 ring = ptx::shared_address(shared_memory()), full = ring + kDepth * 4096;
        for (int i = 0; i < kTurns; ++i) {
          const int slot = i % kDepth;
          ptx::mbarrier_wait(full + 8 * slot, i / kDepth & 1);
          if (i + kDepth < kTurns) {
            ptx::mbarrier_arrive_expect_tx(full + 8 * slot, 4096);
            ptx::cp_async_bulk(ring + 4096 * slot, from + 4096 * i64(i + kDepth), 4096, full + 8 * slot);
          }
        }
      }
    } else {
      u32 sum = 0;
#pragma unroll 1
      for (int turn = 1; turn <= kTurns; ++turn)
#pragma unroll
        for (int i = 0; i < kDepth; ++i) {
          sum += held[i].x ^ held[i].y ^ held[i].z ^ held[i].w;
          const i64 at = i64(turn * kDepth + i) * kThreads + threadIdx.x;
          if (turn < kTurns) held[i] = ptx::ld_global_stream(from + at * 16);
        }
      if (sum == 0x12345678) y[0] = sum;
    }
  }
};

}  // namespace smelt
