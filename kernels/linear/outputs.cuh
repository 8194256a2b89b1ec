// The outputs of a block of a product, from the fragments of wgmma: scaled, with the epilogue, rounded once.
//
//   y [rows][kN] of Y: F of each sum; with kSwiglu [rows][kN / 2]: silu(product with row n of w) * product with row
//     kN / 2 + n
//   bias [kN] of B, residual as y; each is nullptr (written in the unit) or added in float, before and after F
//   Y may be i8 or f8e4m3: the results times a reciprocal, quantized. Then there is no residual
//   A warpgroup for each 64 rows. The block starts at `row`, and at strip `strip` of 16 rows of w; for kSwiglu, eight
//   of the first half and then the same eight of the second
#pragma once
#include "common/quantized.cuh"
#include "common/scales.cuh"
#include "common/silu.cuh"
#include "linear/epilogue.cuh"
#include "ptx/load.cuh"
#include "ptx/mbarrier.cuh"
#include "ptx/stmatrix.cuh"

namespace smelt {

// For products of unquantized values.
struct Unchanged {
  __device__ __forceinline__ void operator()(float (&)[2], int, int) const {}
};

// Products of quantized values: times the scale of the row of x, and that of the row of w. Scales of groups were
// applied before.
template <class XS, class WS, int kN> struct Rescaled {
  float x[2];  // of the rows in the two halves of a fragment
  const typename WS::Type* w;

  // Two neighbouring products, with row n of w and the next.
  __device__ __forceinline__ void operator()(float (&product)[2], int half, int n) const {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      if constexpr (XS::kScaled && !XS::kGrouped) product[i] *= x[half];
      if constexpr (WS::kScaled && !WS::kGrouped) product[i] *= WS::at(w, min(n + i, kN - 1), 0);
    }
  }
};

template <class B, class Y, int kN, int kBlockRows, int kBlockCols, bool kSwiglu, class F> struct BlockOutputs {
  static_assert(!kSwiglu || kN % 16 == 0, "whole strips of both halves");
  static constexpr bool kQuantized = sizeof(Y) == 1;
  static constexpr int kConsumers = 2 * kBlockRows;  // threads
  static constexpr int kOutN = kSwiglu ? kN / 2 : kN;  // columns of y
  static constexpr int kOutCols = kSwiglu ? kBlockCols / 2 : kBlockCols;
  static constexpr int kPitch = 2 * kOutCols + 16;  // bytes of a row of results in shared memory: no bank conflicts
  // Shared memory that results pass through, once all consumers have read its previous contents.
  static constexpr int kBytes = sizeof(Y) == 2 ? kBlockRows * kPitch : 0;

  Y* y;
  const B* bias;
  const Y* residual;
  int rows;
  int row;
  int strip;
  float reciprocal = 1.0f;  // of the scale of a quantized y

  // The bias of two neighbouring rows of w.
  __device__ __forceinline__ void add_bias(int n, float& low, float& high) const {
    if (bias == nullptr) return;
    if (n < kN) low += to_float(bias[n]);
    if (n + 1 < kN) high += to_float(bias[n + 1]);
  }

  // This lane's first column of y in the fragments `p`.
  __device__ __forceinline__ int column(int p) const {
    return (kSwiglu ? 8 : 16) * strip + 8 * p + 2 * int(threadIdx.x % 4);
  }

  // Two neighbouring results of row `to`, which is in the upper or the lower half of the fragments `p`.
  template <class D, class Scale>
  __device__ __forceinline__ Vec<float, 2> results(const D (&sums)[kBlockCols / 2], int p, int half, int to,
                                                   const Scale& scale) const {
    const int n = column(p);
    Vec<float, 2> y;
    if constexpr (kSwiglu) {
      const D* d = sums + 8 * p + 2 * half;
      float gate[2] = {float(d[0]), float(d[1])}, up[2] = {float(d[4]), float(d[5])};
      scale(gate, half, n);
      scale(up, half, kN / 2 + n);
      add_bias(n, gate[0], gate[1]);
      add_bias(kN / 2 + n, up[0], up[1]);
      y = {silu_for<Y>(gate[0]) * up[0], silu_for<Y>(gate[1]) * up[1]};
    } else {
      const D* d = sums + 4 * p + 2 * half;
      float product[2] = {float(d[0]), float(d[1])};
      scale(product, half, n);
      add_bias(n, product[0], product[1]);
      y = {apply<F>(product[0]), apply<F>(product[1])};
    }
    if constexpr (!kQuantized) {
      if (residual != nullptr && to < rows) add_residual(y, residual + (i64(to) * kOutN + n), n);
    }
    return y;
  }

  static __device__ __forceinline__ void add_residual(Vec<float, 2>& y, const Y* place, int n) {
    if constexpr (kOutN % 2 == 0) {
      if (n >= kOutN) return;
      const Vec<Y, 2> pair = *reinterpret_cast<const Vec<Y, 2>*>(place);
      y[0] += to_float(pair[0]), y[1] += to_float(pair[1]);
    } else {
      if (n < kOutN) y[0] += to_float(place[0]);
      if (n + 1 < kOutN) y[1] += to_float(place[1]);
    }
  }

  // Two results as they are stored.
  __device__ __forceinline__ Vec<Y, 2> stored(const Vec<float, 2>& results) const {
    if constexpr (kQuantized) {
      return quantize<Y, 2>(results.at, reciprocal);
    } else {
      return {from_float<Y>(results[0]), from_float<Y>(results[1])};
    }
  }

  // This lane's first row of y in a fragment; the second one is eight further.
  __device__ __forceinline__ int first_row() const {
    return row + 16 * int(threadIdx.x / 32) + int(threadIdx.x % 32) / 4;
  }

  // The scales of this lane's rows of x, if they are per row.
  template <class XS> __device__ __forceinline__ void row_scales(const typename XS::Type* scales, float (&x)[2]) const {
#pragma unroll
    for (int half = 0; half < 2; ++half)
      x[half] = XS::kGrouped ? 1.0f : XS::at(scales, min(first_row() + 8 * half, rows - 1), 0);
  }

  // All consumers call it.
  template <class D, class Scale>
  __device__ __forceinline__ void store(const D (&sums)[kBlockCols / 2], const Scale& scale) const {
    if constexpr (sizeof(Y) == 2) {
      store_rows(sums, scale);
    } else {
      store_fragments(sums, scale);
    }
  }

  // Floats and quantized values are stored straight from fragments: four lanes write 32 or 8 bytes of a row.
  template <class D, class Scale>
  __device__ __forceinline__ void store_fragments(const D (&sums)[kBlockCols / 2], const Scale& scale) const {
    const int first = first_row();
#pragma unroll
    for (int p = 0; p < kOutCols / 8; ++p) {
      const int n = column(p);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int to = first + 8 * half;
        if (to >= rows) continue;
        const Vec<Y, 2> pair = stored(results(sums, p, half, to, scale));
        Y* place = y + (i64(to) * kOutN + n);
        if (kOutN % 2 == 0 && n < kOutN) *reinterpret_cast<Vec<Y, 2>*>(place) = pair;
        if (kOutN % 2 != 0 && n < kOutN) place[0] = pair[0];
        if (kOutN % 2 != 0 && n + 1 < kOutN) place[1] = pair[1];
      }
    }
  }

  // Each warp has 16 rows of the block: fragments go to shared memory, from there vectors to y.
  template <class D, class Scale>
  __device__ __forceinline__ void store_rows(const D (&sums)[kBlockCols / 2], const Scale& scale) const {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, first = (kSwiglu ? 8 : 16) * strip;
    // Shared memory is free once all consumers are here.
    ptx::bar_sync<1, kConsumers>();
    u8* const staged = shared_memory() + warp * 16 * kPitch;
    const u32 fragment = ptx::shared_address(staged) + lane % 16 * kPitch + lane / 16 * 16;
#pragma unroll
    for (int p = 0; p < kOutCols / 8; p += 2) {
      u32 pairs[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const auto pair = results(sums, p + i / 2, i % 2, first_row() + 8 * (i % 2), scale);
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
