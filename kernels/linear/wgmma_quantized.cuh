// y = x * w^T (+ bias) (+ residual) for many rows if both are quantized, on the tensor cores' 8-bit types.
//
//   y, bias, residual as in linear/outputs.cuh; if y is quantized, *y_scale is its scale
//   x [rows][kK] and w of C (i8, f8e4m3), read through their maps alone (linear/ring.cuh). So kK % 16 == 0
//   w     tiled as in common/tiled.cuh, a unit being 16 outputs x 128 k
//   XS, WS  the Scales of x and w: of whole rows (or blocks of them, or all), or in groups of a multiple of 128
//         columns; those of w in groups must be the same for all rows of a block, of both halves
//
// Sums of i8 are exact. Sums of f8e4m3 are kept by tensor cores in some 14 bits, so each 128 columns are summed
// separately, and then added in float. So are those of groups, times their scales; other scales are applied to the
// whole sum. One block per kBlockRows x kBlockCols outputs; grid ceil(rows / kBlockRows) * ceil(kN / kBlockCols).
#pragma once
#include "common/quantized.cuh"
#include "linear/outputs.cuh"
#include "linear/ring.cuh"

namespace smelt {

template <class C, class B, class Y, class XS, class WS, int kN, int kK, int kBlockRows, int kBlockCols, int kStages,
          bool kSwiglu, class F = Same>
struct LinearWgmmaQuantized {
  static_assert(sizeof(C) == 1 && kK % 16 == 0, "8-bit values, rows of x of whole 16-byte chunks");
  static_assert(kBlockCols == 32 || kBlockCols % 64 == 0 && kBlockCols <= 256, "a width that wgmma_m64k32 has");
  static_assert(XS::kShared % 128 == 0 && WS::kShared % 128 == 0, "groups of whole steps");
  static constexpr int kHalfCols = kSwiglu ? kBlockCols / 2 : kBlockCols;
  static_assert(!WS::kGrouped || WS::kSharedRows % kHalfCols == 0 && (!kSwiglu || kN / 2 % kHalfCols == 0),
                "one scale for the rows of a block");

  using Ring = ProductRing<ceil_div(kK, 128), 128, kBlockRows, kBlockCols, kStages>;
  using Outputs = BlockOutputs<B, Y, kN, kBlockRows, kBlockCols, kSwiglu, F>;
  static_assert(Outputs::kBytes <= Ring::kBarriers, "results replace the ring");
  static constexpr int kThreads = Ring::kThreads;
  static constexpr int kBlocks = 1;
  static constexpr int kSharedBytes = Ring::kBytes;
  // The type of the tensor cores' sums.
  static constexpr bool kExact = kLargestQuantized<C> == kLargestQuantized<i8>;
  static constexpr bool kInSteps = !kExact || XS::kGrouped || WS::kGrouped;
  template <bool kIntegers> struct SumOf { using Type = float; };
  template <> struct SumOf<true> { using Type = int; };
  using Sum = typename SumOf<kExact>::Type;

  Y* y;
  const C* x;
  const C* w;
  const typename XS::Type* x_scales;
  const typename WS::Type* w_scales;
  const B* bias;
  const Y* residual;
  const float* y_scale;
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
      Outputs outputs = {y, bias, residual, rows, ring.row, ring.strip};
      if constexpr (Outputs::kQuantized) outputs.reciprocal = __frcp_rn(*y_scale);
      Rescaled<XS, WS, kN> rescaled = {{}, w_scales};
      outputs.template row_scales<XS>(x_scales, rescaled.x);
      if constexpr (kInSteps) {
        float sums[kBlockCols / 2] = {};
        multiply_in_steps(sums, outputs.first_row());
        outputs.store(sums, rescaled);
      } else {
        Sum sums[kBlockCols / 2];
        ring.multiply(sums, ptx::wgmma_m64k32<C, kBlockCols, Sum>);
        outputs.store(sums, rescaled);
      }
    }
  }

  // The scales of the products of a step: for the rows in the two halves of fragments, and for the two halves of a
  // gated product.
  __device__ __forceinline__ void group_scales(int step, int first, float (&scale)[2][2]) const {
    float of_x[2] = {1.0f, 1.0f}, of_w[2] = {1.0f, 1.0f};
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if constexpr (XS::kGrouped) of_x[half] = XS::at(x_scales, min(first + 8 * half, rows - 1), 128 * step);
      if constexpr (WS::kGrouped) {
        const int n = kSwiglu ? half * (kN / 2) + 8 * ring.strip : 16 * ring.strip;
        of_w[half] = WS::at(w_scales, n, 128 * step);
      }
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) scale[i / 2][i % 2] = of_x[i / 2] * of_w[i % 2];
  }

  __device__ __forceinline__ void multiply_in_steps(float (&sums)[kBlockCols / 2], int first) {
    Sum part[kBlockCols / 2];
    int stage = 0, parity = 0;
#pragma unroll 1
    for (int step = 0; step < Ring::kSteps; ++step) {
      float scale[2][2];
      group_scales(step, first, scale);
      ptx::mbarrier_wait(ring.full + 8 * stage, parity);
      const u64 a = ring.rows_of(stage), b = ring.strips_of(stage);
      ptx::wgmma_fence();
#pragma unroll
      for (int k = 0; k < 4; ++k)
        ptx::wgmma_m64k32<C, kBlockCols, Sum>(part, a + k * ptx::kWgmmaStep, b + k * ptx::kWgmmaStep, k > 0);
      ptx::wgmma_commit_group();
      ptx::wgmma_wait_group<0>();
      ptx::wgmma_complete(part);
      ring.release(stage);
#pragma unroll
      for (int i = 0; i < kBlockCols / 2; ++i) {
        if constexpr (XS::kGrouped || WS::kGrouped) {
          sums[i] += scale[i / 2 % 2][kSwiglu ? i / 4 % 2 : 0] * float(part[i]);
        } else {
          sums[i] += float(part[i]);
        }
      }
      if (++stage == kStages) stage = 0, parity ^= 1;
    }
  }
};

}  // namespace smelt
