// y = x * w^T (+ bias) (+ residual) for many rows: TMA fills a ring in shared memory, warpgroups multiply from it.
//
//   y, bias, residual as in linear/outputs.cuh
//   x [rows][kK] and w of T (bf16, f16), read through their maps alone (linear/ring.cuh). So kK % 8 == 0
//   w     tiled as in common/tiled.cuh (for kSwiglu each strip has 8 rows of the first half, then the same 8 of the
//         second), a unit being 16 outputs x 64 k. Padding is zero
//   rows  the rows there are. Sums in float, rounded once
//
// One block per kBlockRows x kBlockCols outputs; grid ceil(rows / kBlockRows) * ceil(kN / kBlockCols).
#pragma once
#include "linear/outputs.cuh"
#include "linear/ring.cuh"

namespace smelt {

template <class T, class Y, int kN, int kK, int kBlockRows, int kBlockCols, int kStages, bool kSwiglu = false,
          class F = Same>
struct LinearWgmma {
  static_assert(sizeof(T) == 2, "bf16 or f16");
  static_assert(kK % 8 == 0, "rows of x of whole 16-byte chunks");
  static_assert(kBlockCols == 32 || kBlockCols % 64 == 0 && kBlockCols <= 256, "a width that wgmma_m64k16 has");

  using Ring = ProductRing<ceil_div(kK, 64), 64, kBlockRows, kBlockCols, kStages>;
  using Outputs = BlockOutputs<T, Y, kN, kBlockRows, kBlockCols, kSwiglu, F>;
  static_assert(Outputs::kBytes <= Ring::kBarriers, "results replace the ring");
  static constexpr int kThreads = Ring::kThreads;
  static constexpr int kBlocks = 1;  // per multiprocessor, for __launch_bounds__(kThreads, kBlocks)
  static constexpr int kSharedBytes = Ring::kBytes;

  Y* y;
  const T* x;
  const T* w;
  const T* bias;
  const Y* residual;
  const TensorMap* map_x;
  const TensorMap* map_w;
  int rows;

  Ring ring = {};

  __device__ __forceinline__ void stream(int tile) {
    ring.map_x = map_x, ring.map_w = map_w;
    ring.stream(tile, rows);
  }

  __device__ __forceinline__ void tile(int) {
    if (threadIdx.x == Ring::kConsumers) {
      ring.fill();
    } else if (threadIdx.x < Ring::kConsumers) {
      float sums[kBlockCols / 2];
      ring.multiply(sums, ptx::wgmma_m64k16<T, kBlockCols>);
      Outputs{y, bias, residual, rows, ring.row, ring.strip}.store(sums, Unchanged{});
    }
  }
};

}  // namespace smelt
