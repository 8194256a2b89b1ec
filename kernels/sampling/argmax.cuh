// The index of the largest of the first kClasses elements of each row, the smallest such index on a tie.
//
//   best [rows] i32; x [rows][kCols] of T. A NaN is never larger; where element 0 is one, index 0 is the answer.
//   Grid: rows * kCluster; a cluster of kCluster blocks shares a row and merges in the memory of its first block.
#pragma once
#include "common/body.cuh"
#include "common/reduce.cuh"
#include "ptx/cluster.cuh"
#include "ptx/load.cuh"

namespace smelt {

// A value and where it stood.
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
  static constexpr int kBatch = 4;                              // vectors that a thread has on their way
  static constexpr int kNone = 0x7fffffff;
  using Values = Vec<T, kWidth>;

  int* best;
  const T* x;
  int rows;

  __device__ __forceinline__ void stream(int) {}

  __device__ __forceinline__ void tile(int tile) {
    const int row = tile / kCluster, rank = tile % kCluster;
    const T* values = x + i64(row) * kCols;

    // load
    const float head = to_float(values[0]);
    Candidate found = {-__int_as_float(0x7f800000), kNone};
    for (int start = (rank * kThreads + int(threadIdx.x)) * kWidth; start < kClasses; start += kBatch * kStride) {
      Values held[kBatch];
#pragma unroll
      for (int b = 0; b < kBatch; ++b) {
        const int col = start + b * kStride;
        if (col < kClasses) held[b] = *reinterpret_cast<const Values*>(values + col);
      }
#pragma unroll
      for (int b = 0; b < kBatch; ++b) {
#pragma unroll
        for (int i = 0; i < kWidth; ++i) {
          const int col = start + b * kStride + i;
          // columns come in ascending order: the first of equals stays
          if (col < kClasses && to_float(held[b][i]) > found.value) found = {to_float(held[b][i]), col};
        }
      }
    }

    // reduce
    __shared__ float warp_value[kWarps];
    __shared__ int warp_index[kWarps];
    reduce_warp(found);
    if (threadIdx.x % 32 == 0) warp_value[threadIdx.x / 32] = found.value, warp_index[threadIdx.x / 32] = found.index;
    __syncthreads();
    if (threadIdx.x < 32) {
      const bool real = threadIdx.x < kWarps;
      found = {real ? warp_value[threadIdx.x] : -__int_as_float(0x7f800000), real ? warp_index[threadIdx.x] : kNone};
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
    if (rank == 0 && threadIdx.x == 0) {
      // a NaN in front is never exceeded, and nothing exceeds it where all is minus infinity
      best[row] = head != head || found.index == kNone ? 0 : found.index;
    }
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
