// The index of the largest of the first kClasses elements of each row, the smallest such index on a tie.
//
//   best [rows] i32; x [rows][kCols] of T. -1 where a row has NaN or +inf among its classes, or nothing finite.
//   Grid: rows * kCluster; a cluster of kCluster blocks shares a row and merges in its first block's memory.
#pragma once
#include "common/body.cuh"
#include "common/reduce.cuh"
#include "ptx/cluster.cuh"
#include "ptx/load.cuh"

namespace smelt {

// A value and its index.
struct Candidate {
  float value;
  int index;

  // Keeps the better of two: larger, or as large and earlier.
  __device__ __forceinline__ void merge(float other, int at) {
    if (other > value || (other == value && at < index)) value = other, index = at;
  }
};

template <class T, int kCols, int kClasses, int kCluster> struct Argmax {
  static_assert(kClasses >= 1 && kClasses <= kCols && kCluster >= 1 && kCluster <= 8);
  static constexpr int kThreads = 512;
  static constexpr int kWarps = kThreads / 32;
  static constexpr int kWidth = vector_width<T, kCols>();
  static constexpr int kStride = kCluster * kThreads * kWidth;  // of the columns of a thread
  static constexpr int kBatch = 4;                              // vectors in flight per thread
  static constexpr int kNone = 0x7fffffff;  // nothing larger than -inf yet
  static constexpr int kUnusable = -1;
  using Values = Vec<T, kWidth>;

  int* best;
  const T* x;
  int rows;

  __device__ __forceinline__ void stream(int) {}

  __device__ __forceinline__ void tile(int tile) {
    const int row = tile / kCluster, rank = tile % kCluster;
    const T* values = x + i64(row) * kCols;

    // load
    const float kInfinity = __int_as_float(0x7f800000);
    Candidate found = {-kInfinity, kNone};
    bool usable = true;
    for (int start = (rank * kThreads + int(threadIdx.x)) * kWidth; start < kClasses; start += kBatch * kStride) {
      Values batch[kBatch];
#pragma unroll
      for (int b = 0; b < kBatch; ++b) {
        const int col = start + b * kStride;
        if (col < kClasses) batch[b] = *reinterpret_cast<const Values*>(values + col);
      }
#pragma unroll
      for (int b = 0; b < kBatch; ++b) {
#pragma unroll
        for (int i = 0; i < kWidth; ++i) {
          const int col = start + b * kStride + i;
          const float value = col < kClasses ? to_float(batch[b][i]) : -kInfinity;
          usable &= value < kInfinity;  // false for NaN
          // columns come in ascending order: the first of equals stays
          if (value > found.value) found = {value, col};
        }
      }
    }

    // larger than every usable candidate, and before the others of its kind
    if (!usable) found = {kInfinity, kUnusable};

    // reduce
    __shared__ float warp_value[kWarps];
    __shared__ int warp_index[kWarps];
    reduce_warp(found);
    if (threadIdx.x % 32 == 0) warp_value[threadIdx.x / 32] = found.value, warp_index[threadIdx.x / 32] = found.index;
    __syncthreads();
    if (threadIdx.x < 32) {
      const bool real = threadIdx.x < kWarps;
      found = {real ? warp_value[threadIdx.x] : -kInfinity, real ? warp_index[threadIdx.x] : kNone};
      reduce_warp(found);
    }
    if constexpr (kCluster > 1) {
      __shared__ float block_value;
      __shared__ int block_index;
      if (threadIdx.x == 0) block_value = found.value, block_index = found.index;
      ptx::barrier_cluster();
      if (rank == 0 && threadIdx.x == 0) {
        for (u32 other = 1; other < kCluster; ++other) {
          const float value = ptx::ld_shared_cluster_f32(ptx::mapa(ptx::shared_address(&block_value), other));
          const float index = ptx::ld_shared_cluster_f32(ptx::mapa(ptx::shared_address(&block_index), other));
          found.merge(value, __float_as_int(index));
        }
      }
      ptx::barrier_cluster();
    }

    // store
    if (rank == 0 && threadIdx.x == 0) best[row] = found.index == kNone ? kUnusable : found.index;
  }

  static __device__ __forceinline__ void reduce_warp(Candidate& found) {
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) {
      const float value = __shfl_xor_sync(kFullWarp, found.value, offset);
      const int index = __shfl_xor_sync(kFullWarp, found.index, offset);
      found.merge(value, index);
    }
  }
};

}  // namespace smelt
