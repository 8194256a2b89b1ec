// The step inputs and the layout of the paged KV cache.
//
// positions [tokens], query_starts [sequences + 1], block_table [sequences][blocks_per_sequence]. Token t belongs to
// the sequence b with query_starts[b] <= t < query_starts[b + 1]; tokens from query_starts[sequences] on are padding.
// block_table[b][p / 64] is the block that holds position p of sequence b. A layer of the cache is
// [blocks][kv_heads][2 (keys, values)][64 tokens][head_dim], of floats or 8-bit values, which are read without scales:
// those are folded into the weights around attention.
#pragma once
#include "common/reduce.cuh"
#include "common/types.cuh"
#include "common/widen.cuh"

namespace smelt {

constexpr int kBlockTokens = 64;

// The arguments of a launch that reads step inputs: one member of a body where they stand among its inputs, and one for
// its sizes at the end.
struct StepInputs {
  const int* positions;
  const int* query_starts;
  const int* block_table;
};
struct StepSizes {
  int tokens;
  int sequences;
  int blocks_per_sequence;
};

// The sequence of a token; `sequences` for padding. All lanes of a warp ask for the same token.
__device__ __forceinline__ int sequence_of(const int* query_starts, int sequences, int token) {
  const int lane = threadIdx.x % 32;
  for (int base = 0; base < sequences; base += 32) {
    const bool ends_after = base + lane < sequences && query_starts[base + lane + 1] > token;
    const u32 found = __ballot_sync(kFullWarp, ends_after);
    if (found != 0) return base + __ffs(found) - 1;
  }
  return sequences;
}

// The block that holds a position of a sequence.
__device__ __forceinline__ int block_at(const StepInputs& inputs, const StepSizes& sizes, int sequence, int position) {
  return inputs.block_table[i64(sequence) * sizes.blocks_per_sequence + position / kBlockTokens];
}

// Offsets in a layer of the cache, in elements.
template <class KV, int kKvHeads, int kHeadDim> struct CacheLayer {
  // From a key to the value of the same position.
  static constexpr int kValues = kBlockTokens * kHeadDim;

  static __device__ __forceinline__ KV* block(KV* layer, int block) {
    return layer + i64(block) * (2 * kKvHeads * kValues);
  }

  // The key of a head at a position, within its block.
  static __device__ __forceinline__ int key(int head, int position) {
    return head * 2 * kValues + position % kBlockTokens * kHeadDim;
  }
};

}  // namespace smelt
