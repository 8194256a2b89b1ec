// y = x @ w^T with prologue and epilogue, for one to eight rows: blocks stay on the chip for the whole launch,
// and weights stream through rings in shared memory, which run on from strip to strip.
//
//   x [rows][kK] of T (bf16 or f16); with kNormRows = 1 one row of X, normed first: T(x * rsqrt(mean(x^2) + kEps) *
//     gain [kK]), with kCentred T((x - mean(x)) * rsqrt(mean((x - mean(x))^2) + kEps) * gain + shift [kK])
//   y [rows][kN] of Y: F of each sum; with kSwiglu [rows][kN / 2]: silu(product with row n of w) * product with row
//     kN / 2 + n
//     Y may be i8 or f8e4m3: codes of that, by the scale *y_scale
//   gain, shift of G, bias [kN] of B, residual as y; each is nullptr (written in the unit) where it is not there. Bias
//     and residual are added in float, before and after F; quantized results have no residual
//   w    of W, tiled as in common/tiled.cuh (for kSwiglu each strip has 8 rows of the first half, then the same 8 of the
//        second): [ceil(kN / 16)][units of 16 outputs x 128 bytes of k]. Padding is zero
//   rows the rows there are, at most kRows. Sums in float, in a fixed order; rounded once
//
// W is T, or i8, f8e4m3 or i4: codes that mean (code - zero) * scale, with scales as WScales says (common/scales.cuh),
// of whole rows or of groups of columns of one row, and, where kZero, a zero of i8 for each. X may be i8 or f8e4m3,
// codes with one scale for each row, or for all. All are widened to T in registers, which is exact.
//
// One block of kStrips * kShares warps takes kStrips strips of 16 outputs at a time, every gridDim.x-th tile of them;
// grid: two blocks a multiprocessor, or as many as there are tiles. The kShares warps of a strip take its units in turn,
// in ascending order of k, and their sums are added in the order of the warps. Each warp has kStages units on their way,
// and asks for the next as soon as one is in registers (a proxy fence makes sure that it is: a copy that hits L2 overtakes
// loads from shared memory that wait in their queue), whatever strip that belongs to. The first are asked for before
// the wait. How many bytes are under way decides: with many more than 64 KB a multiprocessor, the last writes of the
// launch before wait for them (docs/performance-log.md).
//
// Rows of x are whole 16-byte chunks. With kStaged they are put into shared memory once a block, normed or as they are;
// otherwise they are read one turn ahead, again for each strip. Where what codes mean has parts, sums(code * x) is
// sums((code + kAbove) * x) - (kAbove + zero) * sums(x), in float, for each half of a unit: of 4 bits, codes become
// numbers of T without a subtraction. Relative to sums(|code| |x|), that adds an error of some 1e-6.
//
// Shared memory of a block is at least 100 KB, so that two fill a multiprocessor: with room for a third one, of the
// next launch, some multiprocessors would get three, and others one.
//
// Which k stands where in an MMA is free as long as both operands agree, as in skinny.cuh: lane 4g + q has chunks
// 4h + q of rows g of the two atoms of a unit, and the same columns of row g of x.
#pragma once
#include "common/body.cuh"
#include "common/codes.cuh"
#include "common/scales.cuh"
#include "common/silu.cuh"
#include "common/tiled.cuh"
#include "common/widen.cuh"
#include "linear/behind.cuh"
#include "norm/row.cuh"
#include "ptx/bulk.cuh"
#include "ptx/load.cuh"
#include "ptx/mbarrier.cuh"
#include "ptx/mma.cuh"
#include "ptx/shared.cuh"

namespace smelt {

template <class T, class Y, int kN, int kK, int kRows, int kStrips, int kShares, int kStages, bool kStaged,
          bool kSwiglu = false, class X = T, class G = T, int kNormRows = 0, float kEps = 0.0f, bool kCentred = false,
          class F = Same, class B = T, class W = T, class WScales = Unscaled, bool kZero = false,
          class XScales = Unscaled>
struct LinearFew {
  static constexpr bool kCodes = WScales::kScaled, kXCodes = XScales::kScaled, kMakesCodes = sizeof(Y) == 1;
  static constexpr bool kOf4Bits = kUnitCols<W> == kUnitCols<i4>;
  using XT = typename Either<kXCodes, X, T>::Type;  // as products read x
  static_assert(sizeof(T) == 2, "bf16 or f16");
  static_assert(kNormRows == 0 || (kNormRows == 1 && kRows == 1 && kStaged), "one row is normed, once a block");
  static_assert(kNormRows > 0 || sizeof(X) == sizeof(XT), "x is T unless it is normed or codes");
  static_assert(kCodes || (sizeof(W) == sizeof(T) && !kXCodes && !kZero), "scales belong to codes");
  static_assert(!kXCodes || (kNormRows == 0 && !XScales::kGrouped), "codes of x have a scale for each row");
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
  // Whether halves of units are summed on their own, with more than the codes.
  static constexpr bool kAbove = kStaged && (kOf4Bits || kZero), kBySums = kAbove || WScales::kGrouped;
  static_assert(!kZero || kStaged, "zeros want sums of x");
  static_assert(!WScales::kGrouped || WScales::kShared % (kCols / 2) == 0, "groups of whole halves");

  // x: chunks of 16 bytes, of which a lane reads kXLoads for a chunk of weights.
  static constexpr int kXWidth = 16 / sizeof(XT);
  static constexpr int kXLoads = kChunkCols<W> / kXWidth;
  static constexpr int kXChunks = kUnits * kCols / kXWidth;  // of a row with its padding
  // Rows lie in different banks: at 64 bytes more than a multiple of 128.
  static constexpr int kXPitch = round_up(kXChunks * 16, 128) + 64;

  // Shared memory: rings, barriers, partial sums [2][kWarps][kRows][kPitch], what codes mean, x, sums of x.
  static constexpr int kTurnBytes = kShares * 2048;  // from a unit of a warp to its next
  static constexpr int kBarriersAt = kWarps * kStages * 2048;
  static constexpr int kBarriers = kWarps * kStages + 2 * kStrips;
  static constexpr int kPitch = 18;  // floats of a row of partial sums: at most two in a bank
  static constexpr int kPartialsAt = kBarriersAt + round_up(kBarriers * 8, 128);
  static constexpr int kPartials = kWarps * kRows * kPitch;  // of each of the two tiles that have some
  static constexpr int kMeaningAt = kPartialsAt + round_up(2 * kPartials * 4, 128);
  // Scales of groups, and zeros, of the 16 rows of a strip, each row at 16 bytes more than a multiple of 128.
  static constexpr int kGroups = WScales::kGrouped ? WScales::kPerRow : 0;
  static constexpr int kScaleBytes = kGroups * int(sizeof(typename WScales::Type)), kZeroBytes = kZero ? kGroups : 0;
  static constexpr int kScalePitch = kGroups == 0 ? 0 : round_up(kScaleBytes, 128) + 16;
  static constexpr int kZeroPitch = kZeroBytes == 0 ? 0 : round_up(kZeroBytes, 128) + 16;
  static constexpr bool kMeans = kGroups > 0;
  static_assert(kScaleBytes % 16 == 0 && kZeroBytes % 16 == 0, "rows of scales of whole 16-byte chunks");
  static_assert(!kZero || kMeans, "zeros of groups");
  static constexpr int kMeaningBytes = 16 * (kScalePitch + kZeroPitch);  // of a strip
  static constexpr int kXAt = kMeaningAt + 2 * kStrips * kMeaningBytes;
  static constexpr int kXSumsAt = kXAt + (kStaged ? kRows * kXPitch : 0);
  static constexpr int kUsedBytes = kXSumsAt + (kAbove ? kHalves * 64 : 0);
  static constexpr int kSharedBytes = kUsedBytes < 102400 ? 102400 : kUsedBytes;
  static_assert(kSharedBytes <= 115712, "two blocks a multiprocessor");

  using Norm = NormRow<X, T, G, kK, kEps, kThreads, kCentred>;

  // What a lane holds of x for half a unit.
  struct Chunks {
    uint4 x[kXLoads];
  };
  // What a result needs beside its sum: it is asked for before the sum is made.
  struct Behind {
    float scale[2];
    float bias[2];
    float residual;
  };

  Y* y;
  const X* x;
  const W* w;
  const G* gain;
  const G* shift;
  const typename XScales::Type* x_scale;
  const typename WScales::Type* w_scale;
  const i8* w_zero;
  const B* bias;
  const Y* residual;
  const float* y_scale;
  int rows;

  int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, q = lane % 4;
  int own = warp / kShares, share = warp % kShares;  // strip of a tile, and which of its warps this is
  float sums[4];
  Norm norm;

  static __device__ __forceinline__ u32 at(int offset) { return ptx::shared_address(shared_memory()) + offset; }
  __device__ __forceinline__ u32 full(int i) const { return at(kBarriersAt + (warp * kStages + i) * 8); }
  // What codes of a strip mean arrives in two places in turn.
  __device__ __forceinline__ u32 known(int half) const {
    return at(kBarriersAt + (kWarps * kStages + 2 * own + half) * 8);
  }
  __device__ __forceinline__ int meaning(int half) const { return kMeaningAt + (2 * own + half) * kMeaningBytes; }
  static constexpr float kMore = kOf4Bits ? Widen<i4, T>::kAbove : 0.0f;  // what products have more than codes
  static __device__ __forceinline__ float* x_sums() { return reinterpret_cast<float*>(shared_memory() + kXSumsAt); }

  // Where chunk `c` of a row of x stands: the four chunks that the lanes of a row read together are neighbours.
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

  // Of the first lane: asks for a unit.
  __device__ __forceinline__ void ask(int stage, const u8* from) const {
    ptx::mbarrier_arrive_expect_tx(full(stage), 2048);
    ptx::cp_async_bulk(at((warp * kStages + stage) * 2048), from, 2048, full(stage));
  }

  // Of the first warp of a strip: asks for what its codes mean.
  __device__ __forceinline__ void ask_meaning(int tile, int half) {
    if (tile >= kTiles) return;
    if (lane == 0) ptx::mbarrier_arrive_expect_tx(known(half), 16 * (kScaleBytes + kZeroBytes));
    __syncwarp();
    if (lane >= 16) return;
    const i64 from = i64(output(tile, lane)) * kGroups;
    const u32 to = at(meaning(half) + lane * kScalePitch);
    ptx::cp_async_bulk(to, w_scale + from, kScaleBytes, known(half));
    if constexpr (kZero)
      ptx::cp_async_bulk(at(meaning(half) + 16 * kScalePitch + lane * kZeroPitch), w_zero + from, kZeroBytes, known(half));
  }

  // The output in row `r` of this warp's strip; of padding, the last.
  __device__ __forceinline__ int output(int tile, int r) const {
    const int strip = tile * kStrips + own;
    return min(kSwiglu ? r / 8 * (kN / 2) + 8 * strip + r % 8 : 16 * strip + r, kN - 1);
  }

  __device__ __forceinline__ void stream(int tile) {
    if (lane == 0) {
      for (int i = 0; i < kStages; ++i) ptx::mbarrier_init(full(i), 1);
      if (kMeans && share == 0) ptx::mbarrier_init(known(0), 1), ptx::mbarrier_init(known(1), 1);
      ptx::fence_mbarrier_init();
#pragma unroll
      for (int i = 0; i < kStages; ++i)
        if (i < units() && has_strip(tile)) ask(i, first_unit(tile) + i * kTurnBytes);
    }
    if constexpr (kMeans) {
      __syncwarp();
      if (share == 0) ask_meaning(tile, 0), ask_meaning(tile + gridDim.x, 1);
    }
    if constexpr (kNormRows > 0) norm.stream(gain, shift);
  }

  // Norms the row into shared memory.
  __device__ __forceinline__ void norm_row() {
    const auto read = [&](int column, float (&held)[Norm::kWidth]) { Norm::read(x + column, held); };
    const auto moments = norm.moments(read);
    Norm::each([&](int at, int column) {
      const auto values = norm.normed(moments, gain, shift, at, column, read);
      u8* to = x_row(0) + place(column / kXWidth) * 16 + column % kXWidth * sizeof(XT);
      *reinterpret_cast<Vec<T, Norm::kWidth>*>(to) = values;
    });
    for (int c = kK / kXWidth + threadIdx.x; c < kXChunks; c += kThreads)
      *reinterpret_cast<uint4*>(x_row(0) + place(c) * 16) = {0, 0, 0, 0};
  }

  // Copies the rows into shared memory; zeros where there is no such row or k.
  __device__ __forceinline__ void copy_rows() {
    constexpr int kAll = kRows * kXChunks, kTurns = ceil_div(kAll, kThreads), kHeld = kTurns < 8 ? kTurns : 8;
#pragma unroll 1
    for (int first = threadIdx.x; first < kAll; first += kHeld * kThreads) {
      uint4 held[kHeld];
#pragma unroll
      for (int i = 0; i < kHeld; ++i) {
        const int chunk = first + i * kThreads, row = chunk / kXChunks, k = chunk % kXChunks * kXWidth;
        held[i] = {0, 0, 0, 0};
        if (row < rows && k < kK) held[i] = *reinterpret_cast<const uint4*>(x + (row * kK + k));
      }
#pragma unroll
      for (int i = 0; i < kHeld; ++i) {
        const int chunk = first + i * kThreads;
        if (chunk < kAll) *reinterpret_cast<uint4*>(x_row(chunk / kXChunks) + place(chunk % kXChunks) * 16) = held[i];
      }
    }
  }

  // Adds up the rows over the columns of each half of a unit: [kHalves][q] of rows 2q and 2q + 1, twice. Rows that
  // there are not are others. Of codes without zeros, they are what kAbove adds to a sum, negative.
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
      to[0] = to[2] = kZero ? sum : -kMore * sum;
    }
  }

  // This lane's chunks of x for half a unit; zeros after kK. Where there is no row g, it is another: columns of an MMA do
  // not meet.
  __device__ __forceinline__ void read(Chunks& chunk, int half) const {
#pragma unroll
    for (int i = 0; i < kXLoads; ++i) {
      if constexpr (kStaged) {
        const u8* from = x_row(min(g, kRows - 1)) + (half * 4 * kXLoads + 4 * i + q) * 16;  // as placed
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

  // The operand of MMA `step` of half a unit that comes from x.
  static __device__ __forceinline__ void x_pairs(u32 (&b)[2], const Chunks& chunk, int step) {
    if constexpr (kXCodes) {
      Widen<X, T>::pairs(b, word(chunk.x[step / 4], step % 4));
    } else {
      b[0] = word(chunk.x[step / 2], step % 2 * 2);
      b[1] = word(chunk.x[step / 2], step % 2 * 2 + 1);
    }
  }

  // Adds the products of half a unit: chunks of rows g and g + 8 of the strip, and what they mean.
  __device__ __forceinline__ void multiply(const uint4& low, const uint4& high, const Chunks& chunk, int half, int known) {
    if constexpr (!kCodes) {
      ptx::mma_m16n8k16<T>(sums, {low.x, high.x, low.y, high.y}, chunk.x[0].x, chunk.x[0].y);
      ptx::mma_m16n8k16<T>(sums, {low.z, high.z, low.w, high.w}, chunk.x[0].z, chunk.x[0].w);
    } else {
      constexpr int kPairs = Widen<W, T>::kPairs, kSteps = kPairs / 2;  // of a word of weights
      float part[4] = {};
      if constexpr (kAbove) {
        const float4 of_x = *reinterpret_cast<const float4*>(x_sums() + half * 16 + 4 * q);
        float by[2] = {1.0f, 1.0f};
        if constexpr (kZero) by[0] = -kMore - zero_at(known, g, half), by[1] = -kMore - zero_at(known, g + 8, half);
        part[0] = by[0] * of_x.x, part[1] = by[0] * of_x.y, part[2] = by[1] * of_x.z, part[3] = by[1] * of_x.w;
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        u32 lows[kPairs], highs[kPairs];
        if constexpr (kAbove && kOf4Bits) {
          Widen<i4, T>::pairs_above(lows, word(low, i));
          Widen<i4, T>::pairs_above(highs, word(high, i));
        } else {
          Widen<W, T>::pairs(lows, word(low, i));
          Widen<W, T>::pairs(highs, word(high, i));
        }
#pragma unroll
        for (int step = 0; step < kSteps; ++step) {
          u32 b[2];
          x_pairs(b, chunk, i * kSteps + step);
          const u32 a[4] = {lows[2 * step], highs[2 * step], lows[2 * step + 1], highs[2 * step + 1]};
          ptx::mma_m16n8k16<T>(kBySums ? part : sums, a, b[0], b[1]);
        }
      }
      if constexpr (kBySums) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          float scale = 1.0f;
          if constexpr (WScales::kGrouped) scale = to_float(scale_at(known, g + 8 * (i / 2), half));
          sums[i] += scale * part[i];
        }
      }
    }
  }

  // The scale, and the zero, of half a unit of row `r` of the strip; those of padding are others, of products that are
  // zero.
  static __device__ __forceinline__ int group_of(int half) {
    const int column = half * (kCols / 2);
    return WScales::column(kK % kCols == 0 ? column : min(column, kK - 1));
  }
  static __device__ __forceinline__ typename WScales::Type scale_at(int known, int r, int half) {
    const u8* row = shared_memory() + known + r * kScalePitch;
    return reinterpret_cast<const typename WScales::Type*>(row)[group_of(half)];
  }
  static __device__ __forceinline__ i8 zero_at(int known, int r, int half) {
    return reinterpret_cast<const i8*>(shared_memory() + known + 16 * kScalePitch + r * kZeroPitch)[group_of(half)];
  }

  // The sums of this warp over its units of a strip. As soon as one is in registers, its stage takes that which is kStages
  // turns ahead, or belongs to the next strip. Where x is not staged, `ahead` is what is read next of it.
  __device__ __forceinline__ void multiply_strip(int tile, u32& parities, Chunks (&ahead)[2], int known) {
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
        uint4 held[2][2];  // [h][atom]
#pragma unroll
        for (int h = 0; h < 2; ++h)
#pragma unroll
          for (int atom = 0; atom < 2; ++atom)
            held[h][atom] = *reinterpret_cast<const uint4*>(from + atom * 1024 + (((4 * h + q) ^ g) << 4));
        ptx::fence_proxy_async();
        __syncwarp();
        const bool within = turn + kStages < units();
        const int then = within ? turn + kStages : stage;
        if (lane == 0 && (within || more)) ask(stage, (within ? here : next) + then * kTurnBytes);

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
          multiply(held[h][0], held[h][1], chunk, 2 * unit + h, known);
        }
      }
    }
  }

  // What result `i` of a tile needs beside its sum.
  __device__ __forceinline__ Behind read_behind(int tile, int i) const {
    Behind behind = {{1.0f, 1.0f}, {0.0f, 0.0f}, 0.0f};
    const int row = i / kOuts, n = output(tile, i % kOuts);
    if (row >= rows) return behind;
#pragma unroll
    for (int half = 0; half < (kSwiglu ? 2 : 1); ++half) {
      const int line = n + half * (kN / 2);
      if constexpr (kCodes && !WScales::kGrouped) behind.scale[half] = to_float(w_scale[WScales::line(line)]);
      if constexpr (kXCodes) behind.scale[half] *= to_float(x_scale[XScales::line(row)]);
      if (bias != nullptr) behind.bias[half] = to_float(bias[line]);
    }
    if constexpr (!kMakesCodes) {
      if (residual != nullptr) behind.residual = to_float(residual[i64(row) * kOutN + n]);
    }
    return behind;
  }

  __device__ __forceinline__ void tile(int tile) {
    if constexpr (kStaged) {
      if constexpr (kNormRows > 0) norm_row();
      else copy_rows();
      __syncthreads();
      if constexpr (kAbove) {
        add_rows();
        __syncthreads();
      }
    }
    Chunks ahead[2];
    if constexpr (!kStaged) read(ahead[0], 2 * share), read(ahead[1], 2 * share + 1);
    const float reciprocal = kMakesCodes ? __frcp_rn(*y_scale) : 1.0f;
    const int mine = threadIdx.x % (32 * kShares);
    u32 parities = 0;
    int turn = 0;
#pragma unroll 1
    for (; tile < kTiles; tile += gridDim.x, ++turn) {
      const int half = turn % 2;
      if (!has_strip(tile)) return;
      const Behind early = read_behind(tile, mine);
      if constexpr (kMeans) ptx::mbarrier_wait(known(half), turn / 2 % 2);
      multiply_strip(tile, parities, ahead, meaning(half));

      // reduce: over warps, in their order
      float* partial = reinterpret_cast<float*>(shared_memory() + kPartialsAt) + half * kPartials;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int row = 2 * q + i % 2;
        if (row < kRows) partial[(warp * kRows + row) * kPitch + g + 8 * (i / 2)] = sums[i];
      }
      if constexpr (kMeans) ptx::fence_proxy_async();  // scales were read that the next ones replace
      sync_strip();
      if constexpr (kMeans) {
        if (share == 0) ask_meaning(tile + 2 * gridDim.x, half);
      }

      // store
      partial += own * kShares * kRows * kPitch;
#pragma unroll 1
      for (int i = mine; i < rows * kOuts; i += 32 * kShares) {
        const int row = i / kOuts, column = i % kOuts, n = (tile * kStrips + own) * kOuts + column;
        if (kOutN % kOuts != 0 && n >= kOutN) continue;
        const Behind behind = i == mine ? early : read_behind(tile, i);
        const float first = total(partial, row, column) * behind.scale[0] + behind.bias[0];
        float value;
        if constexpr (kSwiglu) {
          value = silu_for<Y>(first) * (total(partial, row, column + 8) * behind.scale[1] + behind.bias[1]);
        } else {
          value = apply<F>(first);
        }
        value += behind.residual;
        if constexpr (kMakesCodes) {
          y[i64(row) * kOutN + n] = codes_of<Y, 1>({value}, reciprocal)[0];
        } else {
          y[i64(row) * kOutN + n] = from_float<Y>(value);
        }
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
