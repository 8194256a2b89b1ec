// y = x @ w^T + bias for any sizes and float types, in float on CUDA cores: for checking, and for shapes and types that
// tensor cores do not support.
//
//   y [rows][kN] of Y, x [rows][kK] of X, w [kN][kK] of W, bias [kN] of B, read if kBias
//   x and w may be quantized: i8, f8e4m3, or i4 in a byte each, and mean (q - zero_point) * scale with scales as
//     XScales
//   and WScales say (common/scales.cuh) and, if kZeroPoint, a zero point of the weight per scale; otherwise x_scale,
//   w_scale and w_zero_point are nullptr
//   x is row-major. The order of w is kOrder: 0 row-major, 1 tiled, 2 tiled with the rows of the two halves interleaved
//   (common/tiled.cuh; 4-bit values as there)
//   LinearReference     grid ceil(rows / 64) * ceil(kN / 64), row tiles first; 64 x 64 outputs per block, k in order
//   LinearReferenceFew  grid ceil(kN / 8); a warp per output of up to 8 rows, its lanes share k; w is row-major
#pragma once
#include "common/body.cuh"
#include "common/reduce.cuh"
#include "common/scales.cuh"
#include "common/tiled.cuh"
#include "common/widen.cuh"

namespace smelt {

// Elements of a matrix [kN][kK] of W in the order kOrder, dequantized.
template <class W, class WScales, bool kZeroPoint, int kOrder, int kN, int kK> struct ReferenceWeight {
  const W* w;
  const typename WScales::Type* scale;
  const i8* zero_point;

  __device__ __forceinline__ float stored(int row, int col) const {
    const i64 place = kOrder == 2 ? half_row_place(row, kN) : row;
    if constexpr (kOrder == 0) {
      return to_float(w[place * kK + col]);
    } else if constexpr (kUnitCols<W> == kUnitCols<i4>) {
      const u32 word = reinterpret_cast<const u32*>(w)[tiled_word(place, col, kK)];
      return float(int(word >> tiled_shift(col) & 0xf) - 8);
    } else {
      return to_float(w[tiled_at<W>(place, col, kK)]);
    }
  }

  // The value of an element that is stored as `q`.
  __device__ __forceinline__ float dequantize(float q, int row, int col) const {
    if constexpr (!WScales::kScaled) return q;
    const int at = WScales::line(row) + WScales::column(col);
    if constexpr (kZeroPoint) q -= to_float(zero_point[at]);
    return q * to_float(scale[at]);
  }

  __device__ __forceinline__ float at(int row, int col) const { return dequantize(stored(row, col), row, col); }
};

template <class X, class W, class B, class Y, int kN, int kK, bool kBias, class XScales = Unscaled,
          class WScales = Unscaled, bool kZeroPoint = false, int kOrder = 0>
struct LinearReference {
  static constexpr int kThreads = 256;
  static constexpr int kTile = 64;  // rows and outputs of a block
  static constexpr int kStep = 16;  // of k
  static constexpr int kPitch = kTile + 4;
  static constexpr int kLoads = kTile * kStep / kThreads;  // of a thread, for x and for w

  Y* y;
  const X* x;
  const W* w;
  const typename XScales::Type* x_scale;
  const typename WScales::Type* w_scale;
  const i8* w_zero_point;
  const B* bias;
  int rows;

  __device__ __forceinline__ void stream(int) {}

  // The row of the tile of a load of this thread.
  static __device__ __forceinline__ int line_of(int load) { return (load * kThreads + int(threadIdx.x)) / kStep; }

  __device__ __forceinline__ void tile(int tile) {
    __shared__ __align__(16) float left[kStep][kPitch], right[kStep][kPitch];
    const int row_tiles = ceil_div(rows, kTile);
    const int row = tile % row_tiles * kTile, output = tile / row_tiles * kTile;
    const int r = threadIdx.x / 16 * 4, n = threadIdx.x % 16 * 4;  // of this thread's 4 x 4 outputs
    const ReferenceWeight<W, WScales, kZeroPoint, kOrder, kN, kK> weight = {w, w_scale, w_zero_point};
    float next_left[kLoads], next_right[kLoads];
    const auto load = [&](int k) {
#pragma unroll
      for (int i = 0; i < kLoads; ++i) {
        const int line = line_of(i), at = k + int(threadIdx.x) % kStep;
        next_left[i] = next_right[i] = 0.0f;
        if (at < kK && row + line < rows) {
          next_left[i] = to_float(x[i64(row + line) * kK + at]) * XScales::at(x_scale, row + line, at);
        }
        if (at < kK && output + line < kN) next_right[i] = weight.at(output + line, at);
      }
    };
    float sums[4][4] = {};
    load(0);
#pragma unroll 1
    for (int k = 0; k < kK; k += kStep) {
      // load
#pragma unroll
      for (int i = 0; i < kLoads; ++i) {
        left[threadIdx.x % kStep][line_of(i)] = next_left[i];
        right[threadIdx.x % kStep][line_of(i)] = next_right[i];
      }
      __syncthreads();
      load(k + kStep);

      // reduce
#pragma unroll 4
      for (int at = 0; at < kStep; ++at) {
        const float4 a = *reinterpret_cast<const float4*>(&left[at][r]);
        const float4 b = *reinterpret_cast<const float4*>(&right[at][n]);
        const float as[4] = {a.x, a.y, a.z, a.w}, bs[4] = {b.x, b.y, b.z, b.w};
#pragma unroll
        for (int i = 0; i < 4; ++i) {
#pragma unroll
          for (int j = 0; j < 4; ++j) sums[i][j] += as[i] * bs[j];
        }
      }
      __syncthreads();
    }

    // store
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        if (row + r + i >= rows || output + n + j >= kN) continue;
        float sum = sums[i][j];
        if constexpr (kBias) sum += to_float(bias[output + n + j]);
        y[i64(row + r + i) * kN + output + n + j] = from_float<Y>(sum);
      }
    }
  }
};

template <class X, class W, class B, class Y, int kN, int kK, bool kBias, class XScales = Unscaled,
          class WScales = Unscaled, bool kZeroPoint = false, int kOrder = 0>
struct LinearReferenceFew {
  static_assert(kOrder == 0, "row-major");
  static constexpr int kThreads = 256;
  static constexpr int kWarps = kThreads / 32;
  static constexpr int kRows = 8;
  static constexpr int kWidth = sizeof(X) > sizeof(W) ? vector_width<X, kK>() : vector_width<W, kK>();
  static constexpr int kStride = 32 * kWidth;  // of the k of a lane
  static constexpr int kBatch = 4;             // vectors of weights that a lane has in flight

  Y* y;
  const X* x;
  const W* w;
  const typename XScales::Type* x_scale;
  const typename WScales::Type* w_scale;
  const i8* w_zero_point;
  const B* bias;
  int rows;

  __device__ __forceinline__ void stream(int) {}

  __device__ __forceinline__ void tile(int tile) {
    const int output = tile * kWarps + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (output >= kN) return;
    const ReferenceWeight<W, WScales, kZeroPoint, kOrder, kN, kK> weight = {w, w_scale, w_zero_point};
    float sums[kRows] = {};
    for (int start = lane * kWidth; start < kK; start += kBatch * kStride) {
      // load
      Vec<W, kWidth> weights[kBatch];
#pragma unroll
      for (int b = 0; b < kBatch; ++b) {
        const int k = start + b * kStride;
        if (k < kK) weights[b] = *reinterpret_cast<const Vec<W, kWidth>*>(w + i64(output) * kK + k);
      }

      // reduce
#pragma unroll
      for (int b = 0; b < kBatch; ++b) {
        const int k = start + b * kStride;
        if (k >= kK) break;
        float dequantized[kWidth];
#pragma unroll
        for (int i = 0; i < kWidth; ++i) dequantized[i] = weight.dequantize(to_float(weights[b][i]), output, k + i);
#pragma unroll
        for (int row = 0; row < kRows; ++row) {
          if (row >= rows) break;
          const Vec<X, kWidth> values = *reinterpret_cast<const Vec<X, kWidth>*>(x + i64(row) * kK + k);
#pragma unroll
          for (int i = 0; i < kWidth; ++i)
            sums[row] += dequantized[i] * (to_float(values[i]) * XScales::at(x_scale, row, k + i));
        }
      }
    }

    // store
#pragma unroll
    for (int row = 0; row < kRows; ++row) {
      const float sum = warp_sum(sums[row]);
      if (lane != 0 || row >= rows) continue;
      float biased = sum;
      if constexpr (kBias) biased += to_float(bias[output]);
      y[i64(row) * kN + output] = from_float<Y>(biased);
    }
  }
};

}  // namespace smelt
