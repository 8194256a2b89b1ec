// Norms of heads, for bodies that read queries and keys: x * rsqrt(mean(x^2) + kEps) * weight over a head.
//
//   A body takes Norm, which is NoNorm, or HeadNorm<W, kEps> with norm weights of W. `head_scales` sums the squares
//   first, one warp per head; then a HeadReader converts the elements to float. Without a norm both are only to_float.
#pragma once
#include "common/reduce.cuh"

namespace smelt {

struct NoNorm {
  using Weight = float;
  static constexpr bool kNorms = false;
};

template <class W, float kEpsilon> struct HeadNorm {
  using Weight = W;
  static constexpr bool kNorms = true;
  static constexpr float kEps = kEpsilon;
};

// Elements without a norm.
struct AsIs {
  template <class T> __device__ __forceinline__ float operator()(T x, int, int) const { return to_float(x); }
};

// Elements of normalized heads, with factors `scales`.
template <class Norm> struct HeadReader {
  const float* scales;
  const typename Norm::Weight* weight;

  template <class T> __device__ __forceinline__ float operator()(T x, int head, int d) const {
    if constexpr (Norm::kNorms) return to_float(x) * scales[head] * to_float(weight[d]);
    return to_float(x);
  }
};

// The factors of kHeads heads, in shared memory: head `i` begins at `head_of(i)`. All threads of the block must call
// it, once; without a norm it does nothing.
template <class Norm, int kHeads, int kHeadDim, int kThreads, class HeadOf>
__device__ __forceinline__ const float* head_scales(HeadOf head_of) {
  static_assert(kThreads % 32 == 0, "whole warps");
  if constexpr (!Norm::kNorms) {
    return nullptr;
  } else {
    __shared__ float scales[kHeads];
    const int lane = threadIdx.x % 32;
#pragma unroll 1
    for (int head = threadIdx.x / 32; head < kHeads; head += kThreads / 32) {
      const auto* x = head_of(head);
      float squares = 0.0f;
      for (int d = lane; d < kHeadDim; d += 32) squares += to_float(x[d]) * to_float(x[d]);
      const float scale = rsqrtf(warp_sum(squares) / kHeadDim + Norm::kEps);
      if (lane == 0) scales[head] = scale;
    }
    __syncthreads();
    return scales;
  }
}

}  // namespace smelt
