// y = x * w^T (+ bias) (+ residual) for 9 to 128 rows: weights stream through a ring in shared memory, and the columns
// of a product may be split over the blocks of a cluster.
//
//   y [rows][kN] of Y: F of each sum; with kSwiglu [rows][kN / 2]: silu(product with row n of w) * product with row
//         kN / 2 + n. Y may be i8 or f8e4m3: the results over *y_scale, quantized. Then there is no residual
//   bias [kN] of B, residual as y; each is nullptr (written in the unit) or added in float, before and after F
//   x [rows][kK] of X, read through map_x: box {128 bytes, kRows}, 128-byte swizzle, zeros outside. Rows of whole
//         16-byte chunks
//   w of W, tiled as in common/tiled.cuh, read through map_w: of units as words of 8 bytes {256, units of a strip,
//         strips}, box {256, 1, kCols / 16}, zeros outside. For kSwiglu a strip has eight rows of the first half and
//         then the same eight of the second
//   XS, WS  the Scales of x and w. Those of x are of whole rows (or all); those of w, too, or in groups of a multiple of
//         128 columns; zero_points of w: one per scale, or nullptr
//   rows  the rows there are, at most kRows
//
// If X and W are the same type, both operands come from shared memory. Otherwise w is quantized and x of T (bf16, f16):
// weights are widened to T in registers, which is exact, with their zero points subtracted.
//
// The weights are the operand of 64 rows of wgmma, and the rows of x its columns: y is computed transposed. Sums in
// float, or exact for two operands of i8. Tensor cores keep sums of f8e4m3 in some 14 bits: each 128 columns are summed
// separately, and then added in float. So are those of groups, times their scales. The kSplit blocks of a cluster take
// neighbouring ranges of units of the columns, and add their sums in this order.
//
// A warpgroup per 64 columns, then a warp of which one thread issues the copies. Grid: kSplit blocks per kCols outputs.
#pragma once
#include "common/body.cuh"
#include "common/limits.cuh"
#include "common/scales.cuh"
#include "common/silu.cuh"
#include "common/tiled.cuh"
#include "common/widen.cuh"
#include "linear/epilogue.cuh"
#include "ptx/bulk.cuh"
#include "ptx/cluster.cuh"
#include "ptx/load.cuh"
#include "ptx/mbarrier.cuh"
#include "ptx/shared.cuh"
#include "ptx/wgmma.cuh"

namespace smelt {

template <class A, class B> constexpr bool kSameType = false;
template <class A> constexpr bool kSameType<A, A> = true;

template <class T, class X, class W, class B, class Y, class XS, class WS, int kN, int kK, int kRows, int kCols,
          int kSplit, int kStages, int kPlaces, bool kZeroPoint = false, bool kSwiglu = false, class F = Same>
struct LinearStream {
  static constexpr bool kWidened = !kSameType<X, W>;
  static_assert(!kWidened || sizeof(X) == 2 && sizeof(W) == 1, "quantized weights to bf16 or f16");
  static_assert(kK * sizeof(X) % 16 == 0, "rows of x of whole 16-byte chunks");
  static_assert(kRows == 16 || kRows == 32 || kRows == 64 || kRows == 128, "a width that wgmma has");
  static_assert(kCols == 64 || kCols == 128 || kCols == 256, "one, two or four warpgroups");
  static_assert(kSplit >= 1 && kSplit <= 8, "blocks of a cluster");
  static_assert(!XS::kGrouped && WS::kShared % 128 == 0, "scales of rows of x, groups of whole steps");
  static_assert(!kSwiglu || kN % 16 == 0, "whole strips of both halves");

  static constexpr int kConsumers = 2 * kCols;  // threads
  static constexpr int kThreads = kConsumers + 32;
  static constexpr int kUnitColumns = kUnitCols<W>;
  static constexpr int kUnits = ceil_div(kK, kUnitColumns);
  static constexpr int kUnitsOfBlock = ceil_div(kUnits, kSplit);
  static constexpr int kOutN = kSwiglu ? kN / 2 : kN;  // columns of y
  static constexpr int kOutCols = kSwiglu ? kCols / 2 : kCols;
  static constexpr int kSums = kRows / 2;  // of a thread
  static constexpr bool kQuantizesY = sizeof(Y) == 1;
  static constexpr bool kExact = kSameType<X, i8> && kSameType<W, i8>;
  static constexpr bool kInSteps = WS::kGrouped || !kWidened && kSameType<X, f8e4m3>;
  using Sum = typename Either<kExact, int, float>::Type;

  // shared memory: a ring of units of each strip, each followed by its columns of x; barriers, full and empty. The sums
  // replace the ring
  static constexpr int kBoxes = kUnitColumns * sizeof(X) / 128;
  static constexpr int kWeightBytes = kCols * 128;
  static constexpr int kBoxBytes = kRows * 128;
  static constexpr int kStageBytes = kWeightBytes + kBoxes * kBoxBytes;
  static constexpr int kPitch = kCols + 4;  // floats of a row of sums: no bank conflicts
  static constexpr int kRingBytes = kStages * kStageBytes, kSumBytes = round_up(kRows * kPitch * 4, 128);
  static constexpr int kBarriers = kRingBytes > kSumBytes ? kRingBytes : kSumBytes;
  // Blocks take so much that kPlaces of them fit a multiprocessor and no more: those of the next launch fill theirs
  // while this one ends, and no multiprocessor has several while another has none.
  static constexpr int kLeastBytes = (kPlaces == 3 ? 75 : 100) * 1024;
  static constexpr int kUsedBytes = kBarriers + 16 * kStages;
  static constexpr int kSharedBytes = kUsedBytes < kLeastBytes ? kLeastBytes : kUsedBytes;
  static_assert(kSharedBytes <= kMaxSharedBytes, "shared memory of a block");
  // Registers of a thread for sums and widened weights, and how many there are room for if two blocks share a
  // multiprocessor.
  static constexpr int kValues = kSums * (kInSteps ? 2 : 1) + (kWidened ? 32 : 0) + (kZeroPoint ? 8 : 0);
  static constexpr int kRoom = kCols == 64 ? 128 : kCols == 128 ? 64 : 0;
  static constexpr int kBlocks = kSharedBytes <= 113 * 1024 && kValues <= kRoom ? 2 : 1;  // per multiprocessor

  Y* y;
  const X* x;
  const W* w;
  const typename XS::Type* x_scales;
  const typename WS::Type* w_scales;
  const i8* zero_points;
  const B* bias;
  const Y* residual;
  const float* y_scale;
  const TensorMap* map_x;
  const TensorMap* map_w;
  int rows;

  u32 shared;  // the address of shared memory
  int strip;   // the first of the block
  int first;   // the first unit of the block, and their number
  int units;

  __device__ __forceinline__ u32 full(int stage) const { return shared + kBarriers + 8 * stage; }
  __device__ __forceinline__ u32 empty(int stage) const { return full(kStages + stage); }

  __device__ __forceinline__ void copy_weights(int i) {
    const int stage = i % kStages;
    ptx::mbarrier_arrive_expect_tx(full(stage), kStageBytes);
    ptx::cp_async_bulk_tensor_3d(shared + stage * kStageBytes, map_w, 0, first + i, strip, full(stage));
  }

  __device__ __forceinline__ void copy_rows(int i) {
    const int stage = i % kStages;
    const u32 to = shared + stage * kStageBytes + kWeightBytes;
#pragma unroll
    for (int box = 0; box < kBoxes; ++box)
      ptx::cp_async_bulk_tensor_2d(to + box * kBoxBytes, map_x,
                                   (first + i) * kUnitColumns + box * int(128 / sizeof(X)), 0, full(stage));
  }

  __device__ __forceinline__ void stream(int tile) {
    shared = ptx::shared_address(shared_memory());
    strip = tile / kSplit * (kCols / 16);
    first = tile % kSplit * kUnitsOfBlock;
    units = min(kUnitsOfBlock, kUnits - first);
    if (threadIdx.x == kConsumers) {
      ptx::prefetch_tensormap(map_x);
      ptx::prefetch_tensormap(map_w);
      for (int stage = 0; stage < kStages; ++stage) {
        ptx::mbarrier_init(full(stage), 1);
        ptx::mbarrier_init(empty(stage), kConsumers / 32);
      }
      ptx::fence_mbarrier_init();
    }
    __syncthreads();
    if (threadIdx.x == kConsumers)
      for (int i = 0; i < min(kStages, units); ++i) copy_weights(i);
  }

  // All other copies. One thread calls it.
  __device__ __forceinline__ void fill() {
    for (int i = 0; i < min(kStages, units); ++i) copy_rows(i);
    for (int i = kStages; i < units; ++i) {
      ptx::mbarrier_wait(empty(i % kStages), (i / kStages - 1) & 1);
      copy_weights(i);
      copy_rows(i);
    }
  }

  __device__ __forceinline__ void tile(int) {
    EpilogueOperands early;
    if (threadIdx.x == kConsumers) {
      fill();
    } else if (threadIdx.x < kConsumers) {
      if constexpr (kInSteps || kWidened) {
        float sums[kSums] = {};
        if constexpr (kWidened) multiply_widened(sums);
        else multiply_in_steps(sums);
        keep(sums);
      } else {
        Sum sums[kSums] = {};
        multiply(sums);
        keep(sums);
      }
      if constexpr (kEarlyOperands) early = operands(first_result());
    }
    __syncwarp();
    meet();
    if (threadIdx.x < kConsumers) store(early);
    // no block leaves while others read its sums
    if constexpr (kSplit > 1) ptx::barrier_cluster();
  }

  // The sums of all blocks of the cluster are in their shared memory.
  __device__ __forceinline__ void meet() const {
    if constexpr (kSplit > 1) ptx::barrier_cluster();
    else __syncthreads();
  }

  // A consumer's warp is done with a stage.
  __device__ __forceinline__ void release(int stage) {
    if (threadIdx.x % 32 == 0) ptx::mbarrier_arrive(empty(stage));
  }

  // The descriptor of the 64 rows of w of this warpgroup.
  __device__ __forceinline__ u64 weights_of(int stage) const {
    const u32 group = __shfl_sync(0xffffffff, threadIdx.x / 128, 0);
    return ptx::wgmma_descriptor(shared + stage * kStageBytes + group * 8192);
  }
  __device__ __forceinline__ u64 rows_of(int stage) const {
    return ptx::wgmma_descriptor(shared + stage * kStageBytes + kWeightBytes);
  }

  static __device__ __forceinline__ void product(Sum (&d)[kSums], u64 a, u64 b, bool add) {
    if constexpr (sizeof(X) == 2) ptx::wgmma_m64k16<T, kRows>(d, a, b, add);
    else ptx::wgmma_m64k32<X, kRows, Sum>(d, a, b, add);
  }

  __device__ __forceinline__ void multiply(Sum (&sums)[kSums]) {
    int stage = 0, parity = 0;
#pragma unroll 1
    for (int i = 0; i < units; ++i) {
      ptx::mbarrier_wait(full(stage), parity);
      const u64 a = weights_of(stage), b = rows_of(stage);
      ptx::wgmma_fence();
#pragma unroll
      for (int k = 0; k < 4; ++k) product(sums, a + k * ptx::kWgmmaStep, b + k * ptx::kWgmmaStep, true);
      ptx::wgmma_commit_group();
      ptx::wgmma_wait_group<0>();
      release(stage);
      if (++stage == kStages) stage = 0, parity ^= 1;
    }
    ptx::wgmma_complete(sums);
  }

  // This lane's row of w in the lower or the upper half of the 16 of its warp; it may be past the last.
  __device__ __forceinline__ int line(int half) const {
    const int from = strip + int(threadIdx.x) / 32, g = int(threadIdx.x) % 32 / 4;
    return min(kSwiglu ? half * (kN / 2) + 8 * from + g : 16 * from + 8 * half + g, kN - 1);
  }

  // What the products of 128 columns need besides: the scales of their groups, and zero points.
  struct Group {
    float scale[2];
    float zero_point[2];
  };
  __device__ __forceinline__ Group group_at(int column) const {
    Group group = {{1.0f, 1.0f}, {0.0f, 0.0f}};
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int at = WS::line(line(half)) + WS::column(min(column, kK - 1));
      if constexpr (WS::kGrouped) group.scale[half] = to_float(w_scales[at]);
      if constexpr (kZeroPoint) group.zero_point[half] = to_float(zero_points[at]);
    }
    return group;
  }

  static __device__ __forceinline__ void add(float (&sums)[kSums], const Sum (&part)[kSums], const Group& group) {
#pragma unroll
    for (int i = 0; i < kSums; ++i) {
      if constexpr (WS::kGrouped) sums[i] += group.scale[i / 2 % 2] * float(part[i]);
      else sums[i] += float(part[i]);
    }
  }

  __device__ __forceinline__ void multiply_in_steps(float (&sums)[kSums]) {
    Sum part[kSums];
    int stage = 0, parity = 0;
    Group next = group_at(first * kUnitColumns);
#pragma unroll 1
    for (int i = 0; i < units; ++i) {
      const Group group = next;
      next = group_at((first + i + 1) * kUnitColumns);
      ptx::mbarrier_wait(full(stage), parity);
      const u64 a = weights_of(stage), b = rows_of(stage);
      ptx::wgmma_fence();
#pragma unroll
      for (int k = 0; k < 4; ++k) product(part, a + k * ptx::kWgmmaStep, b + k * ptx::kWgmmaStep, k > 0);
      ptx::wgmma_commit_group();
      ptx::wgmma_wait_group<0>();
      ptx::wgmma_complete(part);
      release(stage);
      add(sums, part, group);
      if (++stage == kStages) stage = 0, parity ^= 1;
    }
  }

  // This lane's part of the weights of 64 columns: of 16 columns at a time, pairs of the lower and the upper row, then
  // those eight columns further.
  __device__ __forceinline__ void widen(u32 (&pairs)[4][4], int stage, int quarter, const Group& group) const {
    const int g = int(threadIdx.x) % 32 / 4, q = int(threadIdx.x) % 4;
    const u32 from = shared + stage * kStageBytes + int(threadIdx.x) / 32 * 2048 + g * 128;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if constexpr (kUnitColumns == 256) {
#pragma unroll
        for (int chunk = 0; chunk < 2; ++chunk) {
          u32 words[4];
          ptx::ld_shared(from + half * 1024 + ((quarter * 2 + chunk) ^ g) * 16, words);
#pragma unroll
          for (int i = 0; i < 4; ++i)
            pairs[2 * chunk + i / 2][half + i % 2 * 2] = Widen<W, T>::pair(words[i] >> (4 * q));
        }
      } else {
#pragma unroll
        for (int chunk = 0; chunk < 4; ++chunk) {
          const u32 at = from + half * 1024 + ((quarter * 4 + chunk) ^ g) * 16 + 2 * q;
          u32 widened[2];
          Widen<W, T>::pairs(widened, u32(ptx::ld_shared_u16(at)) | u32(ptx::ld_shared_u16(at + 8)) << 16);
          pairs[chunk][half] = widened[0], pairs[chunk][half + 2] = widened[1];
        }
      }
      if constexpr (kZeroPoint) {
        const u32 both = u32(from_float<T>(group.zero_point[half]).bits) * 0x10001u;
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          pairs[k][half] = ptx::sub_rn_x2<T>(pairs[k][half], both);
          pairs[k][half + 2] = ptx::sub_rn_x2<T>(pairs[k][half + 2], both);
        }
      }
    }
  }

  __device__ __forceinline__ void multiply_widened(float (&sums)[kSums]) {
    int stage = 0, parity = 0;
    Group next = group_at(first * kUnitColumns);
#pragma unroll 1
    for (int i = 0; i < units; ++i) {
      ptx::mbarrier_wait(full(stage), parity);
#pragma unroll
      for (int step = 0; step < kUnitColumns / 128; ++step) {
        const Group group = next;
        next = group_at((first + i) * kUnitColumns + 128 * (step + 1));
        u32 pairs[2][4][4];
        float part[kSums];
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int quarter = 2 * step + half;
          widen(pairs[half], stage, quarter, group);
          const u64 b = rows_of(stage) + quarter * (kBoxBytes / 16);
          ptx::wgmma_fence();
#pragma unroll
          for (int k = 0; k < 4; ++k)
            ptx::wgmma_m64k16_of_registers<T, kRows>(kInSteps ? part : sums, pairs[half][k], b + k * ptx::kWgmmaStep,
                                                     !kInSteps || half + k > 0);
          ptx::wgmma_commit_group();
        }
        ptx::wgmma_wait_group<0>();
        if constexpr (kInSteps) {
          ptx::wgmma_complete(part);
          add(sums, part, group);
        }
      }
      ptx::fence_proxy_async();  // weights were read that the next copy replaces
      __syncwarp();
      release(stage);
      if (++stage == kStages) stage = 0, parity ^= 1;
    }
    ptx::wgmma_complete(sums);
  }

  // Moves the sums to shared memory, as rows of x by rows of w. All consumers call it.
  template <class D> __device__ __forceinline__ void keep(const D (&sums)[kSums]) const {
    const int warp = int(threadIdx.x) / 32, g = int(threadIdx.x) % 32 / 4, q = int(threadIdx.x) % 4;
    // The ring is free once all consumers are here: no copy is under way that they have not waited for.
    ptx::bar_sync<1, kConsumers>();
    D* to = reinterpret_cast<D*>(shared_memory()) + 16 * warp + g;
#pragma unroll
    for (int i = 0; i < kSums; ++i) to[(i / 4 * 8 + 2 * q + i % 2) * kPitch + i / 2 % 2 * 8] = sums[i];
  }

  // The sum over the cluster of four neighbours, from this offset in bytes.
  __device__ __forceinline__ void total(float (&sum)[4], u32 at) const {
    constexpr int kWidth = 4;
    typename Either<kExact && !kInSteps, int, float>::Type all[kWidth] = {};
#pragma unroll
    for (int rank = 0; rank < kSplit; ++rank) {
      u32 words[kWidth];
      if constexpr (kSplit > 1) ptx::ld_shared_cluster(ptx::mapa(shared + at, rank), words);
      else ptx::ld_shared(shared + at, words);
#pragma unroll
      for (int i = 0; i < kWidth; ++i) {
        if constexpr (kExact && !kInSteps) all[i] += int(words[i]);
        else all[i] += __uint_as_float(words[i]);
      }
    }
#pragma unroll
    for (int i = 0; i < kWidth; ++i) sum[i] = float(all[i]);
  }

  // Results are stored four neighbours of a row at a time: their number, those of a row, and this thread's first one of
  // the cluster's.
  static constexpr int kWidth = 4, kOfRow = kOutCols / kWidth;
  static __device__ __forceinline__ int first_result() {
    return (kSplit > 1 ? int(ptx::cluster_ctarank()) * kConsumers : 0) + int(threadIdx.x);
  }
  // The first column of y of results.
  __device__ __forceinline__ int column_of(int i) const {
    return strip * (kOutCols * 16 / kCols) + i % kOfRow * kWidth;
  }

  // Whether a thread reads those of its first result before it waits for the sums: widened weights leave no registers.
  static constexpr bool kEarlyOperands = !kWidened;

  // What results need besides their sums: scales and biases of the two halves, and the residual.
  struct EpilogueOperands {
    float scale[kSwiglu ? 2 : 1][kWidth];
    float bias[kSwiglu ? 2 : 1][kWidth];
    float residual[kWidth];
  };
  __device__ __forceinline__ EpilogueOperands operands(int i) const {
    EpilogueOperands operands = {};
    const int row = i / kOfRow, n = column_of(i);
    if (row >= rows || n >= kOutN) return operands;
    float of_row = 1.0f;
    if constexpr (XS::kScaled) of_row = XS::at(x_scales, row, 0);
#pragma unroll
    for (int half = 0; half < (kSwiglu ? 2 : 1); ++half) {
#pragma unroll
      for (int k = 0; k < kWidth; ++k) {
        const int at = min(half * (kN / 2) + n + k, kN - 1);
        operands.scale[half][k] = of_row;
        if constexpr (WS::kScaled && !WS::kGrouped) operands.scale[half][k] *= WS::at(w_scales, at, 0);
        if (bias != nullptr) operands.bias[half][k] = to_float(bias[at]);
      }
    }
    if constexpr (!kQuantizesY) {
      if (residual != nullptr) {
        const Y* from = residual + (i64(row) * kOutN + n);
        if constexpr (kOutN % kWidth == 0) {
          const auto all = *reinterpret_cast<const Vec<Y, kWidth>*>(from);
#pragma unroll
          for (int k = 0; k < kWidth; ++k) operands.residual[k] = to_float(all.at[k]);
        } else {
#pragma unroll
          for (int k = 0; k < kWidth; ++k)
            if (n + k < kOutN) operands.residual[k] = to_float(from[k]);
        }
      }
    }
    return operands;
  }

  // This block's share of the results of the cluster, `early` belonging to the first. All consumers call it.
  __device__ __forceinline__ void store(const EpilogueOperands& early) const {
    const float reciprocal = kQuantizesY ? __frcp_rn(*y_scale) : 1.0f;
    const int begin = first_result();
#pragma unroll 1
    for (int i = begin; i < rows * kOfRow; i += kSplit * kConsumers) {
      const int row = i / kOfRow, column = i % kOfRow * kWidth, n = column_of(i);
      if (n >= kOutN) continue;
      const EpilogueOperands more = kEarlyOperands && i == begin ? early : operands(i);
      float values[kWidth];
      total(values, u32(row * kPitch + (kSwiglu ? column / 8 * 16 + column % 8 : column)) * 4);
#pragma unroll
      for (int k = 0; k < kWidth; ++k) values[k] = values[k] * more.scale[0][k] + more.bias[0][k];
      if constexpr (kSwiglu) {
        float up[kWidth];
        total(up, u32(row * kPitch + column / 8 * 16 + column % 8 + 8) * 4);
#pragma unroll
        for (int k = 0; k < kWidth; ++k)
          values[k] = silu_for<Y>(values[k]) * (up[k] * more.scale[1][k] + more.bias[1][k]);
      } else {
#pragma unroll
        for (int k = 0; k < kWidth; ++k) values[k] = apply<F>(values[k]);
      }
      Vec<Y, kWidth> results;
#pragma unroll
      for (int k = 0; k < kWidth; ++k) results[k] = finish<Y>(values[k] + more.residual[k], reciprocal);
      Y* to = y + (i64(row) * kOutN + n);
      if constexpr (kOutN % kWidth == 0) {
        *reinterpret_cast<Vec<Y, kWidth>*>(to) = results;
      } else {
#pragma unroll
        for (int k = 0; k < kWidth; ++k)
          if (n + k < kOutN) to[k] = results[k];
      }
    }
  }
};

}  // namespace smelt
