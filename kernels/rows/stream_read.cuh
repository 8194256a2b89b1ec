// Reads memory once and adds up its words: an upper bound on the read bandwidth of any kernel.
//
//   sums   [tiles]                 the sum of the 32-bit words of each tile, carries beyond 32 bits dropped
//   words  [tiles][kTileBytes / 4]
//   Grid: a block of one warp for each tile. TMA copies kCopyBytes at a time; with 16 stages of 4096 bytes, three
//   blocks fit a multiprocessor, which has 192 KiB in flight: several times what 4.6 TB/s need at a microsecond of
//   latency.
#pragma once
#include "common/body.cuh"
#include "common/limits.cuh"
#include "common/reduce.cuh"
#include "ptx/bulk.cuh"
#include "ptx/load.cuh"
#include "ptx/mbarrier.cuh"

namespace smelt {

template <int kStages, int kCopies> struct StreamRead {
  static constexpr int kThreads = 32;
  static constexpr int kCopyBytes = 4096;
  static constexpr int kBarriers = kStages * kCopyBytes;
  static constexpr int kSharedBytes = kBarriers + 8 * kStages;
  static constexpr i64 kTileBytes = i64(kCopies) * kCopyBytes;
  static_assert(kStages <= kCopies, "every stage is used");
  static_assert(kSharedBytes <= kMaxSharedBytes, "shared memory of a block");

  i32* sums;
  const f32* words;

  // Asks for a copy of the tile. One thread does.
  __device__ __forceinline__ void copy(int tile, int index) const {
    const int stage = index % kStages;
    const u32 ring = ptx::shared_address(shared_memory()), full = ring + kBarriers + 8 * stage;
    const u8* from = reinterpret_cast<const u8*>(words) + tile * kTileBytes + i64(index) * kCopyBytes;
    ptx::mbarrier_arrive_expect_tx(full, kCopyBytes);
    ptx::cp_async_bulk(ring + stage * kCopyBytes, from, kCopyBytes, full);
  }

  __device__ __forceinline__ void stream(int tile) {
    if (threadIdx.x == 0) {
      const u32 full = ptx::shared_address(shared_memory()) + kBarriers;
      for (int stage = 0; stage < kStages; ++stage) ptx::mbarrier_init(full + 8 * stage, 1);
      ptx::fence_mbarrier_init();
      for (int stage = 0; stage < kStages; ++stage) copy(tile, stage);
    }
    __syncwarp();
  }

  __device__ __forceinline__ void tile(int tile) {
    const u32 full = ptx::shared_address(shared_memory()) + kBarriers;
    u32 sum = 0;
    for (int index = 0; index < kCopies; ++index) {
      const int stage = index % kStages;
      // load
      ptx::mbarrier_wait(full + 8 * stage, index / kStages & 1);
      const uint4* arrived = reinterpret_cast<const uint4*>(shared_memory() + stage * kCopyBytes);
#pragma unroll
      for (int i = 0; i < kCopyBytes / 512; ++i) {
        const uint4 v = arrived[32 * i + threadIdx.x];
        sum += v.x + v.y + v.z + v.w;
      }
      // the stage is written again when all lanes have read it
      __syncwarp();
      if (threadIdx.x == 0 && index + kStages < kCopies) copy(tile, index + kStages);
    }
    // reduce
    sum = __reduce_add_sync(kFullWarp, sum);
    // store
    if (threadIdx.x == 0) sums[tile] = i32(sum);
  }
};

}  // namespace smelt
