// y = x @ w^T and what stands behind it, for many rows: the copy engine fills a ring in shared memory, warpgroups
// multiply from it.
//
//   y [rows][kN] of Y: F of each sum; with kSwiglu [rows][kN / 2]: silu(product with row n of w) * product with row
//     kN / 2 + n
//   bias [kN] of T, residual as y; each is nullptr (written in the unit) or added in float, before and behind F
//   x [rows][kK] and w of T (bf16, f16), read through their maps alone
//   w     tiled (for kSwiglu each strip has 8 rows of the first half, then the same 8 of the second): [ceil(kN / 16)][ceil(kK / 64)] units of 16 outputs x 64 k, 2048 bytes: two atoms of 8 outputs x 128
//         bytes, one behind the other; the 16-byte chunk c of row r of an atom stands at chunk c ^ r. Padding is zero
//   map_x of x [at least rows][kK]: box {64, kBlockRows}, 128-byte swizzle, zeros outside. So kK % 8 == 0
//   map_w of the units of w, as words of 8 bytes {256, units of a strip, strips}: box {256, 1, kBlockCols / 16}, zeros
//         outside
//   rows  the rows there are. Sums in float, rounded once
//
// One block per kBlockRows x kBlockCols outputs; grid ceil(rows / kBlockRows) * ceil(kN / kBlockCols), rows first:
// blocks that read the same weights run together. 64 rows per consumer warpgroup, then one warp that asks for copies.
#pragma once
#include "common/body.cuh"
#include "common/silu.cuh"
#include "common/types.cuh"
#include "linear/behind.cuh"
#include "ptx/bulk.cuh"
#include "ptx/load.cuh"
#include "ptx/mbarrier.cuh"
#include "ptx/stmatrix.cuh"
#include "ptx/wgmma.cuh"

namespace smelt {

template <class T, class Y, int kN, int kK, int kBlockRows, int kBlockCols, int kStages, bool kSwiglu = false,
          class F = Same>
struct LinearWgmma {
  static_assert(!kSwiglu || kN % 16 == 0, "whole strips of both halves");
  static_assert(sizeof(T) == 2 && (sizeof(Y) == 2 || sizeof(Y) == 4), "bf16 or f16, to that or float");
  static_assert(kK % 8 == 0, "rows of x of whole 16-byte chunks");
  static_assert(kBlockRows == 64 || kBlockRows == 128, "one or two warpgroups");
  static_assert(kStages >= 2, "a step is given back when the next one is on its way");
  static_assert(kBlockCols == 32 || kBlockCols % 64 == 0 && kBlockCols <= 256, "a width that wgmma_m64k16 has");

  static constexpr int kConsumers = 2 * kBlockRows;  // threads: one warpgroup per 64 rows
  static constexpr int kThreads = kConsumers + 32;
  static constexpr int kBlocks = 1;  // of a multiprocessor, for __launch_bounds__(kThreads, kBlocks)
  static constexpr int kSteps = ceil_div(kK, 64);
  static constexpr int kStrips = ceil_div(kN, 16);
  static constexpr int kBlockStrips = kBlockCols / 16;
  static constexpr int kRowBytes = kBlockRows * 128;
  static constexpr int kStageBytes = kRowBytes + kBlockStrips * 2048;
  static constexpr int kOutN = kSwiglu ? kN / 2 : kN;  // columns of y
  static constexpr int kOutCols = kSwiglu ? kBlockCols / 2 : kBlockCols;
  static constexpr int kPitch = 2 * kOutCols + 16;  // bytes of a row of results in shared memory: no bank conflicts
  static constexpr int kBarriers = kStages * kStageBytes;  // where they lie: full [kStages], empty [kStages]
  static constexpr int kSharedBytes = kBarriers + 16 * kStages;
  static_assert(sizeof(Y) == 4 || kBlockRows * kPitch <= kBarriers, "the results take the place of the ring");
  static_assert(kSharedBytes <= 232448, "what a block may have");

  Y* y;
  const T* x;
  const T* w;
  const T* bias;
  const Y* residual;
  const TensorMap* map_x;
  const TensorMap* map_w;
  int rows;

  u32 ring;   // shared-memory addresses
  u32 full;
  u32 empty;
  int row;    // the first of the block
  int strip;

  // Announces what step `step` brings, and asks for its weights. One thread does, as for the rows.
  __device__ __forceinline__ void copy_weights(int step) {
    const int stage = step % kStages;
    ptx::mbarrier_arrive_expect_tx(full + 8 * stage, kStageBytes);
    ptx::cp_async_bulk_tensor_3d(ring + stage * kStageBytes + kRowBytes, map_w, 0, step, strip, full + 8 * stage);
  }

  __device__ __forceinline__ void copy_rows(int step) {
    const int stage = step % kStages;
    ptx::cp_async_bulk_tensor_2d(ring + stage * kStageBytes, map_x, 64 * step, row, full + 8 * stage);
  }

  // Finds the outputs of the block and sets up the ring.
  __device__ __forceinline__ void prepare(int tile) {
    ring = ptx::shared_address(shared_memory());
    full = ring + kBarriers;
    empty = full + 8 * kStages;
    const int row_tiles = ceil_div(rows, kBlockRows);
    row = tile % row_tiles * kBlockRows;
    strip = tile / row_tiles * kBlockStrips;
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
  }

  __device__ __forceinline__ void stream(int tile) {
    prepare(tile);
    if (threadIdx.x == kConsumers)
      for (int step = 0; step < min(kStages, kSteps); ++step) copy_weights(step);
  }

  __device__ __forceinline__ void tile(int tile) {
    if (threadIdx.x == kConsumers) {
      // load
      for (int step = 0; step < min(kStages, kSteps); ++step) copy_rows(step);
      for (int step = kStages; step < kSteps; ++step) {
        ptx::mbarrier_wait(empty + 8 * (step % kStages), (step / kStages - 1) & 1);
        copy_weights(step);
        copy_rows(step);
      }
    } else if (threadIdx.x < kConsumers) {
      float sums[kBlockCols / 2];
      multiply(sums);
      store(sums);
    }
  }

  __device__ __forceinline__ void multiply(float (&sums)[kBlockCols / 2]) {
    const u32 group = __shfl_sync(0xffffffff, threadIdx.x / 128, 0);
    int stage = 0, parity = 0;
#pragma unroll 1
    for (int step = 0; step < kSteps; ++step) {
      ptx::mbarrier_wait(full + 8 * stage, parity);
      const u64 a = ptx::wgmma_descriptor(ring + stage * kStageBytes + group * 8192);
      const u64 b = ptx::wgmma_descriptor(ring + stage * kStageBytes + kRowBytes);
      ptx::wgmma_fence();
#pragma unroll
      for (int k = 0; k < 4; ++k)
        ptx::wgmma_m64k16<T, kBlockCols>(sums, a + k * ptx::kWgmmaStep, b + k * ptx::kWgmmaStep, step > 0 || k > 0);
      ptx::wgmma_commit_group();
      ptx::wgmma_wait_group<1>();
      // The products of the step before are done: its place may be filled again.
      if (step > 0 && threadIdx.x % 32 == 0) ptx::mbarrier_arrive(empty + 8 * (stage == 0 ? kStages - 1 : stage - 1));
      if (++stage == kStages) stage = 0, parity ^= 1;
    }
    ptx::wgmma_wait_group<0>();
  }

  // The bias of two neighbouring rows of w.
  __device__ __forceinline__ void add_bias(int n, float& low, float& high) const {
    if (bias == nullptr) return;
    if (n < kN) low += to_float(bias[n]);
    if (n + 1 < kN) high += to_float(bias[n + 1]);
  }

  // The first column of y that this lane has in the fragments `p`.
  __device__ __forceinline__ int column(int p) const {
    return (kSwiglu ? 8 : 16) * strip + 8 * p + 2 * int(threadIdx.x % 4);
  }

  // Two neighbouring results of row `to`, which is in the upper or the lower half of the fragments `p`.
  __device__ __forceinline__ Vec<float, 2> results(const float (&sums)[kBlockCols / 2], int p, int half, int to) const {
    const int n = column(p);
    Vec<float, 2> y;
    if constexpr (kSwiglu) {
      const float* d = sums + 8 * p + 2 * half;
      float gate[2] = {d[0], d[1]}, up[2] = {d[4], d[5]};
      add_bias(n, gate[0], gate[1]);
      add_bias(kN / 2 + n, up[0], up[1]);
      y = {silu(gate[0]) * up[0], silu(gate[1]) * up[1]};
    } else {
      const float* d = sums + 4 * p + 2 * half;
      y = {d[0], d[1]};
      add_bias(n, y[0], y[1]);
      y = {apply<F>(y[0]), apply<F>(y[1])};
    }
    if (residual != nullptr && to < rows) {
      const Y* place = residual + (i64(to) * kOutN + n);
      if constexpr (kOutN % 2 == 0) {
        if (n >= kOutN) return y;
        const Vec<Y, 2> pair = *reinterpret_cast<const Vec<Y, 2>*>(place);
        y[0] += to_float(pair[0]), y[1] += to_float(pair[1]);
      } else {
        if (n < kOutN) y[0] += to_float(place[0]);
        if (n + 1 < kOutN) y[1] += to_float(place[1]);
      }
    }
    return y;
  }

  __device__ __forceinline__ void store(const float (&sums)[kBlockCols / 2]) {
    if constexpr (sizeof(Y) == 4) {
      store_fragments(sums);
    } else {
      store_rows(sums);
    }
  }

  // Floats go to y as they lie in fragments: four lanes write 32 bytes of a row.
  __device__ __forceinline__ void store_fragments(const float (&sums)[kBlockCols / 2]) {
    const int lane = threadIdx.x % 32, first = row + 16 * (threadIdx.x / 32) + lane / 4;
#pragma unroll
    for (int p = 0; p < kOutCols / 8; ++p) {
      const int n = column(p);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int to = first + 8 * half;
        if (to >= rows) continue;
        const Vec<Y, 2> pair = results(sums, p, half, to);
        Y* place = y + (i64(to) * kOutN + n);
        if (kOutN % 2 == 0 && n < kOutN) *reinterpret_cast<Vec<Y, 2>*>(place) = pair;
        if (kOutN % 2 != 0 && n < kOutN) place[0] = pair[0];
        if (kOutN % 2 != 0 && n + 1 < kOutN) place[1] = pair[1];
      }
    }
  }

  // Each warp has 16 rows of the block: to shared memory as fragments, from there to y as vectors.
  __device__ __forceinline__ void store_rows(const float (&sums)[kBlockCols / 2]) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, first = (kSwiglu ? 8 : 16) * strip;
    // The ring is free once all consumers are here.
    ptx::bar_sync<1, kConsumers>();
    u8* const staged = shared_memory() + warp * 16 * kPitch;
    const u32 fragment = ptx::shared_address(staged) + lane % 16 * kPitch + lane / 16 * 16;
#pragma unroll
    for (int p = 0; p < kOutCols / 8; p += 2) {
      u32 pairs[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const auto pair = results(sums, p + i / 2, i % 2, row + 16 * warp + lane / 4 + 8 * (i % 2));
        pairs[i] = pack2<Y>(pair[0], pair[1]);
      }
      ptx::stmatrix_x4(fragment + 16 * p, pairs[0], pairs[1], pairs[2], pairs[3]);
    }
    __syncwarp();
    constexpr int kWidth = vector_width<Y, kOutN>();
    using Store = Vec<Y, kWidth>;
    constexpr int kChunks = kOutCols / kWidth;  // of a row
#pragma unroll 4
    for (int i = lane; i < 16 * kChunks; i += 32) {
      const int r = i / kChunks, column = i % kChunks * kWidth, to = row + 16 * warp + r;
      if (to < rows && (kN % kBlockCols == 0 || first + column < kOutN))
        *reinterpret_cast<Store*>(y + (i64(to) * kOutN + first + column)) =
            *reinterpret_cast<const Store*>(staged + r * kPitch + 2 * column);
    }
  }
};

}  // namespace smelt
