// Causal attention over the paged KV cache for any head_dim up to 512 and any mix of float types:
//   out[t][h] = sum_p softmax_p(kScale * q[t][h] . k[p]) v[p],  p = 0..=positions[t],  kv head h / (kHeads / kKvHeads)
//
// out, q      [tokens][kHeads * kHeadDim] of T; rows of padding tokens become zero
// kv          one layer of the cache (paged.cuh), of KV
// positions   [tokens], query_starts [sequences + 1], block_table [sequences][blocks_per_sequence]
//
// One warp per (token, head), with online softmax over the positions in their order, sums in float; the lanes share
// head_dim. Grid: ceil(tokens * kHeads / 4) blocks of kThreads.
#pragma once
#include "attention/paged.cuh"
#include "common/body.cuh"
#include "ptx/ex2.cuh"

namespace smelt {

template <class T, class KV, int kHeads, int kKvHeads, int kHeadDim, float kScale> struct AttentionReference {
  static_assert(kHeads % kKvHeads == 0, "query heads share kv heads in equal groups");
  static_assert(kHeadDim >= 1 && kHeadDim <= 512, "a lane holds at most 16 elements of a head");
  static constexpr int kThreads = 128;
  static constexpr int kPerLane = ceil_div(kHeadDim, 32);

  T* out;
  const T* q;
  StepInputs inputs;
  const KV* kv;
  StepSizes sizes;

  __device__ __forceinline__ void stream(int) {}

  __device__ __forceinline__ void tile(int tile) {
    const int lane = threadIdx.x % 32;
    const i64 warp = i64(tile) * (kThreads / 32) + threadIdx.x / 32;
    if (warp >= i64(sizes.tokens) * kHeads) return;
    const int token = int(warp / kHeads);
    const int head = int(warp % kHeads);
    const int sequence = sequence_of(inputs.query_starts, sizes.sequences, token);

    // load
    float query[kPerLane], sum[kPerLane];
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      const int d = i * 32 + lane;
      query[i] = d < kHeadDim ? to_float(q[warp * kHeadDim + d]) * (kScale * kLog2E) : 0.0f;
      sum[i] = 0.0f;
    }

    // reduce
    float top = minus_infinity();
    float weight = 0.0f;
    if (sequence < sizes.sequences) {
      const int last = inputs.positions[token];
      const int* table = inputs.block_table + i64(sequence) * sizes.blocks_per_sequence;
      const int kv_head = head / (kHeads / kKvHeads);
      for (int position = 0; position <= last; ++position) {
        const KV* keys = kv + keys_offset<kKvHeads, kHeadDim>(table[position / kBlockTokens], kv_head);
        const KV* key = keys + position % kBlockTokens * kHeadDim;
        const KV* value = key + kBlockTokens * kHeadDim;
        float score = 0.0f;
#pragma unroll
        for (int i = 0; i < kPerLane; ++i) {
          const int d = i * 32 + lane;
          if (d < kHeadDim) score += query[i] * to_float(key[d]);
        }
        score = warp_sum(score);
        const float new_top = fmaxf(top, score);
        const float keep = ptx::ex2_approx_ftz_f32(top - new_top);
        const float p = ptx::ex2_approx_ftz_f32(score - new_top);
        top = new_top;
        weight = weight * keep + p;
#pragma unroll
        for (int i = 0; i < kPerLane; ++i) {
          const int d = i * 32 + lane;
          if (d < kHeadDim) sum[i] = sum[i] * keep + p * to_float(value[d]);
        }
      }
    }

    // store
    const float share = sequence < sizes.sequences ? 1.0f / weight : 0.0f;
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      const int d = i * 32 + lane;
      if (d < kHeadDim) out[warp * kHeadDim + d] = from_float<T>(sum[i] * share);
    }
  }
};

}  // namespace smelt
