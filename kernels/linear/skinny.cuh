// y = x @ w^T and what stands before and behind it, for few rows: the weights stream from memory straight into
// registers, once.
//
//   x [rows][kK] of T (bf16 or f16); with kNormRows > 0 of X, normed first: T(x * rsqrt(mean(x^2) + kEps) * gain [kK]),
//     with kCentred T((x - mean(x)) * rsqrt(mean((x - mean(x))^2) + kEps) * gain + shift [kK])
//   y [rows][kN] of Y: F of each sum; with kSwiglu [rows][kN / 2]: silu(product with row n of w) * product with row
//     kN / 2 + n
//   gain, shift of G, bias [kN] of T, residual as y; each is nullptr (written in the unit) where it is not there. Bias
//     and residual are added in float, before and behind F
//   w    of T, tiled (for kSwiglu each strip has 8 rows of the first half, then the same 8 of the second): [ceil(kN / 16)][ceil(kK / 64)] units of 16 outputs x 64 k, 2048 bytes: two atoms of 8 outputs x 128
//        bytes, one behind the other; the 16-byte chunk c of row r of an atom stands at chunk c ^ r. Padding is zero
//   rows the rows there are, at most kRows. Sums in float, in a fixed order; rounded once
//
// One block per kStrips strips of 16 outputs: grid ceil(ceil(kN / 16) / kStrips). The warps of a block take the units
// of its strips in turn, each with kDepth units of each strip on their way into registers, and add up at the end.
// kK % 8 == 0 (x is read in 16-byte chunks); kRows a multiple of 8 from 8 to 32; at most kNormRows rows are normed, and
// stay in shared memory: every block norms all of them, while its first weights are under way.
//
// The weights are the 16-row operand of mma.m16n8k16, the rows of x its 8 columns. Which k stands where in an MMA is
// free as long as both operands agree. So lane l = 4g + q takes whole chunks: chunk 4h + q of rows g of the two atoms
// is its part of two MMAs ({x, y}, then {z, w}), and chunk 4h + q of row g of x is exactly the other operand of both.
#pragma once
#include "common/body.cuh"
#include "common/silu.cuh"
#include "common/types.cuh"
#include "linear/behind.cuh"
#include "norm/row.cuh"
#include "ptx/load.cuh"
#include "ptx/mma.cuh"

namespace smelt {

template <class T, class Y, int kN, int kK, int kRows, int kWarps, int kStrips, int kDepth,
          bool kSwiglu = false, class X = T, class G = T, int kNormRows = 0, float kEps = 0.0f, bool kCentred = false,
          class F = Same>
struct LinearSkinny {
  static_assert(sizeof(T) == 2, "bf16 or f16");
  static_assert(kNormRows <= kRows && (kNormRows > 0 || sizeof(X) == sizeof(T)), "x is T unless it is normed");
  static_assert(!kSwiglu || kN % 16 == 0, "whole strips of both halves");
  static_assert(kK % 8 == 0, "rows of x of whole 16-byte chunks");
  static_assert(kRows % 8 == 0 && kRows >= 8 && kRows <= 32, "whole MMA columns");
  static_assert(kWarps >= 1 && kWarps <= 32 && kStrips >= 1 && kDepth >= 1);

  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kUnits = ceil_div(kK, 64);  // of a strip
  static constexpr int kStripBytes = 2048 * kUnits;
  static constexpr int kAllStrips = ceil_div(kN, 16);
  static constexpr int kTurns = ceil_div(kUnits, kWarps);  // units of a strip that a warp takes: kWarps * turn + warp
  static constexpr int kHeld = kDepth < kTurns ? kDepth : kTurns;
  static constexpr int kRounds = kUnits / (kWarps * kHeld);  // of kHeld turns for every warp
  static constexpr bool kRest = kUnits % (kWarps * kHeld) != 0;
  static constexpr int kAhead = kRows == 8 && kHeld % 2 == 0 ? 2 : 1;  // turns that x is read ahead
  static constexpr int kCols = 16 * kStrips;                           // outputs of a block
  static constexpr int kPitch = kCols + 4;  // floats of a row of partial sums: no bank conflicts
  static constexpr int kOutN = kSwiglu ? kN / 2 : kN;              // columns of y
  static constexpr int kOutCols = kSwiglu ? kCols / 2 : kCols;     // of a block
  static constexpr int kNormPitch = kK + 32;  // elements of a normed row: two rows lie in different banks
  static constexpr int kPartialBytes = kWarps * kRows * kPitch * 4;
  static constexpr int kSharedBytes = kPartialBytes + kNormRows * kNormPitch * 2;
  static_assert(kSharedBytes <= 232448, "what a block may have");
  // Blocks of a multiprocessor, for __launch_bounds__(kThreads, kBlocks): as many as have room for what a thread holds.
  static constexpr int kRegisters =
      round_up(16 * kStrips * kHeld + (kAhead + 2) * kRows + kStrips * kRows / 2 + 12, 8);
  static constexpr int kFit = 65536 / (kThreads * kRegisters);
  static constexpr int kBlocks = kFit < 1 ? 1 : kFit > 16 ? 16 : kFit;

  using Weights = uint4[kStrips][2][2];  // [..][h][atom]
  using Chunks = uint4[2][kRows / 8];    // [h][..]
  using Norm = NormRow<X, T, G, kK, kEps, kThreads, kCentred>;

  Y* y;
  const X* x;
  const T* w;
  const G* gain;
  const G* shift;
  const T* bias;
  const Y* residual;
  int rows;

  int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, q = threadIdx.x % 4;
  const u8* next[2];  // [h]: where this lane's part of the next round of units of the first strip begins
  Weights held[kHeld];
  Chunks chunks[kAhead];
  float sums[kStrips][kRows / 8][4];
  Norm norm;

  // The normed rows, behind the partial sums.
  static __device__ __forceinline__ T* normed() { return reinterpret_cast<T*>(shared_memory() + kPartialBytes); }

  // Asks for this lane's part of the unit at `next` + `turn` turns of each strip.
  __device__ __forceinline__ void load(Weights& unit, int tile, int turn) {
#pragma unroll
    for (int s = 0; s < kStrips; ++s) {
      i64 offset = i64(s) * kStripBytes;
      if (kAllStrips % kStrips != 0 && tile * kStrips + s >= kAllStrips) offset = 0;  // any strip: nothing is stored
      offset += turn * kWarps * 2048;
#pragma unroll
      for (int h = 0; h < 2; ++h)
#pragma unroll
        for (int atom = 0; atom < 2; ++atom) unit[s][h][atom] = ptx::ld_global_stream(next[h] + (offset + 1024 * atom));
    }
  }

  // Reads this lane's chunks of x for `turn`; zeros where there is no such row or k.
  __device__ __forceinline__ void read(Chunks& chunk, int turn) {
#pragma unroll
    for (int h = 0; h < 2; ++h)
#pragma unroll
      for (int n = 0; n < kRows / 8; ++n) {
        const int row = 8 * n + g, k = 64 * (turn * kWarps + warp) + 8 * (4 * h + q);
        chunk[h][n] = {0, 0, 0, 0};
        if (row >= rows || k >= kK) continue;
        if constexpr (kNormRows > 0) {
          chunk[h][n] = *reinterpret_cast<const uint4*>(normed() + (row * kNormPitch + k));
        } else {
          chunk[h][n] = *reinterpret_cast<const uint4*>(x + (row * kK + k));
        }
      }
  }

  __device__ __forceinline__ void multiply(const Weights& unit, const Chunks& chunk) {
#pragma unroll
    for (int h = 0; h < 2; ++h)
#pragma unroll
      for (int n = 0; n < kRows / 8; ++n)
#pragma unroll
        for (int s = 0; s < kStrips; ++s) {
          const uint4 low = unit[s][h][0], high = unit[s][h][1], b = chunk[h][n];
          ptx::mma_m16n8k16<T>(sums[s][n], {low.x, high.x, low.y, high.y}, b.x, b.y);
          ptx::mma_m16n8k16<T>(sums[s][n], {low.z, high.z, low.w, high.w}, b.z, b.w);
        }
  }

  // Whether this warp has a unit for `turn`.
  __device__ __forceinline__ bool has(int turn) { return turn * kWarps + warp < kUnits; }

  // Uses all that is held. As soon as a unit is used, its registers take one of the next round: if `kAll` in any case,
  // if `kSome` where there is one.
  template <bool kAll, bool kSome> __device__ __forceinline__ void round(int tile, int first) {
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
      multiply(held[i], chunks[i % kAhead]);
      read(chunks[i % kAhead], first + i + kAhead);
      if (kAll || (kSome && has(first + i + kHeld))) load(held[i], tile, i);
    }
    next[0] += kHeld * kWarps * 2048;
    next[1] += kHeld * kWarps * 2048;
  }

  __device__ __forceinline__ void stream(int tile) {
#pragma unroll
    for (int h = 0; h < 2; ++h)
      next[h] = reinterpret_cast<const u8*>(w) + i64(tile) * kStrips * kStripBytes + warp * 2048 + g * 128 +
                (((4 * h + q) ^ g) << 4);
#pragma unroll
    for (int i = 0; i < kHeld; ++i)
      if (kRounds > 0 || has(i)) load(held[i], tile, i);
    next[0] += kHeld * kWarps * 2048;
    next[1] += kHeld * kWarps * 2048;
    if constexpr (kNormRows > 0) norm.stream(gain, shift);
  }

  // Norms all rows into shared memory.
  __device__ __forceinline__ void norm_rows() {
#pragma unroll 1
    for (int row = 0; row < rows; ++row)
      norm.norm(normed() + row * kNormPitch, gain, shift, [&](int column, float (&held)[Norm::kWidth]) {
        Norm::read(x + (i64(row) * kK + column), held);
      }, [](int, const float (&)[Norm::kWidth]) {});
    __syncthreads();
  }

  // The product of a row with a column of the block: the sum over warps, and the bias of output `n`.
  static __device__ __forceinline__ float total(const float* partial, int row, int column, const T* bias, int n) {
    float sum = 0.0f;
#pragma unroll
    for (int part = 0; part < kWarps; ++part) sum += partial[(part * kRows + row) * kPitch + column];
    return bias != nullptr ? sum + to_float(bias[n]) : sum;
  }

  __device__ __forceinline__ void tile(int tile) {
    if constexpr (kNormRows > 0) norm_rows();
    // What this thread adds at the end is asked for now.
    const float added = residual != nullptr ? read_residual(tile, threadIdx.x) : 0.0f;
    multiply_tile(tile);

    // reduce: over warps, in their order
    float* partial = reinterpret_cast<float*>(shared_memory());  // [kWarps][kRows][kPitch]
#pragma unroll
    for (int s = 0; s < kStrips; ++s)
#pragma unroll
      for (int n = 0; n < kRows / 8; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i)
          partial[(warp * kRows + 8 * n + 2 * q + i % 2) * kPitch + 16 * s + g + 8 * (i / 2)] = sums[s][n][i];
    __syncthreads();

    // store
#pragma unroll 1
    for (int i = threadIdx.x; i < rows * kOutCols; i += kThreads) {
      const int row = i / kOutCols, column = i % kOutCols, n = tile * kOutCols + column;
      if (kOutN % kOutCols != 0 && n >= kOutN) continue;
      float value;
      if constexpr (kSwiglu) {
        const int gate = column / 8 * 16 + column % 8;
        value = silu(total(partial, row, gate, bias, n)) * total(partial, row, gate + 8, bias, kN / 2 + n);
      } else {
        value = apply<F>(total(partial, row, column, bias, n));
      }
      if (residual != nullptr) value += i < kThreads ? added : read_residual(tile, i);
      y[i64(row) * kOutN + n] = from_float<Y>(value);
    }
  }

  // The residual of result `i` of a tile; zero where there is none.
  __device__ __forceinline__ float read_residual(int tile, int i) const {
    const int row = i / kOutCols, n = tile * kOutCols + i % kOutCols;
    return row < rows && n < kOutN ? to_float(residual[i64(row) * kOutN + n]) : 0.0f;
  }

  // The sums of this warp over its units of a tile.
  __device__ __forceinline__ void multiply_tile(int tile) {
#pragma unroll
    for (int i = 0; i < kAhead; ++i) read(chunks[i], i);
#pragma unroll
    for (int s = 0; s < kStrips; ++s)
#pragma unroll
      for (int n = 0; n < kRows / 8; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) sums[s][n][i] = 0.0f;
#pragma unroll 1
    for (int i = 0; i < kRounds - 1; ++i) round<true, true>(tile, i * kHeld);
    if constexpr (kRounds > 0) round<false, kRest>(tile, (kRounds - 1) * kHeld);
    if constexpr (kRest) {
#pragma unroll
      for (int i = 0; i < kHeld; ++i)
        if (has(kRounds * kHeld + i)) {
          multiply(held[i], chunks[i % kAhead]);
          read(chunks[i % kAhead], kRounds * kHeld + i + kAhead);
        }
    }
  }
};

}  // namespace smelt
