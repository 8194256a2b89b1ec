// RoPE, and storing keys and values in the KV cache.
//
// Elements i and i + kHalf of a head are rotated by the angle position * frequencies[i] (one float product), elements
// from 2 * kHalf on are unchanged. frequencies [kHalf] are float, input rows of T, output rows of Y, the cache of KV;
// rounded once. RopeAppendKv normalizes heads before RoPE if there is a Norm (norm/heads.cuh). Step inputs and the
// layout of the cache: common/cache.cuh. Grid: one block per token.
#pragma once
#include "common/body.cuh"
#include "common/cache.cuh"
#include "common/sincos.cuh"
#include "norm/heads.cuh"

namespace smelt {

constexpr int kRopeThreads = 256;

template <class T, int kWidth>
__device__ __forceinline__ void store_rounded(T* to, const float (&from)[kWidth]) {
  Vec<T, kWidth> values;
#pragma unroll
  for (int i = 0; i < kWidth; ++i) values[i] = from_float<T>(from[i]);
  *reinterpret_cast<Vec<T, kWidth>*>(to) = values;
}

// Copies vectors of kHeadDim * kHeads elements, those of each head from kFirst on, to `place(head)`, converted to
// floats by `read(x, head, element)`.
template <int kWidth, int kHeads, int kHeadDim, int kFirst, class T, class Place, class Read = AsIs>
__device__ __forceinline__ void copy_heads(const T* row, Place place, Read read = {}) {
  constexpr int kVectors = (kHeadDim - kFirst) / kWidth;  // of a head
#pragma unroll 1
  for (int i = threadIdx.x; i < kHeads * kVectors; i += kRopeThreads) {
    const int head = i / kVectors, element = kFirst + i % kVectors * kWidth;
    const Vec<T, kWidth> values = *reinterpret_cast<const Vec<T, kWidth>*>(row + head * kHeadDim + element);
    float elements[kWidth];
#pragma unroll
    for (int j = 0; j < kWidth; ++j) elements[j] = read(values[j], head, element + j);
    store_rounded(place(head) + element, elements);
  }
}

// The rotation of the heads of one token.
template <class T, int kHeadDim, int kHalf> struct Rotation {
  static_assert(2 * kHalf <= kHeadDim, "at most a frequency for each pair of a head");
  // A power of two divides both sizes where it divides their bitwise or.
  static constexpr int kWidth = vector_width<T, (kHeadDim | kHalf)>();
  using Values = Vec<T, kWidth>;

  float* sine;  // [kHalf], in shared memory
  float* cosine;

  // All threads of the block must call it.
  __device__ __forceinline__ Rotation(float position, const float* frequencies) {
    constexpr int kCount = kHalf > 0 ? kHalf : 1;
    __shared__ float sines[kCount], cosines[kCount];
    for (int i = threadIdx.x; i < kHalf; i += kRopeThreads) sin_cos(position * frequencies[i], sines[i], cosines[i]);
    __syncthreads();
    sine = sines, cosine = cosines;
  }

  // Rotates the heads of a row, each to `place(head)`, with elements from `read(x, head, element)`.
  template <int kHeads, class Place, class Read = AsIs>
  __device__ __forceinline__ void rotate(const T* row, Place place, Read read = {}) const {
    constexpr int kPairs = kHalf / kWidth;  // of vectors of a head
    if constexpr (kPairs > 0) {
#pragma unroll 1
      for (int i = threadIdx.x; i < kHeads * kPairs; i += kRopeThreads) {
        const int head = i / kPairs, element = i % kPairs * kWidth;
        const T* from = row + head * kHeadDim + element;
        const Values a = *reinterpret_cast<const Values*>(from), b = *reinterpret_cast<const Values*>(from + kHalf);
        float low[kWidth], high[kWidth];
#pragma unroll
        for (int j = 0; j < kWidth; ++j) {
          const float s = sine[element + j], c = cosine[element + j];
          const float x = read(a[j], head, element + j), y = read(b[j], head, element + kHalf + j);
          low[j] = x * c - y * s;
          high[j] = y * c + x * s;
        }
        auto* to = place(head) + element;
        store_rounded(to, low);
        store_rounded(to + kHalf, high);
      }
    }
    if constexpr (2 * kHalf < kHeadDim) copy_heads<kWidth, kHeads, kHeadDim, 2 * kHalf>(row, place, read);
  }
};

// out, x [tokens][kWidth]
template <class T, class Y, int kWidth, int kHeadDim, int kHalf> struct Rope {
  static_assert(kWidth % kHeadDim == 0, "whole heads");
  static constexpr int kThreads = kRopeThreads;

  Y* out;
  const T* x;
  const int* positions;
  const float* frequencies;
  int tokens;

  __device__ __forceinline__ void stream(int) {}

  __device__ __forceinline__ void tile(int tile) {
    const Rotation<T, kHeadDim, kHalf> rotation(float(positions[tile]), frequencies);
    Y* row = out + i64(tile) * kWidth;
    rotation.template rotate<kWidth / kHeadDim>(x + i64(tile) * kWidth,
                                                [&](int head) { return row + head * kHeadDim; });
  }
};

// k, v [tokens][kKvHeads * kHeadDim] into the cache.
template <class T, class KV, int kKvHeads, int kHeadDim> struct AppendKv {
  static constexpr int kThreads = kRopeThreads;
  static constexpr int kWidth = vector_width<T, kHeadDim>();
  using Cache = CacheLayer<KV, kKvHeads, kHeadDim>;

  KV* kv;
  const T* k;
  const T* v;
  StepInputs inputs;
  StepSizes sizes;

  __device__ __forceinline__ void stream(int) {}

  __device__ __forceinline__ void tile(int tile) {
    const int sequence = sequence_of(inputs.query_starts, sizes.sequences, tile);
    if (sequence == sizes.sequences) return;
    const int position = inputs.positions[tile];
    KV* block = Cache::block(kv, block_at(inputs, sizes, sequence, position));
    const auto key = [&](int head) { return block + Cache::key(head, position); };
    const auto value = [&](int head) { return key(head) + Cache::kValues; };
    const i64 start = i64(tile) * (kKvHeads * kHeadDim);
    copy_heads<kWidth, kKvHeads, kHeadDim, 0>(k + start, key);
    copy_heads<kWidth, kKvHeads, kHeadDim, 0>(v + start, value);
  }
};

// qkv [tokens][(kHeads + 2 * kKvHeads) * kHeadDim]: rotated queries go to q, rotated keys and unchanged values to the
// cache. Padding has queries, and stores no keys. With a norm, q_norm_weight and k_norm_weight are [kHeadDim].
template <class T, class Y, class KV, int kHeads, int kKvHeads, int kHeadDim, int kHalf, class Norm>
struct RopeAppendKv {
  static constexpr int kThreads = kRopeThreads;
  static constexpr int kWidth = vector_width<T, kHeadDim>();
  using Cache = CacheLayer<KV, kKvHeads, kHeadDim>;

  Y* q;
  KV* kv;
  const T* qkv;
  StepInputs inputs;
  const float* frequencies;
  const typename Norm::Weight* q_norm_weight;
  const typename Norm::Weight* k_norm_weight;
  StepSizes sizes;

  __device__ __forceinline__ void stream(int) {}

  __device__ __forceinline__ void tile(int tile) {
    const T* row = qkv + i64(tile) * ((kHeads + 2 * kKvHeads) * kHeadDim);
    const int position = inputs.positions[tile];
    const int sequence = sequence_of(inputs.query_starts, sizes.sequences, tile);
    KV* block = nullptr;  // none for padding
    if (sequence < sizes.sequences) block = Cache::block(kv, block_at(inputs, sizes, sequence, position));
    const auto key = [&](int head) { return block + Cache::key(head, position); };
    const auto value = [&](int head) { return key(head) + Cache::kValues; };

    const auto head_of = [&](int head) { return row + head * kHeadDim; };
    const float* scales = head_scales<Norm, kHeads + kKvHeads, kHeadDim, kThreads>(head_of);
    const Rotation<T, kHeadDim, kHalf> rotation(float(position), frequencies);
    Y* queries = q + i64(tile) * (kHeads * kHeadDim);
    const auto query = [&](int head) { return queries + head * kHeadDim; };
    rotation.template rotate<kHeads>(row, query, HeadReader<Norm>{scales, q_norm_weight});
    if (block == nullptr) return;
    rotation.template rotate<kKvHeads>(row + kHeads * kHeadDim, key, HeadReader<Norm>{scales + kHeads, k_norm_weight});
    copy_heads<kWidth, kKvHeads, kHeadDim, 0>(row + (kHeads + kKvHeads) * kHeadDim, value);
  }
};

}  // namespace smelt
