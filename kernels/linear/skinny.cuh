// y = x @ w^T with prologue and epilogue, for few rows: the weights stream from memory straight into registers, once.
//
//   x [rows][kK] of T (bf16 or f16); with kNormRows > 0 of X, normed first:
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
// (common/scales.cuh) and, if kZeroPoint, a zero point of i8 for each. X may be i8 or f8e4m3, with scales as XScales
// says. All are widened to T in registers, which is exact, so T is free if x is quantized. A group of columns that
// share a scale is summed on its own, and is half a unit or a multiple of that; if a row has one scale, it is applied
// to the sum.
//
// One block per kStrips strips of 16 outputs: grid ceil(ceil(kN / 16) / kStrips). The warps of a block take turns at
// the units of its strips, each with kDepth units of each strip on their way into registers, and add up at the end.
// Rows of x are whole 16-byte chunks; kRows a multiple of 8 from 8 to 32; at most kNormRows rows are normed, and
// stay in shared memory: every block norms all of them, while its first weights are in flight.
//
// The weights are the 16-row operand of mma.m16n8k16, the rows of x its 8 columns. Any assignment of k to the lanes of
// an MMA is right as long as both operands agree. So lane l = 4g + q has whole chunks: chunk 4h + q of rows g of the
// two atoms, whose words, one after the other or in pairs, are its part of an MMA, and the same columns of row g of x,
// which are exactly the other operand.
#pragma once
#include "common/body.cuh"
#include "common/limits.cuh"
#include "common/scales.cuh"
#include "common/silu.cuh"
#include "common/tiled.cuh"
#include "common/widen.cuh"
#include "linear/epilogue.cuh"
#include "norm/row.cuh"
#include "ptx/load.cuh"
#include "ptx/mma.cuh"

namespace smelt {

template <class T, class Y, int kN, int kK, int kRows, int kWarps, int kStrips, int kDepth,
          bool kSwiglu = false, class X = T, class NormW = T, int kNormRows = 0, float kEps = 0.0f,
          bool kCentered = false, class F = Same, class B = T, class W = T, class WScales = Unscaled,
          bool kZeroPoint = false, class XScales = Unscaled>
struct LinearSkinny {
  static constexpr bool kQuantized = WScales::kScaled, kQuantizedX = XScales::kScaled, kQuantizesY = sizeof(Y) == 1;
  using XT = typename Either<kQuantizedX, X, T>::Type;  // as products read x
  static_assert(sizeof(T) == 2, "bf16 or f16");
  static_assert(kNormRows <= kRows && (kNormRows > 0 || sizeof(X) == sizeof(XT)),
                "x is T unless it is normed or quantized");
  static_assert(kQuantized || (sizeof(W) == sizeof(T) && !kQuantizedX && !kZeroPoint),
                "scales belong to quantized values");
  static_assert(!kQuantizedX || kNormRows == 0, "quantized values are not normed");
  static_assert(!kSwiglu || kN % 16 == 0, "whole strips of both halves");
  static_assert(kK * sizeof(XT) % 16 == 0, "rows of x of whole 16-byte chunks");
  static_assert(kRows % 8 == 0 && kRows >= 8 && kRows <= 32, "whole MMA columns");
  static_assert(kWarps >= 1 && kWarps <= 32 && kStrips >= 1 && kDepth >= 1);

  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kCols = kUnitCols<W>;
  static constexpr int kUnits = ceil_div(kK, kCols);  // of a strip
  static constexpr int kStripBytes = 2048 * kUnits;
  static constexpr int kAllStrips = ceil_div(kN, 16);
  static constexpr int kTurns = ceil_div(kUnits, kWarps);  // units of a strip that a warp takes: kWarps * turn + warp
  static constexpr int kStages = kDepth < kTurns ? kDepth : kTurns;
  static constexpr int kRounds = kUnits / (kWarps * kStages);  // of kStages turns for every warp
  static constexpr bool kRest = kUnits % (kWarps * kStages) != 0;
  static constexpr int kParts = kQuantized ? 2 : 1;                      // of a unit, each with its chunks of x
  static constexpr int kAhead = kRows == 8 && !kQuantized && kStages % 2 == 0 ? 2 : 1;  // parts that x is prefetched
  static constexpr int kXWidth = 16 / sizeof(XT);                        // columns of x in 16 bytes
  static constexpr int kXLoads = kChunkCols<W> / kXWidth;                // for the columns of a chunk of weights
  static constexpr int kOutputs = 16 * kStrips;                          // of a block
  static constexpr int kPitch = kOutputs + 4;  // floats of a row of partial sums: no bank conflicts
  static constexpr int kOutN = kSwiglu ? kN / 2 : kN;                    // columns of y
  static constexpr int kOutCols = kSwiglu ? kOutputs / 2 : kOutputs;     // of a block
  static constexpr int kNormPitch = kK + 32;  // elements of a normed row: two rows lie in different banks
  static constexpr int kPartialBytes = kWarps * kRows * kPitch * 4;
  static constexpr int kSharedBytes = kPartialBytes + kNormRows * kNormPitch * 2;
  static_assert(kSharedBytes <= kMaxSharedBytes, "shared memory of a block");
  static constexpr bool kGrouped = WScales::kGrouped || XScales::kGrouped;
  static_assert(WScales::kShared % (kCols / 2) == 0 && XScales::kShared % (kCols / 2) == 0, "groups of whole parts");
  // Scales of a unit in each of its rows, where a row has several.
  static constexpr int kGroups = WScales::kGrouped && WScales::kShared < kCols ? 2 : 1;
  // Blocks per multiprocessor, for __launch_bounds__(kThreads, kBlocks): as many as have room for a thread's registers,
  // which are weights, x, sums, words being widened, and an allowance of 2 * kRows + 12 for everything else.
  static constexpr int kWeightRegisters =
      (16 + (WScales::kGrouped ? 2 * kGroups : 0) + (kZeroPoint ? 2 * kGroups : 0)) * kStrips * kStages;
  static constexpr int kXRegisters = kAhead * (kXLoads * 2 / kParts * kRows / 2 + (XScales::kGrouped ? kRows / 4 : 0));
  static constexpr int kSumRegisters = (kGrouped ? 2 : 1) * kStrips * kRows / 2;
  static constexpr int kWideningRegisters = !kQuantized ? 0 : (kQuantizedX ? 8 : 16) + (kCols == kUnitCols<i4> ? 8 : 0);
  static constexpr int kRegisters =
      round_up(kWeightRegisters + kXRegisters + 2 * kRows + kSumRegisters + kWideningRegisters + 12, 8);
  static constexpr int kFit = kRegisterFile / (kThreads * kRegisters);
  static constexpr int kBlocks = kFit < 1 ? 1 : kFit > 16 ? 16 : kFit;

  // A lane's part of a unit of each strip: [h][atom] of weights, [atom][group] of scales and zero points.
  struct Unit {
    uint4 w[kStrips][2][2];
    typename WScales::Type scale[kStrips][2][kGroups];
    i8 zero_point[kStrips][2][kGroups];
  };
  // Its part of x for a part of a unit: [h] of 8 rows, and the scales of rows 8n + 2q and 8n + 2q + 1.
  struct Chunks {
    uint4 x[2 / kParts][kRows / 8][kXLoads];
    typename XScales::Type scale[kRows / 8][2];
  };
  using Norm = NormRow<X, T, NormW, kK, kEps, kThreads, kCentered>;

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

  int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, q = threadIdx.x % 4;
  const u8* next[2];  // [h]: where this lane's part of the next round of units of the first strip begins
  int lines[kStrips][2];  // [atom]: where the scales of this lane's outputs begin
  Unit stages[kStages];
  Chunks chunks[kAhead];
  typename WScales::Type row_scale[kStrips][2];  // of a whole row
  float sums[kStrips][kRows / 8][4];
  Norm norm;

  // The normed rows, after the partial sums.
  static __device__ __forceinline__ T* normed() { return reinterpret_cast<T*>(shared_memory() + kPartialBytes); }

  // Loads this lane's part of the unit of `turn`, which is `i` turns after `next`, of each strip.
  __device__ __forceinline__ void load(Unit& unit, int tile, int i, int turn) {
#pragma unroll
    for (int s = 0; s < kStrips; ++s) {
      i64 offset = i64(s) * kStripBytes;
      if (kAllStrips % kStrips != 0 && tile * kStrips + s >= kAllStrips) offset = 0;  // any strip: nothing is stored
      offset += i * kWarps * 2048;
#pragma unroll
      for (int h = 0; h < 2; ++h)
#pragma unroll
        for (int atom = 0; atom < 2; ++atom)
          unit.w[s][h][atom] = ptx::ld_global_stream(next[h] + (offset + 1024 * atom));
      if constexpr (WScales::kGrouped || kZeroPoint) load_scales(unit, s, turn);
    }
  }

  // Scales and zero points of a unit of strip `s`; padding, whose products are zero, repeats others.
  __device__ __forceinline__ void load_scales(Unit& unit, int s, int turn) {
#pragma unroll
    for (int group = 0; group < kGroups; ++group) {
      const int column = (turn * kWarps + warp) * kCols + group * (kCols / 2);
      const int at = WScales::column(kK % kCols == 0 ? column : min(column, kK - 1));
#pragma unroll
      for (int atom = 0; atom < 2; ++atom) {
        if constexpr (WScales::kGrouped) unit.scale[s][atom][group] = w_scale[lines[s][atom] + at];
        if constexpr (kZeroPoint) unit.zero_point[s][atom][group] = w_zero_point[lines[s][atom] + at];
      }
    }
  }

  // The output of this lane in an atom of a strip; of padding, the last.
  __device__ __forceinline__ int output(int tile, int s, int atom) const {
    const int strip = tile * kStrips + s;
    return min(kSwiglu ? atom * (kN / 2) + 8 * strip + g : 16 * strip + 8 * atom + g, kN - 1);
  }

  // Reads this lane's chunks of x for a part of a unit; zeros past the last row or column.
  __device__ __forceinline__ void read(Chunks& chunk, int part) {
    const int unit = part / kParts * kWarps + warp, first = part % kParts;
#pragma unroll
    for (int h = 0; h < 2 / kParts; ++h)
#pragma unroll
      for (int n = 0; n < kRows / 8; ++n)
#pragma unroll
        for (int i = 0; i < kXLoads; ++i) {
          const int row = 8 * n + g, k = kCols * unit + kChunkCols<W> * (4 * (first + h) + q) + i * kXWidth;
          chunk.x[h][n][i] = {0, 0, 0, 0};
          if (row >= rows || k >= kK) continue;
          if constexpr (kNormRows > 0) {
            chunk.x[h][n][i] = *reinterpret_cast<const uint4*>(normed() + (row * kNormPitch + k));
          } else {
            chunk.x[h][n][i] = *reinterpret_cast<const uint4*>(x + (row * kK + k));
          }
        }
    if constexpr (XScales::kGrouped) {
      read_scales(chunk.scale, min(kCols * unit + first * (kCols / 2), kK - 1));
    }
  }

  // Reads the scales of x at a column for the rows whose sums this lane has; rows past the last repeat it.
  __device__ __forceinline__ void read_scales(typename XScales::Type (&scale)[kRows / 8][2], int column) {
#pragma unroll
    for (int n = 0; n < kRows / 8; ++n)
#pragma unroll
      for (int i = 0; i < 2; ++i)
        scale[n][i] = x_scale[XScales::line(min(8 * n + 2 * q + i, rows - 1)) + XScales::column(column)];
  }

  __device__ __forceinline__ void multiply(const Unit& unit, const Chunks& chunk, int part) {
    if constexpr (kQuantized) {
      multiply_quantized(unit, chunk, part % kParts);
    } else {
#pragma unroll
      for (int h = 0; h < 2; ++h)
#pragma unroll
        for (int n = 0; n < kRows / 8; ++n)
#pragma unroll
          for (int s = 0; s < kStrips; ++s) {
            const uint4 low = unit.w[s][h][0], high = unit.w[s][h][1], b = chunk.x[h][n][0];
            ptx::mma_m16n8k16<T>(sums[s][n], {low.x, high.x, low.y, high.y}, b.x, b.y);
            ptx::mma_m16n8k16<T>(sums[s][n], {low.z, high.z, low.w, high.w}, b.z, b.w);
          }
    }
  }

  static __device__ __forceinline__ u32 word(const uint4& v, int i) {
    return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w;
  }

  // The operand from x of MMA `step` of a part.
  static __device__ __forceinline__ void x_pairs(u32 (&b)[2], const uint4 (&chunk)[kXLoads], int step) {
    if constexpr (kQuantizedX) {
      Widen<X, T>::pairs(b, word(chunk[step / 4], step % 4));
    } else {
      b[0] = word(chunk[step / 2], step % 2 * 2);
      b[1] = word(chunk[step / 2], step % 2 * 2 + 1);
    }
  }

  // Half a unit, `h`: MMA by MMA, each over four columns of a lane.
  __device__ __forceinline__ void multiply_quantized(const Unit& unit, const Chunks& chunk, int h) {
    constexpr int kPairs = Widen<W, T>::kPairs, kSteps = kPairs / 2;  // of a word of weights
    float group[kStrips][kRows / 8][4] = {};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      u32 b[kSteps][kRows / 8][2];
#pragma unroll
      for (int step = 0; step < kSteps; ++step)
#pragma unroll
        for (int n = 0; n < kRows / 8; ++n) x_pairs(b[step][n], chunk.x[0][n], i * kSteps + step);
#pragma unroll
      for (int s = 0; s < kStrips; ++s) {
        u32 low[kPairs], high[kPairs];
        Widen<W, T>::pairs(low, word(unit.w[s][h][0], i));
        Widen<W, T>::pairs(high, word(unit.w[s][h][1], i));
        if constexpr (kZeroPoint) {
          const int at = kGroups == 2 ? h : 0;
          subtract_zero_point(low, unit.zero_point[s][0][at]);
          subtract_zero_point(high, unit.zero_point[s][1][at]);
        }
#pragma unroll
        for (int step = 0; step < kSteps; ++step)
#pragma unroll
          for (int n = 0; n < kRows / 8; ++n)
            ptx::mma_m16n8k16<T>(kGrouped ? group[s][n] : sums[s][n],
                                 {low[2 * step], high[2 * step], low[2 * step + 1], high[2 * step + 1]},
                                 b[step][n][0], b[step][n][1]);
      }
    }
    if constexpr (kGrouped) {
#pragma unroll
      for (int s = 0; s < kStrips; ++s)
#pragma unroll
        for (int n = 0; n < kRows / 8; ++n)
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            float scale = 1.0f;
            if constexpr (WScales::kGrouped) scale = to_float(unit.scale[s][i / 2][kGroups == 2 ? h : 0]);
            if constexpr (XScales::kGrouped) scale *= to_float(chunk.scale[n][i % 2]);
            sums[s][n][i] += scale * group[s][n][i];
          }
    }
  }

  // Exact in both types.
  template <int kCount>
  static __device__ __forceinline__ void subtract_zero_point(u32 (&pairs)[kCount], i8 zero_point) {
    const u32 both = pack2<T>(float(zero_point), float(zero_point));
#pragma unroll
    for (int i = 0; i < kCount; ++i) pairs[i] = ptx::sub_rn_x2<T>(pairs[i], both);
  }

  // Whether this warp has a unit for `turn`.
  __device__ __forceinline__ bool has(int turn) { return turn * kWarps + warp < kUnits; }

  // Multiplies the unit of turn `turn`, part by part, and reads the next parts of x.
  __device__ __forceinline__ void consume(int i, int turn) {
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      Chunks& chunk = chunks[(i * kParts + part) % kAhead];
      multiply(stages[i], chunk, part);
      read(chunk, turn * kParts + part + kAhead);
    }
  }

  // Consumes all stages. As soon as a unit is consumed, its registers receive one of the next round: if `kAll` always,
  // if `kSome` only if the warp has one.
  template <bool kAll, bool kSome> __device__ __forceinline__ void round(int tile, int first) {
#pragma unroll
    for (int i = 0; i < kStages; ++i) {
      consume(i, first + i);
      if (kAll || (kSome && has(first + i + kStages))) load(stages[i], tile, i, first + i + kStages);
    }
    next[0] += kStages * kWarps * 2048;
    next[1] += kStages * kWarps * 2048;
  }

  __device__ __forceinline__ void stream(int tile) {
#pragma unroll
    for (int h = 0; h < 2; ++h)
      next[h] = reinterpret_cast<const u8*>(w) + i64(tile) * kStrips * kStripBytes + warp * 2048 + g * 128 +
                (((4 * h + q) ^ g) << 4);
    if constexpr (kQuantized) {
#pragma unroll
      for (int s = 0; s < kStrips; ++s)
#pragma unroll
        for (int atom = 0; atom < 2; ++atom) lines[s][atom] = WScales::line(output(tile, s, atom));
    }
#pragma unroll
    for (int i = 0; i < kStages; ++i)
      if (kRounds > 0 || has(i)) load(stages[i], tile, i, i);
    next[0] += kStages * kWarps * 2048;
    next[1] += kStages * kWarps * 2048;
    if constexpr (kQuantized && !WScales::kGrouped) {
#pragma unroll
      for (int s = 0; s < kStrips; ++s)
#pragma unroll
        for (int atom = 0; atom < 2; ++atom) row_scale[s][atom] = w_scale[lines[s][atom]];
    }
    if constexpr (kNormRows > 0) norm.stream(norm_weight, norm_bias);
  }

  // Norms all rows into shared memory.
  __device__ __forceinline__ void norm_rows() {
#pragma unroll 1
    for (int row = 0; row < rows; ++row)
      norm.norm(normed() + row * kNormPitch, norm_weight, norm_bias, [&](int column, float (&values)[Norm::kWidth]) {
        Norm::read(x + (i64(row) * kK + column), values);
      }, [](int, const float (&)[Norm::kWidth]) {});
    __syncthreads();
  }

  // The product of a row with a column of the block: the sum over warps, and the bias of output `n`.
  static __device__ __forceinline__ float total(const float* partial, int row, int column, const B* bias, int n) {
    float sum = 0.0f;
#pragma unroll
    for (int part = 0; part < kWarps; ++part) sum += partial[(part * kRows + row) * kPitch + column];
    return bias != nullptr ? sum + to_float(bias[n]) : sum;
  }

  __device__ __forceinline__ void tile(int tile) {
    if constexpr (kNormRows > 0) norm_rows();
    // load
    const float added = residual != nullptr ? read_residual(tile, threadIdx.x) : 0.0f;
    const float reciprocal = kQuantizesY ? __frcp_rn(*y_scale) : 1.0f;
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
        value = silu_for<Y>(total(partial, row, gate, bias, n)) * total(partial, row, gate + 8, bias, kN / 2 + n);
      } else {
        value = apply<F>(total(partial, row, column, bias, n));
      }
      if (residual != nullptr) value += i < kThreads ? added : read_residual(tile, i);
      y[i64(row) * kOutN + n] = finish<Y>(value, reciprocal);
    }
  }

  // The residual of result `i` of a tile; zero past the last.
  __device__ __forceinline__ float read_residual(int tile, int i) const {
    const int row = i / kOutCols, n = tile * kOutCols + i % kOutCols;
    if constexpr (kQuantizesY) {
      return 0.0f;
    } else {
      return row < rows && n < kOutN ? to_float(residual[i64(row) * kOutN + n]) : 0.0f;
    }
  }

  // The sums of this warp over its units of a tile.
  __device__ __forceinline__ void multiply_tile(int tile) {
    typename XScales::Type token_scale[kRows / 8][2];
    if constexpr (kQuantizedX && !XScales::kGrouped) read_scales(token_scale, 0);
#pragma unroll
    for (int i = 0; i < kAhead; ++i) read(chunks[i], i);
#pragma unroll
    for (int s = 0; s < kStrips; ++s)
#pragma unroll
      for (int n = 0; n < kRows / 8; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) sums[s][n][i] = 0.0f;
#pragma unroll 1
    for (int i = 0; i < kRounds - 1; ++i) round<true, true>(tile, i * kStages);
    if constexpr (kRounds > 0) round<false, kRest>(tile, (kRounds - 1) * kStages);
    if constexpr (kRest) {
#pragma unroll
      for (int i = 0; i < kStages; ++i)
        if (has(kRounds * kStages + i)) consume(i, kRounds * kStages + i);
    }
    if constexpr (kQuantized) {
#pragma unroll
      for (int s = 0; s < kStrips; ++s)
#pragma unroll
        for (int n = 0; n < kRows / 8; ++n)
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            if constexpr (!WScales::kGrouped) sums[s][n][i] *= to_float(row_scale[s][i / 2]);
            if constexpr (kQuantizedX && !XScales::kGrouped) sums[s][n][i] *= to_float(token_scale[n][i % 2]);
          }
    }
  }
};

}  // namespace smelt
