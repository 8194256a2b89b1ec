// y = x * w^T (+ bias) (+ residual) for many rows of 16-bit floats, and a quantized w: each warp widens its weights,
// with their zero points subtracted, to T in registers, which is exact, and multiplies from there.
//
//   y [rows][kN] of Y: F of each sum; with kSwiglu [rows][kN / 2]: silu(product with row n of w) * product with row
//         kN / 2 + n
//   bias [kN] of T, residual as y; each is nullptr (written in the unit) or added in float, before and after F
//   x [rows][kK] of T (bf16, f16), read through map_x: box {64, kBlockRows}, 128-byte swizzle, zeros outside. So
//         kK % 8 == 0
//   w of C (i8, f8e4m3, i4), tiled as in common/tiled.cuh, a unit being 16 outputs x 128 k, or 256 of i4, read through
//         map_w: of units as words of 8 bytes {256, units of a strip, strips}, box {256, 1, kBlockCols / 16}, zeros
//         outside. For kSwiglu a strip has eight rows of the first half and then the same eight of the second
//   w_scales of WS: of whole rows, or in groups of a multiple of 128 columns; zero_points: one per scale, or nullptr
//
// The weights are the operand of 64 rows of wgmma, which may come from registers, and the rows of x its columns: so y
// is computed transposed. Sums in float. With groups, each 128 columns are summed separately, and then, times their
// scales, added to the whole sum. One block per kBlockRows x kBlockCols outputs; grid ceil(rows / kBlockRows) *
// ceil(kN / kBlockCols), rows first. A warpgroup per 64 columns, then one of which a thread issues the copies.
#pragma once
#include "common/body.cuh"
#include "common/limits.cuh"
#include "common/scales.cuh"
#include "common/silu.cuh"
#include "common/tiled.cuh"
#include "common/widen.cuh"
#include "linear/epilogue.cuh"
#include "ptx/bulk.cuh"
#include "ptx/load.cuh"
#include "ptx/mbarrier.cuh"
#include "ptx/setmaxnreg.cuh"
#include "ptx/shared.cuh"
#include "ptx/wgmma.cuh"

namespace smelt {

template <class T, class C, class Y, class WS, int kN, int kK, int kBlockRows, int kBlockCols, int kStages,
          bool kZeroPoint, bool kSwiglu, class F = Same>
struct LinearWgmmaWeights {
  static_assert(sizeof(T) == 2 && sizeof(C) == 1, "quantized values to bf16 or f16");
  static_assert(sizeof(Y) == 2 || sizeof(Y) == 4, "16-bit floats or float");
  static_assert(kK % 8 == 0, "rows of x of whole 16-byte chunks");
  static_assert(kBlockRows == 32 || kBlockRows % 64 == 0 && kBlockRows <= 256, "a width that wgmma_m64k16 has");
  static_assert(kBlockCols == 64 || kBlockCols == 128, "one or two warpgroups");
  static_assert(kStages >= 2, "a stage is released one step late");
  static_assert(WS::kShared % 128 == 0, "groups of whole steps");
  static_assert(!kSwiglu || kN % 16 == 0, "whole strips of both halves");

  static constexpr int kConsumers = 2 * kBlockCols;  // threads
  static constexpr int kThreads = kConsumers + 128;
  // The 168 registers of a thread of 384 are too few: the warpgroup that copies lends the others some.
  static constexpr bool kLends = kConsumers == 256;
  static constexpr int kBlocks = 1;
  static constexpr int kSteps = ceil_div(kK, 128);
  static constexpr int kUnitSteps = kUnitCols<C> / 128;  // steps of a unit of w
  static constexpr bool kGrouped = WS::kGrouped;
  static constexpr int kOutN = kSwiglu ? kN / 2 : kN;  // columns of y
  static constexpr int kOutCols = kSwiglu ? kBlockCols / 2 : kBlockCols;
  static constexpr int kSums = kBlockRows / 2;  // of a thread

  // shared memory: rings of rows of x and of weights
  static constexpr int kRowBytes = kBlockRows * 256;   // a step: two tiles of 64 columns
  static constexpr int kWeightBytes = kBlockCols * 128;  // a unit of each strip
  static constexpr int kWeightsAt = kStages * kRowBytes;
  static constexpr int kBarriers = kWeightsAt + kStages * kWeightBytes;
  static constexpr int kSharedBytes = kBarriers + 32 * kStages;
  static_assert(kSharedBytes <= kMaxSharedBytes, "shared memory of a block");
  static constexpr int kPitch = kOutCols + 8;  // elements of a row of results in shared memory
  static_assert(kBlockRows * kPitch * 2 <= kBarriers, "results replace the rings");

  Y* y;
  const T* x;
  const C* w;
  const typename WS::Type* w_scales;
  const i8* zero_points;
  const T* bias;
  const Y* residual;
  const TensorMap* map_x;
  const TensorMap* map_w;
  int rows;

  u32 shared;  // the address of shared memory
  int row;     // the first of the block
  int strip;

  // Barriers: of the rows and the weights of each stage, full and empty.
  __device__ __forceinline__ u32 barrier(int kind, int stage) const {
    return shared + kBarriers + 8 * (kind * kStages + stage);
  }
  __device__ __forceinline__ u32 rows_full(int stage) const { return barrier(0, stage); }
  __device__ __forceinline__ u32 rows_empty(int stage) const { return barrier(1, stage); }
  __device__ __forceinline__ u32 weights_full(int stage) const { return barrier(2, stage); }
  __device__ __forceinline__ u32 weights_empty(int stage) const { return barrier(3, stage); }

  __device__ __forceinline__ void copy_weights(int unit) {
    const int stage = unit % kStages;
    ptx::mbarrier_arrive_expect_tx(weights_full(stage), kWeightBytes);
    const u32 to = shared + kWeightsAt + stage * kWeightBytes;
    ptx::cp_async_bulk_tensor_3d(to, map_w, 0, unit, strip, weights_full(stage));
  }

  __device__ __forceinline__ void copy_rows(int step) {
    const int stage = step % kStages;
    ptx::mbarrier_arrive_expect_tx(rows_full(stage), kRowBytes);
#pragma unroll
    for (int half = 0; half < 2; ++half)
      ptx::cp_async_bulk_tensor_2d(shared + stage * kRowBytes + half * (kRowBytes / 2), map_x, 128 * step + 64 * half,
                                   row, rows_full(stage));
  }

  __device__ __forceinline__ void stream(int tile) {
    shared = ptx::shared_address(shared_memory());
    const int row_tiles = ceil_div(rows, kBlockRows);
    row = tile % row_tiles * kBlockRows;
    strip = tile / row_tiles * (kBlockCols / 16);
    if (threadIdx.x == kConsumers) {
      ptx::prefetch_tensormap(map_x);
      ptx::prefetch_tensormap(map_w);
      for (int stage = 0; stage < kStages; ++stage) {
        ptx::mbarrier_init(rows_full(stage), 1);
        ptx::mbarrier_init(rows_empty(stage), kConsumers / 32);
        ptx::mbarrier_init(weights_full(stage), 1);
        ptx::mbarrier_init(weights_empty(stage), kConsumers / 32);
      }
      ptx::fence_mbarrier_init();
    }
    __syncthreads();
    if (threadIdx.x == kConsumers)
      for (int unit = 0; unit < min(kStages, ceil_div(kSteps, kUnitSteps)); ++unit) copy_weights(unit);
  }

  __device__ __forceinline__ void tile(int) {
    if (threadIdx.x >= kConsumers) {
      if constexpr (kLends) ptx::setmaxnreg_dec<24>();
      if (threadIdx.x == kConsumers) fill();
    } else {
      if constexpr (kLends) ptx::setmaxnreg_inc<240>();
      float sums[kSums] = {};
      if constexpr (kGrouped) {
        multiply_in_groups(sums);
      } else {
        multiply(sums);
      }
      store(sums);
    }
  }

  __device__ __forceinline__ void fill() {
    for (int step = 0; step < kSteps; ++step) {
      const int unit = step / kUnitSteps;
      if (step % kUnitSteps == 0 && unit >= kStages) {
        ptx::mbarrier_wait(weights_empty(unit % kStages), (unit / kStages - 1) & 1);
        copy_weights(unit);
      }
      if (step >= kStages) ptx::mbarrier_wait(rows_empty(step % kStages), (step / kStages - 1) & 1);
      copy_rows(step);
    }
  }

  // This lane's row of w in the lower or the upper half of the 16 of its warp; it may be past the last.
  __device__ __forceinline__ int output(int half) const {
    const int from = strip + int(threadIdx.x) / 32, g = int(threadIdx.x) % 32 / 4;
    return kSwiglu ? half * (kN / 2) + 8 * from + g : 16 * from + 8 * half + g;
  }

  // This lane's part of the weights of a step: of 16 columns at a time, pairs of the lower and the upper row, then
  // those eight columns further.
  __device__ __forceinline__ void widen(u32 (&pairs)[8][4], int step) const {
    const int unit = step / kUnitSteps, stage = unit % kStages, g = int(threadIdx.x) % 32 / 4, q = int(threadIdx.x) % 4;
    T zero_point[2];
    if constexpr (kZeroPoint) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int n = min(output(half), kN - 1);
        zero_point[half] = from_float<T>(to_float(zero_points[WS::line(n) + WS::column(128 * step)]));
      }
    }
    ptx::mbarrier_wait(weights_full(stage), unit / kStages & 1);
    const u32 from = shared + kWeightsAt + stage * kWeightBytes + int(threadIdx.x) / 32 * 2048 + g * 128;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if constexpr (kUnitSteps == 2) {
#pragma unroll
        for (int chunk = 0; chunk < 4; ++chunk) {
          u32 words[4];
          ptx::ld_shared(from + half * 1024 + ((step % 2 * 4 + chunk) ^ g) * 16, words);
#pragma unroll
          for (int i = 0; i < 4; ++i)
            pairs[2 * chunk + i / 2][half + i % 2 * 2] = Widen<C, T>::pair(words[i] >> (4 * q));
        }
      } else {
#pragma unroll
        for (int chunk = 0; chunk < 8; ++chunk) {
          const u32 at = from + half * 1024 + (chunk ^ g) * 16 + 2 * q;
          u32 widened[2];
          Widen<C, T>::pairs(widened, u32(ptx::ld_shared_u16(at)) | u32(ptx::ld_shared_u16(at + 8)) << 16);
          pairs[chunk][half] = widened[0], pairs[chunk][half + 2] = widened[1];
        }
      }
      if constexpr (kZeroPoint) {
        const u32 both = u32(zero_point[half].bits) * 0x10001u;
#pragma unroll
        for (int k = 0; k < 8; ++k) {
          pairs[k][half] = ptx::sub_rn_x2<T>(pairs[k][half], both);
          pairs[k][half + 2] = ptx::sub_rn_x2<T>(pairs[k][half + 2], both);
        }
      }
    }
    __syncwarp();
    if (threadIdx.x % 32 == 0 && ((step + 1) % kUnitSteps == 0 || step + 1 == kSteps))
      ptx::mbarrier_arrive(weights_empty(stage));
  }

  // Waits for the rows of a step, and starts their products with weights.
  __device__ __forceinline__ void products(float (&d)[kSums], const u32 (&pairs)[8][4], int step, bool add) const {
    const int stage = step % kStages;
    ptx::mbarrier_wait(rows_full(stage), step / kStages & 1);
    const u64 b = ptx::wgmma_descriptor(shared + stage * kRowBytes);
    ptx::wgmma_fence();
#pragma unroll
    for (int k = 0; k < 8; ++k)
      ptx::wgmma_m64k16_of_registers<T, kBlockRows>(
          d, pairs[k], b + (k / 4 * (kRowBytes / 2 / 16) + k % 4 * ptx::kWgmmaStep), add || k > 0);
    ptx::wgmma_commit_group();
  }

  __device__ __forceinline__ void release(int step) const {
    if (threadIdx.x % 32 == 0) ptx::mbarrier_arrive(rows_empty(step % kStages));
  }

  __device__ __forceinline__ void multiply(float (&sums)[kSums]) const {
    u32 even[8][4], odd[8][4];
    widen(even, 0);
#pragma unroll 1
    for (int step = 0; step < kSteps; step += 2) {
      multiply_step(sums, even, odd, step);
      if (step + 1 < kSteps) multiply_step(sums, odd, even, step + 1);
    }
    ptx::wgmma_wait_group<0>();
  }

  // Multiplies the widened weights, and widens the next ones meanwhile.
  __device__ __forceinline__ void multiply_step(float (&sums)[kSums], const u32 (&pairs)[8][4], u32 (&next)[8][4],
                                                int step) const {
    products(sums, pairs, step, step > 0);
    // The products of the previous step are done: its rows and weights may be replaced.
    ptx::wgmma_wait_group<1>();
    if (step > 0) release(step - 1);
    if (step + 1 < kSteps) widen(next, step + 1);
  }

  // Registers hold two sums for each output, and weights of one step: while a warpgroup widens, the other multiplies.
  __device__ __forceinline__ void multiply_in_groups(float (&sums)[kSums]) const {
    u32 pairs[8][4];
    float part[kSums];
#pragma unroll 1
    for (int step = 0; step < kSteps; ++step) {
      float scale[2];
#pragma unroll
      for (int half = 0; half < 2; ++half) scale[half] = WS::at(w_scales, min(output(half), kN - 1), 128 * step);
      widen(pairs, step);
      products(part, pairs, step, false);
      ptx::wgmma_wait_group<0>();
      ptx::wgmma_complete(part);
      release(step);
#pragma unroll
      for (int i = 0; i < kSums; ++i) sums[i] += scale[i / 2 % 2] * part[i];
    }
  }

  // Sums 4j and 4j + 1 are of the lower row of w with rows 8j + 2q and 8j + 2q + 1 of x, the next two of the upper row.
  __device__ __forceinline__ void store(const float (&sums)[kSums]) const {
    const int warp = int(threadIdx.x) / 32, g = int(threadIdx.x) % 32 / 4, q = int(threadIdx.x) % 4;
    float scale[2], bias_sum[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int n = min(output(half), kN - 1);
      scale[half] = kGrouped ? 1.0f : WS::at(w_scales, n, 0);
      bias_sum[half] = bias != nullptr ? to_float(bias[n]) : 0.0f;
    }
    Y* const staged = reinterpret_cast<Y*>(shared_memory());
    // Shared memory is free once all consumers are here.
    if constexpr (sizeof(Y) == 2) ptx::bar_sync<1, kConsumers>();
#pragma unroll
    for (int i = 0; i < kBlockRows / 4; ++i) {
      const int r = i / 2 * 8 + 2 * q + i % 2;
      const float low = sums[i / 2 * 4 + i % 2] * scale[0] + bias_sum[0];
      const float high = sums[i / 2 * 4 + 2 + i % 2] * scale[1] + bias_sum[1];
      if constexpr (kSwiglu) {
        store_result(staged, r, 8 * warp + g, silu_for<Y>(low) * high);
      } else {
        store_result(staged, r, 16 * warp + g, apply<F>(low));
        store_result(staged, r, 16 * warp + 8 + g, apply<F>(high));
      }
    }
    if constexpr (sizeof(Y) == 2) {
      ptx::bar_sync<1, kConsumers>();
      store_rows(staged);
    }
  }

  // The first column of y of the block.
  __device__ __forceinline__ int first() const { return (kSwiglu ? 8 : 16) * strip; }

  // A result goes to y, eight lanes writing 32 bytes of a row; of 16 bits, by way of shared memory.
  __device__ __forceinline__ void store_result(Y* staged, int r, int column, float value) const {
    const int to = row + r, n = first() + column;
    if (to >= rows || n >= kOutN) return;
    if (residual != nullptr) value += to_float(residual[i64(to) * kOutN + n]);
    if constexpr (sizeof(Y) == 2) {
      staged[r * kPitch + column] = from_float<Y>(value);
    } else {
      y[i64(to) * kOutN + n] = value;
    }
  }

  __device__ __forceinline__ void store_rows(const Y* staged) const {
    constexpr int kWidth = vector_width<Y, kOutN>();
    using Store = Vec<Y, kWidth>;
    constexpr int kChunks = kOutCols / kWidth;  // of a row
#pragma unroll 4
    for (int i = threadIdx.x; i < kBlockRows * kChunks; i += kConsumers) {
      const int r = i / kChunks, column = i % kChunks * kWidth, to = row + r;
      if (to < rows && first() + column < kOutN)
        *reinterpret_cast<Store*>(y + (i64(to) * kOutN + first() + column)) =
            *reinterpret_cast<const Store*>(staged + r * kPitch + column);
    }
  }
};

}  // namespace smelt
