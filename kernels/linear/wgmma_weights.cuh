// y = x * w^T (+ bias) (+ residual) for many rows of numbers, where w is codes times scales: a warpgroup of decoders
// widens codes, less their zeros, to T in shared memory, where they are exact; warpgroups multiply from there.
//
//   y, bias, residual as in linear/outputs.cuh
//   x [rows][kK] of T (bf16, f16), read through map_x: box {64, kBlockRows}, 128-byte swizzle, zeros outside. So
//         kK % 8 == 0
//   w of C (i8, f8e4m3, i4), tiled as in common/tiled.cuh, a unit being 16 outputs x 128 k, or 256 of i4, read through
//         map_w: of units as words of 8 bytes {256, units of a strip, strips}, box {256, 1, kBlockCols / 16}, zeros
//         outside
//   WS, zeros  the Scales of w: of whole rows, or in groups of a multiple of 128 columns; a zero for each, or nullptr
//
// Sums in float. With groups, each 128 columns are added up anew, and then, times their scales, to the whole sum.
// One block per kBlockRows x kBlockCols outputs; grid ceil(rows / kBlockRows) * ceil(kN / kBlockCols), rows first. 64
// rows per consumer warpgroup, then the decoders, then one warp that asks for copies.
#pragma once
#include "common/body.cuh"
#include "common/widen.cuh"
#include "linear/outputs.cuh"
#include "ptx/bulk.cuh"
#include "ptx/setmaxnreg.cuh"
#include "ptx/shared.cuh"
#include "ptx/wgmma.cuh"

namespace smelt {

template <class T, class C, class Y, class WS, int kN, int kK, int kBlockRows, int kBlockCols, int kStages, bool kZeros,
          bool kSwiglu, class F = Same>
struct LinearWgmmaWeights {
  static_assert(sizeof(T) == 2 && sizeof(C) == 1, "codes to bf16 or f16");
  static_assert(kK % 8 == 0, "rows of x of whole 16-byte chunks");
  static_assert(kBlockRows == 64 || kBlockRows == 128, "one or two warpgroups");
  static_assert(kStages >= 2, "a step is given back when the next one is on its way");
  static_assert(kBlockCols == 32 || kBlockCols % 64 == 0 && kBlockCols <= 256, "a width that wgmma_m64k16 has");
  static_assert(WS::kShared % 128 == 0, "groups of whole steps");

  static constexpr int kConsumers = 2 * kBlockRows;
  static constexpr int kDecoders = 128;
  static constexpr int kProducer = kConsumers + kDecoders;  // the thread that asks for copies
  static constexpr int kThreads = kProducer + 32;
  static constexpr int kBlocks = 1;
  static constexpr int kSteps = ceil_div(kK, 128);
  static constexpr int kPairs = Widen<C, T>::kPairs;  // of a word of codes
  static constexpr int kUnitSteps = kPairs / 2;       // steps of a unit of w
  static constexpr bool kGrouped = WS::kGrouped;
  // Two sums for each output are more than the 128 registers of a thread of 416: decoders lend the consumers some.
  static constexpr bool kLends = kGrouped && kBlockRows == 128 && kBlockCols == 128;

  // shared memory: rows of x and codes of w on their way in, tiles of w and their scales on the way to the consumers
  static constexpr int kRowBytes = kBlockRows * 256;  // a step: two tiles of 64 columns
  static constexpr int kCodeBytes = kBlockCols * 128;  // a unit of each strip
  static constexpr int kTileBytes = kBlockCols * 256;  // a step, as x
  static constexpr int kCodes = kStages * kRowBytes;
  static constexpr int kTiles = kCodes + kStages * kCodeBytes;
  static constexpr int kScales = kTiles + 2 * kTileBytes;
  static constexpr int kBarriers = kScales + (kGrouped ? 2 * kBlockCols * 4 : 0);
  static constexpr int kSharedBytes = kBarriers + 8 * (4 * kStages + 4);
  static_assert(kSharedBytes <= 232448, "what a block may have");
  using Outputs = BlockOutputs<T, Y, kN, kBlockRows, kBlockCols, kSwiglu, F>;
  static_assert(Outputs::kBytes <= kCodes, "the results take the place of the rows");

  Y* y;
  const T* x;
  const C* w;
  const typename WS::Type* w_scales;
  const i8* zeros;
  const T* bias;
  const Y* residual;
  const TensorMap* map_x;
  const TensorMap* map_w;
  int rows;

  u32 shared;  // the address of shared memory
  int row;     // the first of the block
  int strip;

  // Barriers: of the rows and the codes of each stage, full and empty; of the two tiles, ready and free.
  __device__ __forceinline__ u32 barrier(int kind, int stage) const { return shared + kBarriers + 8 * (kind + stage); }
  __device__ __forceinline__ u32 rows_full(int stage) const { return barrier(0, stage); }
  __device__ __forceinline__ u32 rows_empty(int stage) const { return barrier(kStages, stage); }
  __device__ __forceinline__ u32 codes_full(int stage) const { return barrier(2 * kStages, stage); }
  __device__ __forceinline__ u32 codes_empty(int stage) const { return barrier(3 * kStages, stage); }
  __device__ __forceinline__ u32 tile_ready(int tile) const { return barrier(4 * kStages, tile); }
  __device__ __forceinline__ u32 tile_free(int tile) const { return barrier(4 * kStages + 2, tile); }

  __device__ __forceinline__ void copy_codes(int unit) {
    const int stage = unit % kStages;
    ptx::mbarrier_arrive_expect_tx(codes_full(stage), kCodeBytes);
    ptx::cp_async_bulk_tensor_3d(shared + kCodes + stage * kCodeBytes, map_w, 0, unit, strip, codes_full(stage));
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
    if (threadIdx.x == kProducer) {
      ptx::prefetch_tensormap(map_x);
      ptx::prefetch_tensormap(map_w);
      for (int stage = 0; stage < kStages; ++stage) {
        ptx::mbarrier_init(rows_full(stage), 1);
        ptx::mbarrier_init(rows_empty(stage), kConsumers / 32);
        ptx::mbarrier_init(codes_full(stage), 1);
        ptx::mbarrier_init(codes_empty(stage), kDecoders / 32);
      }
      for (int tile = 0; tile < 2; ++tile) {
        ptx::mbarrier_init(tile_ready(tile), kDecoders / 32);
        ptx::mbarrier_init(tile_free(tile), kConsumers / 32);
      }
      ptx::fence_mbarrier_init();
    }
    __syncthreads();
    if (threadIdx.x == kProducer)
      for (int unit = 0; unit < min(kStages, ceil_div(kSteps, kUnitSteps)); ++unit) copy_codes(unit);
  }

  __device__ __forceinline__ void tile(int) {
    if (threadIdx.x == kProducer) {
      fill();
    } else if (threadIdx.x < kConsumers) {
      if constexpr (kLends) ptx::setmaxnreg_inc<160>();
      const Outputs outputs = {y, bias, residual, rows, row, strip};
      float sums[kBlockCols / 2] = {};
      if constexpr (kGrouped) {
        multiply_in_steps(sums);
      } else {
        multiply(sums);
      }
      outputs.store(sums, Rescaled<Unscaled, WS, kN>{{}, w_scales});
    } else if (threadIdx.x < kProducer) {
      if constexpr (kLends) ptx::setmaxnreg_dec<64>();
      decode(threadIdx.x - kConsumers);
    }
  }

  __device__ __forceinline__ void fill() {
    for (int step = 0; step < kSteps; ++step) {
      const int unit = step / kUnitSteps;
      if (step % kUnitSteps == 0 && unit >= kStages) {
        ptx::mbarrier_wait(codes_empty(unit % kStages), (unit / kStages - 1) & 1);
        copy_codes(unit);
      }
      if (step >= kStages) ptx::mbarrier_wait(rows_empty(step % kStages), (step / kStages - 1) & 1);
      copy_rows(step);
    }
  }

  // The row of w that stands at a place of the block, which may be behind the last.
  __device__ __forceinline__ int output_at(int place) const {
    if constexpr (!kSwiglu) return 16 * strip + place;
    return (place / 8 % 2) * (kN / 2) + 8 * (strip + place / 16) + place % 8;
  }

  // Widens the codes of each step. A thread takes 16 codes of a row at a time; eight neighbours take eight rows, whose
  // chunks lie in different banks.
  __device__ __forceinline__ void decode(int thread) {
    constexpr int kWords = 8 / kPairs, kTurns = kBlockCols * 8 / kDecoders;
    for (int step = 0; step < kSteps; ++step) {
      const int unit = step / kUnitSteps, stage = unit % kStages, to = step % 2;
      ptx::mbarrier_wait(codes_full(stage), unit / kStages & 1);
      ptx::mbarrier_wait(tile_free(to), (step / 2 + 1) & 1);
      const u32 from = shared + kCodes + stage * kCodeBytes, tile = shared + kTiles + to * kTileBytes;
#pragma unroll 2
      for (int turn = 0; turn < kTurns; ++turn) {
        const int place = (turn * kDecoders + thread) % kBlockCols, part = (turn * kDecoders + thread) / kBlockCols;
        const int byte = (step % kUnitSteps * 8 + part) * kWords * 4;
        u32 codes[kWords], pairs[8];
        ptx::ld_shared(from + place * 128 + (byte / 16 ^ place % 8) * 16 + byte % 16, codes);
#pragma unroll
        for (int word = 0; word < kWords; ++word) {
          u32 widened[kPairs];
          Widen<C, T>::pairs(widened, codes[word]);
#pragma unroll
          for (int i = 0; i < kPairs; ++i) pairs[word * kPairs + i] = widened[i];
        }
        if constexpr (kZeros) {
          const int n = min(output_at(place), kN - 1);
          const float zero = to_float(zeros[WS::line(n) + WS::column(128 * step)]);
#pragma unroll
          for (int i = 0; i < 8; ++i) pairs[i] = ptx::sub_rn_x2<T>(pairs[i], pack2<T>(zero, zero));
        }
        const u32 line = tile + part / 4 * (kTileBytes / 2) + place * 128;
#pragma unroll
        for (int i = 0; i < 2; ++i)
          ptx::st_shared(line + ((part % 4 * 2 + i) ^ place % 8) * 16, pairs[4 * i], pairs[4 * i + 1], pairs[4 * i + 2],
                         pairs[4 * i + 3]);
      }
      if constexpr (kGrouped) {
        float* scales = reinterpret_cast<float*>(shared_memory() + kScales) + to * kBlockCols;
        for (int place = thread; place < kBlockCols; place += kDecoders)
          scales[place] = WS::at(w_scales, min(output_at(place), kN - 1), 128 * step);
      }
      ptx::fence_proxy_async();
      __syncwarp();
      if (threadIdx.x % 32 == 0) {
        ptx::mbarrier_arrive(tile_ready(to));
        if ((step + 1) % kUnitSteps == 0) ptx::mbarrier_arrive(codes_empty(stage));
      }
    }
  }

  // Waits for a step, and asks for its products.
  __device__ __forceinline__ void products(float (&d)[kBlockCols / 2], int step, bool add) const {
    const int stage = step % kStages;
    ptx::mbarrier_wait(rows_full(stage), step / kStages & 1);
    ptx::mbarrier_wait(tile_ready(step % 2), step / 2 & 1);
    const u32 group = __shfl_sync(0xffffffff, threadIdx.x / 128, 0);
    const u64 a = ptx::wgmma_descriptor(shared + stage * kRowBytes + group * 8192);
    const u64 b = ptx::wgmma_descriptor(shared + kTiles + step % 2 * kTileBytes);
    ptx::wgmma_fence();
#pragma unroll
    for (int k = 0; k < 8; ++k) {
      const u64 at_x = k / 4 * (kRowBytes / 2 / 16) + k % 4 * ptx::kWgmmaStep;
      const u64 at_w = k / 4 * (kTileBytes / 2 / 16) + k % 4 * ptx::kWgmmaStep;
      ptx::wgmma_m64k16<T, kBlockCols>(d, a + at_x, b + at_w, add || k > 0);
    }
    ptx::wgmma_commit_group();
  }

  __device__ __forceinline__ void release(int step) const {
    if (threadIdx.x % 32 != 0) return;
    ptx::mbarrier_arrive(rows_empty(step % kStages));
    ptx::mbarrier_arrive(tile_free(step % 2));
  }

  __device__ __forceinline__ void multiply(float (&sums)[kBlockCols / 2]) const {
#pragma unroll 1
    for (int step = 0; step < kSteps; ++step) {
      products(sums, step, step > 0);
      ptx::wgmma_wait_group<1>();
      if (step > 0) release(step - 1);
    }
    ptx::wgmma_wait_group<0>();
  }

  __device__ __forceinline__ void multiply_in_steps(float (&sums)[kBlockCols / 2]) const {
    float part[kBlockCols / 2];
#pragma unroll 1
    for (int step = 0; step < kSteps; ++step) {
      products(part, step, false);
      ptx::wgmma_wait_group<0>();
      ptx::wgmma_complete(part);
      const float* scales = reinterpret_cast<const float*>(shared_memory() + kScales) + step % 2 * kBlockCols;
#pragma unroll
      for (int p = 0; p < kBlockCols / 8; ++p) {
        const auto scale = *reinterpret_cast<const Vec<float, 2>*>(scales + 8 * p + 2 * (threadIdx.x % 4));
#pragma unroll
        for (int i = 0; i < 4; ++i) sums[4 * p + i] += scale[i % 2] * part[4 * p + i];
      }
      __syncwarp();
      release(step);
    }
  }
};

}  // namespace smelt
