// y = x @ w^T with prologue and epilogue, for one to eight rows: blocks stay on the chip for the whole launch,
// and weights stream through rings in shared memory, which run on from strip to strip.
//
//   x [rows][kK] of T (bf16 or f16); with kNormRows = 1 one row of X, normed first:
//     T(x * rsqrt(mean(x^2) + kEps) * norm_weight [kK]), with kCentered
//     T((x - mean(x)) * rsqrt(mean((x - mean(x))^2) + kEps) * norm_weight + norm_bias [kK])
//   y [rows][kN] of Y: F of each sum; with kSwiglu [rows][kN / 2]: silu(product with row n of w) * product with row
//     kN / 2 + n
//     Y may be i8 or f8e4m3: quantized with the scale *y_scale
//   norm_weight, norm_bias of NormW, bias [kN] of B, residual as y; each is nullptr (written in the unit) if absent.
//     Bias and residual are added in float, before and after F; quantized results have no residual
//   w    of W, tiled as in common/tiled.cuh (for kSwiglu each strip has 8 rows of the first half, then the same 8 of
//        the second): [ceil(kN / 16)][units of 16 outputs x 128 bytes of k]. Padding is zero
//   rows the rows there are, at most kRows. Sums in float, in a fixed order; rounded once
//
// W is T, or i8, f8e4m3 or i4: quantized values q that mean (q - zero_point) * scale, with scales as WScales says
// (common/scales.cuh), of whole rows or of groups of columns of one row, and, if kZeroPoint, a zero point of i8 for
// each. X may be i8 or f8e4m3, with one scale per row, or one for all. All are widened to T in registers, which is
// exact.
//
// A block of kStrips * kShares warps takes kStrips strips of 16 outputs at a time, every gridDim.x-th tile of them;
// grid: two blocks per multiprocessor, or as many as there are tiles. The kShares warps of a strip take turns at its
// units, in ascending order of k, and their sums are added in the order of the warps. Each warp has kStages units in
// flight, and copies the next as soon as one is in registers (a proxy fence makes sure that it is: a copy that hits L2
// overtakes loads from shared memory that wait in their queue), whatever strip that belongs to. The first copies start
// before the wait. The number of bytes in flight decides: with many more than 64 KB per multiprocessor, the last writes
// of the previous launch wait for them (docs/performance-log.md).
//
// Rows of x are whole 16-byte chunks. With kStaged they are copied to shared memory once per block, normed or not;
// otherwise they are read one turn ahead, again for each strip. If the weight has zero points or 4 bits, sums(q * x) is
// computed as sums((q + kOffset) * x) - (kOffset + zero_point) * sums(x), in float, for each half of a unit: 4-bit
// values become 16-bit floats without a subtraction. Relative to sums(|q| |x|), that adds an error of some 1e-6.
//
// Shared memory of a block is at least 100 KB, so that two fill a multiprocessor: with room for a third one, of the
// next launch, some multiprocessors would get three, and others one.
//
// Any assignment of k to the lanes of an MMA is right as long as both operands agree, as in skinny.cuh: lane 4g + q has
// chunks 4h + q of rows g of the two atoms of a unit, and the same columns of row g of x.
#pragma once
#include "common/body.cuh"
#include "common/scales.cuh"
#include "common/silu.cuh"
#include "common/tiled.cuh"
#include "common/widen.cuh"
#include "linear/epilogue.cuh"
#include "norm/row.cuh"
#include "ptx/bulk.cuh"
#include "ptx/load.cuh"
#include "ptx/mbarrier.cuh"
#include "ptx/mma.cuh"
#include "ptx/shared.cuh"

namespace smelt {

template <class T, class Y, int kN, int kK, int kRows, int kStrips, int kShares, int kStages, bool kStaged,
          bool kSwiglu = false, class X = T, class NormW = T, int kNormRows = 0, float kEps = 0.0f,
          bool kCentered = false, class F = Same, class B = T, class W = T, class WScales = Unscaled,
          bool kZeroPoint = false, class XScales = Unscaled>
struct LinearFew {
  static constexpr bool kQuantized = WScales::kScaled, kQuantizedX = XScales::kScaled, kQuantizesY = sizeof(Y) == 1;
  static constexpr bool kOf4Bits = kUnitCols<W> == kUnitCols<i4>;
  using XT = typename Either<kQuantizedX, X, T>::Type;  // as products read x
  static_assert(sizeof(T) == 2, "bf16 or f16");
  static_assert(kNormRows == 0 || (kNormRows == 1 && kRows == 1 && kStaged), "one row is normed, once per block");
  static_assert(kNormRows > 0 || sizeof(X) == sizeof(XT), "x is T unless it is normed or quantized");
  static_assert(kQuantized || (sizeof(W) == sizeof(T) && !kQuantizedX && !kZeroPoint),
                "scales belong to quantized values");
  static_assert(!kQuantizedX || (kNormRows == 0 && !XScales::kGrouped), "quantized x has a scale per row");
  static_assert(!WScales::kGrouped || WScales::kSharedRows == 1, "groups of one row");
  static_assert(!kSwiglu || kN % 16 == 0, "whole strips of both halves");
  static_assert(kK * sizeof(XT) % 16 == 0, "rows of x of whole 16-byte chunks");
  static_assert(kRows >= 1 && kRows <= 8, "one column of MMAs");
  static_assert(kStrips >= 1 && kShares >= 1 && kStrips * kShares <= 16 && kStages >= 1);

  static constexpr int kWarps = kStrips * kShares, kThreads = 32 * kWarps;
  static constexpr int kBlocks = 2;  // of a multiprocessor
  static constexpr int kCols = kUnitCols<W>;
  static constexpr int kUnits = ceil_div(kK, kCols), kTurns = ceil_div(kUnits, kShares);  // of a strip, of a warp
  static constexpr int kStripBytes = 2048 * kUnits;
  static constexpr int kAllStrips = ceil_div(kN, 16), kTiles = ceil_div(kAllStrips, kStrips);
  static constexpr int kHalves = 2 * kUnits;          // of the units of a strip: the parts of a sum
  static constexpr int kOutN = kSwiglu ? kN / 2 : kN;  // columns of y
  static constexpr int kOuts = kSwiglu ? 8 : 16;       // of a strip
  // Whether sums of offset weights are corrected by sums of x, and whether halves of units are summed on their own.
  static constexpr bool kCorrected = kStaged && (kOf4Bits || kZeroPoint);
  static constexpr bool kSumsPerHalf = kCorrected || WScales::kGrouped;
  static_assert(!kZeroPoint || kStaged, "zero points need sums of x");
  static_assert(!WScales::kGrouped || WScales::kShared % (kCols / 2) == 0, "groups of whole halves of units");

  // x: chunks of 16 bytes, of which a lane reads kXLoads for a chunk of weights.
  static constexpr int kXWidth = 16 / sizeof(XT);
  static constexpr int kXLoads = kChunkCols<W> / kXWidth;
  static constexpr int kXChunks = kUnits * kCols / kXWidth;  // of a row with its padding
  // Rows lie in different banks: at 64 bytes more than a multiple of 128.
  static constexpr int kXPitch = round_up(kXChunks * 16, 128) + 64;

  // Shared memory: rings, barriers, partial sums [2][kWarps][kRows][kPitch], scales, x, sums of x.
  static constexpr int kTurnBytes = kShares * 2048;  // from a unit of a warp to its next
  static constexpr int kBarriersAt = kWarps * kStages * 2048;
  static constexpr int kBarriers = kWarps * kStages + 2 * kStrips;
  static constexpr int kPitch = 18;  // floats of a row of partial sums: at most two in a bank
  static constexpr int kPartialsAt = kBarriersAt + round_up(kBarriers * 8, 128);
  static constexpr int kPartials = kWarps * kRows * kPitch;  // of each of the two tiles that have them
  static constexpr int kScalesAt = kPartialsAt + round_up(2 * kPartials * 4, 128);
  // Scales and zero points of groups, of the 16 rows of a strip, each row at 16 bytes more than a multiple of 128.
  static constexpr int kGroups = WScales::kGrouped ? WScales::kPerRow : 0;
  static constexpr int kScaleBytes = kGroups * int(sizeof(typename WScales::Type));
  static constexpr int kZeroPointBytes = kZeroPoint ? kGroups : 0;
  static constexpr int kScalePitch = kGroups == 0 ? 0 : round_up(kScaleBytes, 128) + 16;
  static constexpr int kZeroPointPitch = kZeroPointBytes == 0 ? 0 : round_up(kZeroPointBytes, 128) + 16;
  static constexpr bool kGroupScales = kGroups > 0;
  static_assert(kScaleBytes % 16 == 0 && kZeroPointBytes % 16 == 0, "rows of scales of whole 16-byte chunks");
  static_assert(!kZeroPoint || kGroupScales, "zero points of groups");
  static constexpr int kStripScaleBytes = 16 * (kScalePitch + kZeroPointPitch);  // of a strip
  static constexpr int kXAt = kScalesAt + 2 * kStrips * kStripScaleBytes;
  static constexpr int kXSumsAt = kXAt + (kStaged ? kRows * kXPitch : 0);
  static constexpr int kUsedBytes = kXSumsAt + (kCorrected ? kHalves * 64 : 0);
  static constexpr int kLeastBytes = 102400, kMostBytes = 115712;  // for exactly two blocks per multiprocessor
  static constexpr int kSharedBytes = kUsedBytes < kLeastBytes ? kLeastBytes : kUsedBytes;
  static_assert(kSharedBytes <= kMostBytes, "two blocks per multiprocessor");

  using Norm = NormRow<X, T, NormW, kK, kEps, kThreads, kCentered>;

  // What a lane has of x for half a unit.
  struct Chunks {
    uint4 x[kXLoads];
  };
  // What a result needs besides its sum: it is loaded before the sum is computed.
  struct EpilogueOperands {
    float scale[2];
    float bias[2];
    float residual;
  };

  Y* y;
  const X* x;
  const W* w;
  const NormW* norm_weight;
  const NormW* norm_bias;
  const typename XScales::Type* x_scale;
  const typename WScales::Type* w_scale;
  const i8* w_zero_point;
  const B* bias;
  const Y* residual;
  const float* y_scale;
  int rows;

  int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, q = lane % 4;
  int own = warp / kShares, share = warp % kShares;  // strip of a tile, and which of the strip's warps this is
  float sums[4];
  Norm norm;

  static __device__ __forceinline__ u32 at(int offset) { return ptx::shared_address(shared_memory()) + offset; }
  __device__ __forceinline__ u32 full(int i) const { return at(kBarriersAt + (warp * kStages + i) * 8); }
  // Scales and zero points of a strip are copied to two places in turn.
  __device__ __forceinline__ u32 scales_full(int half) const {
    return at(kBarriersAt + (kWarps * kStages + 2 * own + half) * 8);
  }
  __device__ __forceinline__ int scales_at(int half) const { return kScalesAt + (2 * own + half) * kStripScaleBytes; }
  static constexpr float kOffset = kOf4Bits ? Widen<i4, T>::kOffset : 0.0f;  // added to the weights of products
  static __device__ __forceinline__ float* x_sums() { return reinterpret_cast<float*>(shared_memory() + kXSumsAt); }

  // The place of chunk `c` of a row of x: the four chunks that the lanes of a row read together are neighbours.
  static __device__ __forceinline__ int place(int c) {
    if constexpr (kXLoads == 1) return c;
    constexpr int kTogether = 4 * kXLoads;
    const int i = c % kTogether;
    return c - i + i % kXLoads * 4 + i / kXLoads;
  }
  static __device__ __forceinline__ u8* x_row(int row) { return shared_memory() + kXAt + row * kXPitch; }

  // Waits for the warps of this strip.
  __device__ __forceinline__ void sync_strip() const {
    if constexpr (kStrips == 1) {
      __syncthreads();
    } else if constexpr (kShares == 1) {
      __syncwarp();
    } else {
      ptx::bar_sync(1 + own, 32 * kShares);
    }
  }

  // Units of a strip that this warp takes, and where its first one is.
  __device__ __forceinline__ int units() const {
    return kUnits % kShares == 0 || share < kUnits % kShares ? kTurns : kTurns - 1;
  }
  __device__ __forceinline__ const u8* first_unit(int tile) const {
    return reinterpret_cast<const u8*>(w) + (i64(tile * kStrips + own) * kStripBytes + share * 2048);
  }
  __device__ __forceinline__ bool has_strip(int tile) const {
    return kAllStrips % kStrips == 0 ? tile < kTiles : tile * kStrips + own < kAllStrips;
  }

  // Called by the first lane.
  __device__ __forceinline__ void copy_unit(int stage, const u8* from) const {
    ptx::mbarrier_arrive_expect_tx(full(stage), 2048);
    ptx::cp_async_bulk(at((warp * kStages + stage) * 2048), from, 2048, full(stage));
  }

  // Called by the first warp of a strip.
  __device__ __forceinline__ void copy_scales(int tile, int half) {
    if (tile >= kTiles) return;
    if (lane == 0) ptx::mbarrier_arrive_expect_tx(scales_full(half), 16 * (kScaleBytes + kZeroPointBytes));
    __syncwarp();
    if (lane >= 16) return;
    const i64 from = i64(output(tile, lane)) * kGroups;
    const u32 to = at(scales_at(half) + lane * kScalePitch);
    ptx::cp_async_bulk(to, w_scale + from, kScaleBytes, scales_full(half));
    if constexpr (kZeroPoint)
      ptx::cp_async_bulk(at(scales_at(half) + 16 * kScalePitch + lane * kZeroPointPitch), w_zero_point + from,
                         kZeroPointBytes, scales_full(half));
  }

  // The output in row `r` of this warp's strip; of padding, the last.
  __device__ __forceinline__ int output(int tile, int r) const {
    const int strip = tile * kStrips + own;
    return min(kSwiglu ? r / 8 * (kN / 2) + 8 * strip + r % 8 : 16 * strip + r, kN - 1);
  }

  __device__ __forceinline__ void stream(int tile) {
    if (lane == 0) {
      for (int i = 0; i < kStages; ++i) ptx::mbarrier_init(full(i), 1);
      if (kGroupScales && share == 0) ptx::mbarrier_init(scales_full(0), 1), ptx::mbarrier_init(scales_full(1), 1);
      ptx::fence_mbarrier_init();
#pragma unroll
      for (int i = 0; i < kStages; ++i)
        if (i < units() && has_strip(tile)) copy_unit(i, first_unit(tile) + i * kTurnBytes);
    }
    if constexpr (kGroupScales) {
      __syncwarp();
      if (share == 0) copy_scales(tile, 0), copy_scales(tile + gridDim.x, 1);
    }
    if constexpr (kNormRows > 0) norm.stream(norm_weight, norm_bias);
  }

  // Norms the row into shared memory.
  __device__ __forceinline__ void norm_row() {
    const auto read = [&](int column, float (&values)[Norm::kWidth]) { Norm::read(x + column, values); };
    const auto moments = norm.moments(read);
    Norm::each([&](int at, int column) {
      const auto values = norm.normed(moments, norm_weight, norm_bias, at, column, read);
      u8* to = x_row(0) + place(column / kXWidth) * 16 + column % kXWidth * sizeof(XT);
      *reinterpret_cast<Vec<T, Norm::kWidth>*>(to) = values;
    });
    for (int c = kK / kXWidth + threadIdx.x; c < kXChunks; c += kThreads)
      *reinterpret_cast<uint4*>(x_row(0) + place(c) * 16) = {0, 0, 0, 0};
  }

  // Copies the rows to shared memory; zeros past the last row or column.
  __device__ __forceinline__ void copy_rows() {
    constexpr int kAll = kRows * kXChunks, kTurns = ceil_div(kAll, kThreads), kBatch = kTurns < 8 ? kTurns : 8;
#pragma unroll 1
    for (int first = threadIdx.x; first < kAll; first += kBatch * kThreads) {
      uint4 batch[kBatch];
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        const int chunk = first + i * kThreads, row = chunk / kXChunks, k = chunk % kXChunks * kXWidth;
        batch[i] = {0, 0, 0, 0};
        if (row < rows && k < kK) batch[i] = *reinterpret_cast<const uint4*>(x + (row * kK + k));
      }
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        const int chunk = first + i * kThreads;
        if (chunk < kAll) *reinterpret_cast<uint4*>(x_row(chunk / kXChunks) + place(chunk % kXChunks) * 16) = batch[i];
      }
    }
  }

  // Adds up the rows over the columns of each half of a unit: [kHalves][q] of rows 2q and 2q + 1, twice. Rows past the
  // last repeat others. Without zero points they are stored times -kOffset.
  __device__ __forceinline__ void add_rows() {
    constexpr int kOfHalf = kXChunks / kHalves, kAll = kRows * kXChunks;
    static_assert(32 % kOfHalf == 0, "within a warp");
#pragma unroll 1
    for (int first = 32 * warp; first < kAll; first += kThreads) {
      const int row = (first + lane) / kXChunks, chunk = (first + lane) % kXChunks;
      float sum = 0.0f;
      if (first + lane < kAll) {
        const auto values = *reinterpret_cast<const Vec<XT, kXWidth>*>(x_row(row) + place(chunk) * 16);
#pragma unroll
        for (int i = 0; i < kXWidth; ++i) sum += to_float(values.at[i]);
      }
#pragma unroll
      for (int lanes = 1; lanes < kOfHalf; lanes *= 2) sum += __shfl_xor_sync(kFullWarp, sum, lanes);
      if (first + lane >= kAll || chunk % kOfHalf != 0) continue;
      float* to = x_sums() + (chunk / kOfHalf * 16 + row / 2 * 4 + row % 2);
      to[0] = to[2] = kZeroPoint ? sum : -kOffset * sum;
    }
  }

  // This lane's chunks of x for half a unit; zeros after kK. Lanes past the last row read another row, since columns of
  // an MMA are independent.
  __device__ __forceinline__ void read(Chunks& chunk, int half) const {
#pragma unroll
    for (int i = 0; i < kXLoads; ++i) {
      if constexpr (kStaged) {
        const u8* from = x_row(min(g, kRows - 1)) + (half * 4 * kXLoads + 4 * i + q) * 16;  // by place()
        chunk.x[i] = *reinterpret_cast<const uint4*>(from);
      } else {
        const int k = kChunkCols<W> * (4 * half + q) + i * kXWidth;
        chunk.x[i] = {0, 0, 0, 0};
        if (kK % kCols == 0 || k < kK) chunk.x[i] = *reinterpret_cast<const uint4*>(x + (min(g, rows - 1) * kK + k));
      }
    }
  }

  static __device__ __forceinline__ u32 word(const uint4& v, int i) {
    return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w;
  }

  // The operand from x of MMA `step` of half a unit.
  static __device__ __forceinline__ void x_pairs(u32 (&b)[2], const Chunks& chunk, int step) {
    if constexpr (kQuantizedX) {
      Widen<X, T>::pairs(b, word(chunk.x[step / 4], step % 4));
    } else {
      b[0] = word(chunk.x[step / 2], step % 2 * 2);
      b[1] = word(chunk.x[step / 2], step % 2 * 2 + 1);
    }
  }

  // Adds the products of half a unit: chunks of rows g and g + 8 of the strip, with their scales.
  __device__ __forceinline__ void multiply(const uint4& low, const uint4& high, const Chunks& chunk, int half,
                                           int scales) {
    if constexpr (!kQuantized) {
      ptx::mma_m16n8k16<T>(sums, {low.x, high.x, low.y, high.y}, chunk.x[0].x, chunk.x[0].y);
      ptx::mma_m16n8k16<T>(sums, {low.z, high.z, low.w, high.w}, chunk.x[0].z, chunk.x[0].w);
    } else {
      constexpr int kPairs = Widen<W, T>::kPairs, kSteps = kPairs / 2;  // of a word of weights
      float part[4] = {};
      if constexpr (kCorrected) {
        const float4 of_x = *reinterpret_cast<const float4*>(x_sums() + half * 16 + 4 * q);
        float by[2] = {1.0f, 1.0f};
        if constexpr (kZeroPoint) {
          by[0] = -kOffset - zero_point_at(scales, g, half);
          by[1] = -kOffset - zero_point_at(scales, g + 8, half);
        }
        part[0] = by[0] * of_x.x, part[1] = by[0] * of_x.y, part[2] = by[1] * of_x.z, part[3] = by[1] * of_x.w;
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        u32 lows[kPairs], highs[kPairs];
        if constexpr (kCorrected && kOf4Bits) {
          Widen<i4, T>::pairs_with_offset(lows, word(low, i));
          Widen<i4, T>::pairs_with_offset(highs, word(high, i));
        } else {
          Widen<W, T>::pairs(lows, word(low, i));
          Widen<W, T>::pairs(highs, word(high, i));
        }
#pragma unroll
        for (int step = 0; step < kSteps; ++step) {
          u32 b[2];
          x_pairs(b, chunk, i * kSteps + step);
          const u32 a[4] = {lows[2 * step], highs[2 * step], lows[2 * step + 1], highs[2 * step + 1]};
          ptx::mma_m16n8k16<T>(kSumsPerHalf ? part : sums, a, b[0], b[1]);
        }
      }
      if constexpr (kSumsPerHalf) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          float scale = 1.0f;
          if constexpr (WScales::kGrouped) scale = to_float(scale_at(scales, g + 8 * (i / 2), half));
          sums[i] += scale * part[i];
        }
      }
    }
  }

  // The scale and the zero point of half a unit of row `r` of the strip; padding, whose products are zero, repeats
  // others.
  static __device__ __forceinline__ int group_of(int half) {
    const int column = half * (kCols / 2);
    return WScales::column(kK % kCols == 0 ? column : min(column, kK - 1));
  }
  static __device__ __forceinline__ typename WScales::Type scale_at(int scales, int r, int half) {
    const u8* row = shared_memory() + scales + r * kScalePitch;
    return reinterpret_cast<const typename WScales::Type*>(row)[group_of(half)];
  }
  static __device__ __forceinline__ i8 zero_point_at(int scales, int r, int half) {
    const u8* row = shared_memory() + scales + 16 * kScalePitch + r * kZeroPointPitch;
    return reinterpret_cast<const i8*>(row)[group_of(half)];
  }

  // The sums of this warp over its units of a strip. As soon as a unit is in registers, its stage receives the one that
  // is kStages turns ahead, or belongs to the next strip. If x is not staged, `ahead` has its next chunks.
  __device__ __forceinline__ void multiply_strip(int tile, u32& parities, Chunks (&ahead)[2], int scales) {
    const u8* here = first_unit(tile);
    const u8* next = first_unit(tile + gridDim.x);
    const bool more = has_strip(tile + gridDim.x);
#pragma unroll
    for (int i = 0; i < 4; ++i) sums[i] = 0.0f;
#pragma unroll 1
    for (int first = 0; first < kTurns; first += kStages) {
#pragma unroll
      for (int stage = 0; stage < kStages; ++stage) {
        const int turn = first + stage;
        if ((kTurns % kStages != 0 || kUnits % kShares != 0) && turn >= units()) break;

        // load
        ptx::mbarrier_wait(full(stage), parities >> stage & 1);
        parities ^= 1 << stage;
        const u8* from = shared_memory() + (warp * kStages + stage) * 2048 + g * 128;
        uint4 weights[2][2];  // [h][atom]
#pragma unroll
        for (int h = 0; h < 2; ++h)
#pragma unroll
          for (int atom = 0; atom < 2; ++atom)
            weights[h][atom] = *reinterpret_cast<const uint4*>(from + atom * 1024 + (((4 * h + q) ^ g) << 4));
        ptx::fence_proxy_async();
        __syncwarp();
        const bool within = turn + kStages < units();
        const int next_turn = within ? turn + kStages : stage;
        if (lane == 0 && (within || more)) copy_unit(stage, (within ? here : next) + next_turn * kTurnBytes);

        // multiply
        const int unit = turn * kShares + share, after = turn + 1 < units() ? unit + kShares : share;
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          Chunks chunk;
          if constexpr (kStaged) {
            read(chunk, 2 * unit + h);
          } else {
            chunk = ahead[h];
            read(ahead[h], 2 * after + h);
          }
          multiply(weights[h][0], weights[h][1], chunk, 2 * unit + h, scales);
        }
      }
    }
  }

  // What result `i` of a tile needs besides its sum.
  __device__ __forceinline__ EpilogueOperands read_epilogue(int tile, int i) const {
    EpilogueOperands operands = {{1.0f, 1.0f}, {0.0f, 0.0f}, 0.0f};
    const int row = i / kOuts, n = output(tile, i % kOuts);
    if (row >= rows) return operands;
#pragma unroll
    for (int half = 0; half < (kSwiglu ? 2 : 1); ++half) {
      const int line = n + half * (kN / 2);
      if constexpr (kQuantized && !WScales::kGrouped) operands.scale[half] = to_float(w_scale[WScales::line(line)]);
      if constexpr (kQuantizedX) operands.scale[half] *= to_float(x_scale[XScales::line(row)]);
      if (bias != nullptr) operands.bias[half] = to_float(bias[line]);
    }
    if constexpr (!kQuantizesY) {
      if (residual != nullptr) operands.residual = to_float(residual[i64(row) * kOutN + n]);
    }
    return operands;
  }

  __device__ __forceinline__ void tile(int tile) {
    if constexpr (kStaged) {
      if constexpr (kNormRows > 0) norm_row();
      else copy_rows();
      __syncthreads();
      if constexpr (kCorrected) {
        add_rows();
        __syncthreads();
      }
    }
    Chunks ahead[2];
    if constexpr (!kStaged) read(ahead[0], 2 * share), read(ahead[1], 2 * share + 1);
    const float reciprocal = kQuantizesY ? __frcp_rn(*y_scale) : 1.0f;
    const int mine = threadIdx.x % (32 * kShares);
    u32 parities = 0;
    int turn = 0;
#pragma unroll 1
    for (; tile < kTiles; tile += gridDim.x, ++turn) {
      const int half = turn % 2;
      if (!has_strip(tile)) return;
      const EpilogueOperands early = read_epilogue(tile, mine);
      if constexpr (kGroupScales) ptx::mbarrier_wait(scales_full(half), turn / 2 % 2);
      multiply_strip(tile, parities, ahead, scales_at(half));

      // reduce: over warps, in their order
      float* partial = reinterpret_cast<float*>(shared_memory() + kPartialsAt) + half * kPartials;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int row = 2 * q + i % 2;
        if (row < kRows) partial[(warp * kRows + row) * kPitch + g + 8 * (i / 2)] = sums[i];
      }
      if constexpr (kGroupScales) ptx::fence_proxy_async();  // scales were read that the next ones replace
      sync_strip();
      if constexpr (kGroupScales) {
        if (share == 0) copy_scales(tile + 2 * gridDim.x, half);
      }

      // store
      partial += own * kShares * kRows * kPitch;
#pragma unroll 1
      for (int i = mine; i < rows * kOuts; i += 32 * kShares) {
        const int row = i / kOuts, column = i % kOuts, n = (tile * kStrips + own) * kOuts + column;
        if (kOutN % kOuts != 0 && n >= kOutN) continue;
        const EpilogueOperands operands = i == mine ? early : read_epilogue(tile, i);
        const float first = total(partial, row, column) * operands.scale[0] + operands.bias[0];
        float value;
        if constexpr (kSwiglu) {
          value = silu_for<Y>(first) * (total(partial, row, column + 8) * operands.scale[1] + operands.bias[1]);
        } else {
          value = apply<F>(first);
        }
        value += operands.residual;
        y[i64(row) * kOutN + n] = finish<Y>(value, reciprocal);
      }
    }
  }

  // The sum of the warps of a strip.
  static __device__ __forceinline__ float total(const float* partial, int row, int column) {
    float sum = 0.0f;
#pragma unroll
    for (int part = 0; part < kShares; ++part) sum += partial[(part * kRows + row) * kPitch + column];
    return sum;
  }
};

}  // namespace smelt
