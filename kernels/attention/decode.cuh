// Causal attention over the paged KV cache for steps in which each sequence has one token, on tensor cores:
//   out[t][h] = sum_p softmax_p(kScale * q[t][h] . k[p]) v[p],  p = 0..=positions[t],  kv head h / (kHeads / kKvHeads)
//
// AttentionDecode takes rotated queries, over a cache that has the token's own key. RopeAttentionDecode takes the
// packed row of queries, keys and values as computed by the linear layer before it: it rotates queries and key
// (rope/rope.cuh), stores key and value in the cache, and begins to read the cache before the row is complete. With a
// Norm, it normalizes the heads of queries and keys before RoPE (norm/heads.cuh), with q_norm_weight and k_norm_weight
// [kHeadDim].
//
// out, q      [tokens][kHeads * kHeadDim] of T (bf16 or f16); rows of padding tokens become zero
// qkv         [tokens][(kHeads + 2 * kKvHeads) * kHeadDim] of X; frequencies [kHalf] of float
// kv          one layer of the cache (paged.cuh), of KV: T, or 8-bit values, which each warp widens in registers
// positions   [tokens], query_starts [sequences + 1], block_table [sequences][blocks_per_sequence];
//             token t is the only one of sequence t, and tokens from query_starts[sequences] on are padding
//
// A cluster of kSplits blocks takes up to 16 heads of a group that shares a KV head, as the rows of one product, so
// that keys and values are read once. Its ranks take equal runs of KV blocks, and of each KV block a warp takes 16
// tokens: it copies them to shared memory, kStages deep, and keeps its own online softmax, without barriers. The warps
// of a block are merged through shared memory, the ranks through distributed shared memory, both in order.
//
// Grid: tokens * kKvHeads * kGroupTiles * kSplits blocks of kThreads in clusters of kSplits, kSharedBytes each, where
// kGroupTiles = ceil(kHeads / kKvHeads / 16); RopeAttentionDecode requires it to be 1: one cluster stores the key.
#pragma once
#include "attention/paged.cuh"
#include "common/body.cuh"
#include "common/limits.cuh"
#include "common/sincos.cuh"
#include "norm/heads.cuh"
#include "ptx/cluster.cuh"
#include "ptx/ex2.cuh"

namespace smelt {

// Shared by both bodies: a block's place in the grid, its walk over the cache, and the merging of results.
template <class T, class KV, int kHeads, int kKvHeads, int kHeadDim, float kScale, int kSplits> struct DecodeAttention {
  static_assert(kHeads % kKvHeads == 0, "query heads share kv heads in equal groups");
  static_assert(kSplits == 1 || kSplits == 2 || kSplits == 4 || kSplits == 8, "a cluster has at most 8 blocks");
  static_assert(kScale > 0.0f, "the largest score is that of the largest product");
  static_assert(sizeof(T) == 2, "tensor cores take 16-bit elements");
  using Tile = Rows<KV, kHeadDim>;
  using Tiles = CacheTiles<T, KV, kHeadDim>;
  static constexpr int kWarps = 4;
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kGroup = kHeads / kKvHeads;
  static constexpr int kGroupTiles = ceil_div(kGroup, 16);
  static constexpr int kRows = 16;                           // heads of a tile; the rows after the last head are zero
  static constexpr int kShare = kBlockTokens / kWarps;       // tokens of a KV block that a warp takes
  static constexpr int kShareBytes = kShare * Tile::kBytes;  // its keys; the values take as much again
  // Two blocks on a multiprocessor with 96 KB each, if three stages fit in that.
  static constexpr int kFitting = 96 * 1024 / (2 * kShareBytes * kWarps);
  static constexpr int kStages = kFitting < 3 ? 3 : kFitting > 6 ? 6 : kFitting;
  static constexpr int kWarpBytes = kStages * 2 * kShareBytes;
  static constexpr int kSharedBytes = kWarps * kWarpBytes;

  // The state of a warp in shared memory; the first warp's becomes the block's. Rows are padded by 8 columns: fragment
  // rows are in different banks.
  struct State {
    float sum[kRows][kHeadDim + 8];  // of exp2(score - top) * value
    float top[kRows];                // the largest score, in units of log2
    float weight[kRows];             // the sum of exp2(score - top)
    float block_top[kRows];
    float block_weight[kRows];
  };
  static_assert(kShare == 16 && sizeof(State) <= kWarpBytes, "one k step of the second product; the state fits");

  const int* positions;
  const int* block_table;
  KV* kv;
  int blocks_per_sequence;

  int rank;
  int head;     // the first of the tile, in its group
  int kv_head;
  int token;
  int heads;    // of the tile
  int visible;  // the last row that this warp may see, from its first share on
  int count;    // shares of this warp
  BlockWalk blocks;

  // The place of a block in the grid.
  __device__ __forceinline__ void find(int tile) {
    rank = tile % kSplits;
    const int item = tile / kSplits;
    head = item % kGroupTiles * kRows;
    kv_head = item / kGroupTiles % kKvHeads;
    token = item / (kGroupTiles * kKvHeads);
    heads = min(kRows, kGroup - head);
  }

  // Whether this block holds the token's own key and value.
  __device__ __forceinline__ bool is_last() const { return rank == kSplits - 1; }

  // The first element of the tile in a row of queries or results.
  __device__ __forceinline__ i64 offset() const {
    return (i64(token) * kHeads + kv_head * kGroup + head) * kHeadDim;
  }

  static __device__ __forceinline__ State& state(int warp) {
    return *reinterpret_cast<State*>(shared_memory() + warp * kWarpBytes);
  }

  // The factor that rescales sums relative to `top` to `new_top`; nothing was summed if `top` is -inf.
  static __device__ __forceinline__ float rescale(float top, float new_top) {
    return top == minus_infinity() ? 0.0f : ptx::ex2_approx_ftz_f32(top - new_top);
  }

  // Copies this warp's share of its KV block `i`.
  __device__ __forceinline__ void copy(int i) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const KV* keys = kv + warp * kShare * kHeadDim + keys_offset<kKvHeads, kHeadDim>(blocks.next(), kv_head);
    const u32 stage = ptx::shared_address(&state(warp)) + i % kStages * (2 * kShareBytes);
    const int last = visible - i * kBlockTokens;
    Tile::template copy<kShare, 32>(stage, keys, last, lane);
    Tile::template copy<kShare, 32>(stage + kShareBytes, keys + kBlockTokens * kHeadDim, last, lane);
  }

  // Finds the KV blocks of this rank and prefetches the first of them.
  __device__ __forceinline__ void begin() {
    const int position = positions[token], all = position / kBlockTokens + 1;
    const int first = int(i64(all) * rank / kSplits), end = int(i64(all) * (rank + 1) / kSplits);
    visible = position - first * kBlockTokens - int(threadIdx.x) / 32 * kShare;
    count = min(end - first, visible < 0 ? 0 : visible / kBlockTokens + 1);
    blocks = BlockWalk(block_table + i64(token) * blocks_per_sequence + first, count);
#pragma unroll
    for (int i = 0; i < kStages - 1; ++i) {
      if (i < count) copy(i);
      ptx::cp_async_commit_group();
    }
  }

  // Online softmax of this warp over its tokens, into its state. Queries are kPitch elements apart. If `new_kv` is
  // given, it holds key and value of the last token, which the cache does not have.
  template <int kPitch> __device__ __forceinline__ void attend(const T* queries, const KV* new_kv) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const u32 stages = ptx::shared_address(&state(warp));
    // load
    u32 query[kHeadDim / 16][4];
#pragma unroll
    for (int k = 0; k < kHeadDim / 16; ++k) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int row = lane / 4 + i % 2 * 8, d = k * 16 + Tiles::pair(i / 2);
        query[k][i] = row < heads ? *reinterpret_cast<const u32*>(queries + row * kPitch + d) : 0;
      }
    }

    // reduce
    float sum[kHeadDim / 8][4] = {};
    float top[2] = {minus_infinity(), minus_infinity()};
    float weight[2] = {0.0f, 0.0f};
    for (int i = 0; i < count; ++i) {
      ptx::cp_async_wait_group<kStages - 2>();
      __syncwarp();
      const u32 stage = stages + i % kStages * (2 * kShareBytes);
      if (new_kv != nullptr && visible - i * kBlockTokens < kShare) insert_new_kv(new_kv, warp, i);
      const Tiles tiles(stage, stage + kShareBytes);
      if (i + kStages - 1 < count) copy(i + kStages - 1);  // where share i - 1 was
      ptx::cp_async_commit_group();

      float score[2][4] = {};
#pragma unroll
      for (int k = 0; k < kHeadDim / 16; ++k) {
        u32 key[4];
        tiles.keys(key, k);
        ptx::mma_m16n8k16<T>(score[0], query[k], key[0], key[1]);
        ptx::mma_m16n8k16<T>(score[1], query[k], key[2], key[3]);
      }
      // The first row of a share is always visible: `top` is finite from here on.
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        const int row = j / 4 * 8 + lane % 4 * 2 + j % 2;
        if (i * kBlockTokens + row > visible) score[j / 4][j % 4] = minus_infinity();
      }
      float keep[2];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float* left = &score[0][half * 2];
        const float* right = &score[1][half * 2];
        float largest = fmaxf(fmaxf(left[0], left[1]), fmaxf(right[0], right[1]));
        largest = fmaxf(largest, __shfl_xor_sync(kFullWarp, largest, 1));
        largest = fmaxf(largest, __shfl_xor_sync(kFullWarp, largest, 2));
        const float new_top = fmaxf(top[half], largest * (kScale * kLog2E));
        keep[half] = ptx::ex2_approx_ftz_f32(top[half] - new_top);
        top[half] = new_top;
        weight[half] *= keep[half];
      }
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        float& x = score[j / 4][j % 4];
        x = ptx::ex2_approx_ftz_f32(x * (kScale * kLog2E) - top[j / 2 % 2]);
        weight[j / 2 % 2] += x;
      }
      const u32 p[4] = {pack2<T>(score[0][0], score[0][1]), pack2<T>(score[0][2], score[0][3]),
                        pack2<T>(score[1][0], score[1][1]), pack2<T>(score[1][2], score[1][3])};
#pragma unroll
      for (int n = 0; n < kHeadDim / 16; ++n) {
        u32 value[4];
        tiles.values(value, n);
#pragma unroll
        for (int j = 0; j < 8; ++j) sum[n * 2 + j / 4][j % 4] *= keep[j / 2 % 2];
        ptx::mma_m16n8k16<T>(sum[n * 2], p, value[0], value[1]);
        ptx::mma_m16n8k16<T>(sum[n * 2 + 1], p, value[2], value[3]);
      }
    }

    // store
    __syncwarp();  // the state reuses the memory of the stages
    State& mine = state(warp);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = lane / 4 + half * 8;
      weight[half] += __shfl_xor_sync(kFullWarp, weight[half], 1);
      weight[half] += __shfl_xor_sync(kFullWarp, weight[half], 2);
      mine.top[row] = top[half];
      mine.weight[row] = weight[half];
#pragma unroll
      for (int n = 0; n < kHeadDim / 8; ++n) {
        float* to = &mine.sum[row][n / 2 * 16];
        to[Tiles::column(n % 2, 0)] = sum[n][half * 2];
        to[Tiles::column(n % 2, 1)] = sum[n][half * 2 + 1];
      }
    }
  }

  // Writes key and value of the last token into share `i` of a warp, where the cache has no such row.
  __device__ __forceinline__ void insert_new_kv(const KV* new_kv, int warp, int i) const {
    constexpr int kChunks = Tile::kChunks;
    u8* const stage = reinterpret_cast<u8*>(&state(warp)) + i % kStages * (2 * kShareBytes);
    const int row = visible - i * kBlockTokens;
    for (int chunk = threadIdx.x % 32; chunk < 2 * kChunks; chunk += 32)
      *reinterpret_cast<uint4*>(stage + chunk / kChunks * kShareBytes + Tile::offset(row, chunk % kChunks)) =
          reinterpret_cast<const uint4*>(new_kv)[chunk];
    __syncwarp();
  }

  // Writes zeros for a padding token.
  __device__ __forceinline__ void pad(T* out) const {
    for (int e = rank * kThreads + threadIdx.x; e < heads * kHeadDim; e += kSplits * kThreads)
      out[offset() + e] = from_float<T>(0.0f);
  }

  // Merges the states of all warps of all ranks into the result. All threads of the cluster must call it.
  __device__ __forceinline__ void merge(T* out) {
    const int mine = rank * kThreads + threadIdx.x;  // the elements [heads][kHeadDim] of the result, over all ranks
    const i64 offset = this->offset();
    __syncthreads();

    // reduce: the warps
    for (int e = threadIdx.x; e < heads * kHeadDim; e += kThreads) {
      const int row = e / kHeadDim, d = e % kHeadDim;
      float top = minus_infinity(), weight = 0.0f, sum = 0.0f;
#pragma unroll
      for (int warp = 0; warp < kWarps; ++warp) top = fmaxf(top, state(warp).top[row]);
#pragma unroll
      for (int warp = 0; warp < kWarps; ++warp) {
        const float scale = rescale(state(warp).top[row], top);
        weight += scale * state(warp).weight[row];
        sum += scale * state(warp).sum[row][d];
      }
      if constexpr (kSplits == 1) {
        out[offset + e] = from_float<T>(sum / weight);
      } else {
        state(0).sum[row][d] = sum;
        if (d == 0) state(0).block_top[row] = top, state(0).block_weight[row] = weight;
      }
    }
    if constexpr (kSplits == 1) return;
    ptx::barrier_cluster();

    // reduce: the ranks
    for (int e = mine; e < heads * kHeadDim; e += kSplits * kThreads) {
      const int row = e / kHeadDim, d = e % kHeadDim;
      float tops[kSplits], weights[kSplits], sums[kSplits];
#pragma unroll
      for (int r = 0; r < kSplits; ++r) {
        const auto load = [&](const float& x) {
          return ptx::ld_shared_cluster_f32(ptx::mapa(ptx::shared_address(&x), r));
        };
        tops[r] = load(state(0).block_top[row]);
        weights[r] = load(state(0).block_weight[row]);
        sums[r] = load(state(0).sum[row][d]);
      }
      float top = minus_infinity(), weight = 0.0f, sum = 0.0f;
#pragma unroll
      for (int r = 0; r < kSplits; ++r) top = fmaxf(top, tops[r]);
#pragma unroll
      for (int r = 0; r < kSplits; ++r) {
        const float scale = rescale(tops[r], top);
        weight += scale * weights[r];
        sum += scale * sums[r];
      }
      out[offset + e] = from_float<T>(sum / weight);
    }
    ptx::barrier_cluster();  // no block ends while others read its shared memory
  }
};

template <class T, class KV, int kHeads, int kKvHeads, int kHeadDim, float kScale, int kSplits> struct AttentionDecode {
  using Attention = DecodeAttention<T, KV, kHeads, kKvHeads, kHeadDim, kScale, kSplits>;
  static constexpr int kThreads = Attention::kThreads;
  static constexpr int kSharedBytes = Attention::kSharedBytes;

  T* out;
  const T* q;
  StepInputs inputs;
  const KV* kv;
  StepSizes sizes;

  __device__ __forceinline__ void stream(int) {}

  __device__ __forceinline__ void tile(int tile) {
    Attention attention = {inputs.positions, inputs.block_table, const_cast<KV*>(kv), sizes.blocks_per_sequence};
    attention.find(tile);
    if (attention.token >= inputs.query_starts[sizes.sequences]) return attention.pad(out);
    attention.begin();
    attention.template attend<kHeadDim>(q + attention.offset(), nullptr);
    attention.merge(out);
  }
};

template <class T, class KV, class X, int kHeads, int kKvHeads, int kHeadDim, int kHalf, float kScale, int kSplits,
          class Norm, bool kIsAlone>
struct RopeAttentionDecode {
  using Attention = DecodeAttention<T, KV, kHeads, kKvHeads, kHeadDim, kScale, kSplits>;
  static_assert(Attention::kGroupTiles == 1, "one cluster for a kv head");
  static_assert(2 * kHalf <= kHeadDim, "at most a frequency for each pair of a head");
  static constexpr int kThreads = Attention::kThreads;
  // Multiprocessors keep the split of L1 and shared memory that this body requests for as long as launches overlap.
  // With a small L1, a linear layer whose weights go through it into registers made the whole step of a model of 8B a
  // fifth longer; one whose weights go into shared memory is not affected.
  static constexpr bool kAlone = kIsAlone;
  static constexpr int kGroup = Attention::kGroup;
  static constexpr int kPitch = kHeadDim + 8;  // elements from query to query: their rows are in different banks

  // After the stages: values computed from the packed row.
  struct Rotated {
    T queries[kGroup][kPitch];
    KV new_kv[2][kHeadDim];  // key and value
    float sines[kHalf > 0 ? kHalf : 1];
    float cosines[kHalf > 0 ? kHalf : 1];
  };
  static constexpr int kSharedBytes = Attention::kSharedBytes + round_up(int(sizeof(Rotated)), 16);
  static_assert(kSharedBytes <= kMaxSharedBytes, "shared memory of a block");

  T* out;
  KV* kv;
  const X* qkv;
  StepInputs inputs;
  const float* frequencies;
  const typename Norm::Weight* q_norm_weight;
  const typename Norm::Weight* k_norm_weight;
  StepSizes sizes;

  Attention attention;
  bool padding;

  static __device__ __forceinline__ Rotated& rotated() {
    return *reinterpret_cast<Rotated*>(shared_memory() + Attention::kSharedBytes);
  }

  // The step's inputs, the frequencies and earlier steps' entries of the cache: none of it is written in this step.
  __device__ __forceinline__ void stream(int tile) {
    attention = {inputs.positions, inputs.block_table, kv, sizes.blocks_per_sequence};
    attention.find(tile);
    padding = attention.token >= inputs.query_starts[sizes.sequences];
    if (padding) return;
    attention.begin();
    const float position = float(inputs.positions[attention.token]);
    for (int i = threadIdx.x; i < kHalf; i += kThreads)
      sin_cos(position * frequencies[i], rotated().sines[i], rotated().cosines[i]);
    __syncthreads();
  }

  // Element `d` of the head at `at`, rotated; `head` is its index among the scales.
  static __device__ __forceinline__ float rotate(HeadReader<Norm> read, const X* at, int head, int d) {
    const float x = read(at[d], head, d);
    if (d >= 2 * kHalf) return x;
    const int i = d < kHalf ? d : d - kHalf, pair = d < kHalf ? d + kHalf : d - kHalf;
    const float other = read(at[pair], head, pair);
    const float s = rotated().sines[i], c = rotated().cosines[i];
    return d < kHalf ? x * c - other * s : x * c + other * s;
  }

  __device__ __forceinline__ void tile(int tile) {
    if (padding) return attention.pad(out);
    const int kv_head = attention.kv_head, position = inputs.positions[attention.token];
    const X* row = qkv + i64(attention.token) * ((kHeads + 2 * kKvHeads) * kHeadDim);

    const X* queries = row + kv_head * kGroup * kHeadDim;
    const X* key = row + (kHeads + kv_head) * kHeadDim;

    // reduce: the norms
    const auto head_of = [&](int head) { return head < kGroup ? queries + head * kHeadDim : key; };
    const float* scales = head_scales<Norm, kGroup + 1, kHeadDim, kThreads>(head_of);

    // rotate: the queries of the group, and in the last rank the key
    const HeadReader<Norm> read_query = {scales, q_norm_weight}, read_key = {scales, k_norm_weight};
#pragma unroll 4
    for (int e = threadIdx.x; e < kGroup * kHeadDim; e += kThreads) {
      const int head = e / kHeadDim, d = e % kHeadDim;
      rotated().queries[head][d] = from_float<T>(rotate(read_query, queries + head * kHeadDim, head, d));
    }
    const bool last = attention.is_last();
    if (last) {
      const int block = block_at(inputs, sizes, attention.token, position);
      KV* place = kv + keys_offset<kKvHeads, kHeadDim>(block, kv_head);
      place += position % kBlockTokens * kHeadDim;
      for (int d = threadIdx.x; d < kHeadDim; d += kThreads) {
        const KV k = from_float<KV>(rotate(read_key, key, kGroup, d));
        const KV v = from_float<KV>(to_float(key[kKvHeads * kHeadDim + d]));
        rotated().new_kv[0][d] = k, rotated().new_kv[1][d] = v;
        place[d] = k, place[kBlockTokens * kHeadDim + d] = v;
      }
    }
    __syncthreads();
    attention.template attend<kPitch>(&rotated().queries[0][0], last ? &rotated().new_kv[0][0] : nullptr);
    attention.merge(out);
  }
};

}  // namespace smelt
