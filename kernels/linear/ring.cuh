// A ring in shared memory from which consumer warpgroups multiply: each stage has 128 bytes of k, of the rows of x and
// of the strips of w of a block. One thread of a separate warp issues the TMA copies.
//
//   map_x  of x: box {kStepCols, kBlockRows}, 128-byte swizzle, zeros outside
//   map_w  of the units of w, as words of 8 bytes {256, units of a strip, strips}: box {256, 1, kBlockCols / 16}, zeros
//          outside
//   Tiles go rows first: blocks that read the same weights run together
#pragma once
#include "common/body.cuh"
#include "common/limits.cuh"
#include "ptx/bulk.cuh"
#include "ptx/load.cuh"
#include "ptx/mbarrier.cuh"
#include "ptx/wgmma.cuh"

namespace smelt {

template <int kStepCount, int kStepCols, int kBlockRows, int kBlockCols, int kStages> struct ProductRing {
  static_assert(kBlockRows == 64 || kBlockRows == 128, "one or two warpgroups");
  static_assert(kStages >= 2, "a stage is released one step late");

  static constexpr int kSteps = kStepCount;
  static constexpr int kConsumers = 2 * kBlockRows;  // threads: one warpgroup per 64 rows
  static constexpr int kThreads = kConsumers + 32;
  static constexpr int kRowBytes = kBlockRows * 128;
  static constexpr int kStageBytes = kRowBytes + kBlockCols * 128;
  static constexpr int kBarriers = kStages * kStageBytes;  // their offset: full [kStages], empty [kStages]
  static constexpr int kBytes = kBarriers + 16 * kStages;
  static_assert(kBytes <= kMaxSharedBytes, "shared memory of a block");

  const TensorMap* map_x;
  const TensorMap* map_w;
  u32 ring;   // shared-memory addresses
  u32 full;
  u32 empty;
  int row;    // the first of the block
  int strip;

  // Announces the bytes of a step, and copies its weights. Called by one thread, as copy_rows is.
  __device__ __forceinline__ void copy_weights(int step) {
    const int stage = step % kStages;
    ptx::mbarrier_arrive_expect_tx(full + 8 * stage, kStageBytes);
    ptx::cp_async_bulk_tensor_3d(ring + stage * kStageBytes + kRowBytes, map_w, 0, step, strip, full + 8 * stage);
  }

  __device__ __forceinline__ void copy_rows(int step) {
    const int stage = step % kStages;
    ptx::cp_async_bulk_tensor_2d(ring + stage * kStageBytes, map_x, kStepCols * step, row, full + 8 * stage);
  }

  // Finds the outputs of the block, sets up the ring, and starts the first copies of weights. All threads call it.
  __device__ __forceinline__ void stream(int tile, int rows) {
    ring = ptx::shared_address(shared_memory());
    full = ring + kBarriers;
    empty = full + 8 * kStages;
    const int row_tiles = ceil_div(rows, kBlockRows);
    row = tile % row_tiles * kBlockRows;
    strip = tile / row_tiles * (kBlockCols / 16);
    if (threadIdx.x == kConsumers) {
      ptx::prefetch_tensormap(map_x);
      ptx::prefetch_tensormap(map_w);
      for (int stage = 0; stage < kStages; ++stage) {
        ptx::mbarrier_init(full + 8 * stage, 1);
        ptx::mbarrier_init(empty + 8 * stage, kConsumers / 32);
      }
      ptx::fence_mbarrier_init();
    }
    __syncthreads();
    if (threadIdx.x == kConsumers)
      for (int step = 0; step < min(kStages, kSteps); ++step) copy_weights(step);
  }

  // All other copies. One thread calls it.
  __device__ __forceinline__ void fill() {
    for (int step = 0; step < min(kStages, kSteps); ++step) copy_rows(step);
    for (int step = kStages; step < kSteps; ++step) {
      ptx::mbarrier_wait(empty + 8 * (step % kStages), (step / kStages - 1) & 1);
      copy_weights(step);
      copy_rows(step);
    }
  }

  // The descriptors of a stage: 64 rows of x for each warpgroup, and the strips of w.
  __device__ __forceinline__ u64 rows_of(int stage) const {
    const u32 group = __shfl_sync(0xffffffff, threadIdx.x / 128, 0);
    return ptx::wgmma_descriptor(ring + stage * kStageBytes + group * 8192);
  }
  __device__ __forceinline__ u64 strips_of(int stage) const {
    return ptx::wgmma_descriptor(ring + stage * kStageBytes + kRowBytes);
  }

  // A consumer's thread is done with a stage.
  __device__ __forceinline__ void release(int stage) {
    if (threadIdx.x % 32 == 0) ptx::mbarrier_arrive(empty + 8 * stage);
  }

  // d += the product of all steps, `product(d, a, b, add)` being that of 32 bytes of k.
  template <class D, class Product> __device__ __forceinline__ void multiply(D (&d)[kBlockCols / 2], Product product) {
    int stage = 0, parity = 0;
#pragma unroll 1
    for (int step = 0; step < kSteps; ++step) {
      ptx::mbarrier_wait(full + 8 * stage, parity);
      const u64 a = rows_of(stage), b = strips_of(stage);
      ptx::wgmma_fence();
#pragma unroll
      for (int k = 0; k < 4; ++k) product(d, a + k * ptx::kWgmmaStep, b + k * ptx::kWgmmaStep, step > 0 || k > 0);
      ptx::wgmma_commit_group();
      ptx::wgmma_wait_group<1>();
      // The products of the previous step are done: its stage may be filled again.
      if (step > 0) release(stage == 0 ? kStages - 1 : stage - 1);
      if (++stage == kStages) stage = 0, parity ^= 1;
    }
    ptx::wgmma_wait_group<0>();
  }
};

}  // namespace smelt
