// linear/wgmma.cuh with weights that come in other ways. 0: row-major weights, through a tensor map with 128-byte
// swizzle, box {64, kBlockCols}. 1: tiled weights, a plain copy for each strip where the product asks for one box.
#pragma once
#include "linear/wgmma.cuh"

namespace smelt {

template <class T, int kN, int kK, int kBlockRows, int kBlockCols, int kStages, int kLayout>
struct GemmLayouts : LinearWgmma<T, T, kN, kK, kBlockRows, kBlockCols, kStages> {
  using Base = LinearWgmma<T, T, kN, kK, kBlockRows, kBlockCols, kStages>;

  __device__ __forceinline__ void copy_weights(int step) {
    const int stage = step % kStages;
    const u32 to = this->ring + stage * Base::kStageBytes + Base::kRowBytes, full = this->full + 8 * stage;
    ptx::mbarrier_arrive_expect_tx(full, Base::kStageBytes);
    if constexpr (kLayout == 0) ptx::cp_async_bulk_tensor_2d(to, this->map_w, 64 * step, 16 * this->strip, full);
    if constexpr (kLayout == 1) {
      const u8* unit = reinterpret_cast<const u8*>(this->w) + (i64(this->strip) * Base::kSteps + step) * 2048;
      for (int i = 0; i < Base::kBlockStrips; ++i)
        ptx::cp_async_bulk(to + 2048 * i, unit + i64(i) * Base::kSteps * 2048, 2048, full);
    }
  }

  __device__ __forceinline__ void stream(int) {}

  __device__ __forceinline__ void tile(int tile) {
    this->prepare(tile);
    if (threadIdx.x == Base::kConsumers) {
      for (int step = 0; step < Base::kSteps; ++step) {
        if (step >= kStages)
          ptx::mbarrier_wait(this->empty + 8 * (step % kStages), (step / kStages - 1) & 1);
        copy_weights(step);
        this->copy_rows(step);
      }
    } else if (threadIdx.x < Base::kConsumers) {
      float sums[kBlockCols / 2];
      this->multiply(sums);
      this->store(sums);
    }
  }
};

}  // namespace smelt
