// Causal attention over the paged KV cache for steps with any number of tokens per sequence, on tensor cores:
//   out[t][h] = sum_p softmax_p(kScale * q[t][h] . k[p]) v[p],  p = 0..=positions[t],  kv head h / (kHeads / kKvHeads)
//
// out, q      [tokens][kHeads * kHeadDim] of T (bf16 or f16); rows of padding tokens become zero
// kv          one layer of the cache (paged.cuh), of KV: T, or 8-bit values
// positions   [tokens], query_starts [sequences + 1], block_table [sequences][blocks_per_sequence]
//
// The queries of a sequence for one KV head are rows in the order (token, head of the group). A block takes kRows of
// them, a warp 16 * kTilesPerWarp, and walks the KV blocks up to the last position that its rows see: 64 keys and
// values at a time in shared memory, the next ones prefetched, with online softmax. 8-bit values are copied to a buffer
// after the tiles, and converted to T once for all warps.
//
// Grid: kKvHeads * (ceil(tokens * kGroup / kRows) + sequences) blocks of kThreads, kSharedBytes each, where kGroup is
// kHeads / kKvHeads. Padding rows are tiles too, after those of the sequences. The grid has room for all: a sequence of
// n rows has ceil(n / kRows) tiles, less than n / kRows + 1, and so has the padding, and the rounded sum over at most
// `sequences` + 1 of them stays within ceil(sum of n / kRows) + sequences.
#pragma once
#include "attention/paged.cuh"
#include "common/body.cuh"
#include "ptx/ex2.cuh"

namespace smelt {

template <class T, class KV, int kHeads, int kKvHeads, int kHeadDim, float kScale> struct AttentionPrefill {
  static_assert(kHeads % kKvHeads == 0, "query heads share kv heads in equal groups");
  static_assert(kScale > 0.0f, "the largest score is that of the largest product");
  static_assert(sizeof(T) == 2, "tensor cores take 16-bit elements");
  using Tile = Rows<T, kHeadDim>;
  using Arriving = Rows<KV, kHeadDim>;
  static constexpr bool kCodes = sizeof(KV) == 1;
  static constexpr int kWarps = 4;
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kGroup = kHeads / kKvHeads;
  static constexpr int kTilesPerWarp = kHeadDim <= 128 ? 2 : 1;  // of 16 rows: as many as fit registers
  static constexpr int kWarpRows = 16 * kTilesPerWarp;
  static constexpr int kRows = kWarpRows * kWarps;
  static constexpr int kStep = kHeadDim > 96 ? 32 : 64;  // tokens between updates of the softmax
  static constexpr int kQueryBytes = kRows * Tile::kBytes;
  static constexpr int kBlockBytes = kBlockTokens * Tile::kBytes;  // the keys of a KV block; as much for the values
  static constexpr int kArrivingBytes = kBlockTokens * Arriving::kBytes;  // the same as the cache has it
  static constexpr int kStages = kCodes ? 1 : 2;
  static constexpr int kSharedBytes = kQueryBytes + kStages * 2 * kBlockBytes + (kCodes ? 2 * kArrivingBytes : 0);
  static_assert(kSharedBytes <= 227 * 1024, "the tiles fit a multiprocessor");

  T* out;
  const T* q;
  StepInputs inputs;
  const KV* kv;
  StepSizes sizes;

  // A run of rows of one sequence; the padding is sequence `sequences`.
  struct Work {
    int sequence;
    int token;  // the first of the sequence in this step
    int first;  // row of the sequence
    int end;
  };

  __device__ __forceinline__ void stream(int) {}

  // Tile number `item` of the step; `first` == `end` after the last one.
  __device__ __forceinline__ Work find(int item) const {
    const int lane = threadIdx.x % 32;
    for (int base = 0; base <= sizes.sequences; base += 32) {
      const int sequence = base + lane;
      const int start = sequence <= sizes.sequences ? inputs.query_starts[sequence] : 0;
      const int end = sequence < sizes.sequences    ? inputs.query_starts[sequence + 1]
                      : sequence == sizes.sequences ? sizes.tokens
                                                    : 0;
      const int rows = (end - start) * kGroup;
      const int tiles = ceil_div(rows, kRows);
      int up_to = tiles;  // the tiles of lanes up to this one
#pragma unroll
      for (int offset = 1; offset < 32; offset *= 2) {
        const int below = __shfl_up_sync(kFullWarp, up_to, offset);
        if (lane >= offset) up_to += below;
      }
      const u32 reached = __ballot_sync(kFullWarp, item < up_to);
      if (reached != 0) {
        const int source = __ffs(reached) - 1;
        const int first = (item - up_to + tiles) * kRows;
        Work work{sequence, start, first, min(rows, first + kRows)};
        work.sequence = __shfl_sync(kFullWarp, work.sequence, source);
        work.token = __shfl_sync(kFullWarp, work.token, source);
        work.first = __shfl_sync(kFullWarp, work.first, source);
        work.end = __shfl_sync(kFullWarp, work.end, source);
        return work;
      }
      item -= __shfl_sync(kFullWarp, up_to, 31);
    }
    return {sizes.sequences, sizes.tokens, 0, 0};
  }

  // The offset of a row's elements in q and out.
  static __device__ __forceinline__ i64 row_offset(const Work& work, int kv_head, int row) {
    return (i64(work.token + row / kGroup) * kHeads + kv_head * kGroup + row % kGroup) * kHeadDim;
  }

  // The address of the tiles of KV block `j`.
  static __device__ __forceinline__ u32 stage(int j) {
    return ptx::shared_address(shared_memory()) + kQueryBytes + j % kStages * (2 * kBlockBytes);
  }

  // Copies the keys and values of KV block `j` to its tiles, or to the buffer; rows after row `last` become zero.
  static __device__ __forceinline__ void copy_block(int j, const KV* keys, int last) {
    const u32 to = stage(j) + (kCodes ? 2 * kBlockBytes : 0);
    Arriving::template copy<kBlockTokens, kThreads>(to, keys, last, threadIdx.x);
    Arriving::template copy<kBlockTokens, kThreads>(to + kArrivingBytes, keys + kBlockTokens * kHeadDim, last,
                                                    threadIdx.x);
  }

  // Converts the 8-bit values in the buffer to tiles. All threads of the block must call it.
  static __device__ __forceinline__ void widen() {
    u8* const tiles = shared_memory() + kQueryBytes;
    const u8* const quantized = tiles + 2 * kBlockBytes;
#pragma unroll 2
    for (int i = threadIdx.x; i < 2 * kBlockTokens * Arriving::kChunks; i += kThreads) {
      const int row = i / Arriving::kChunks, chunk = i % Arriving::kChunks;  // 64 rows of keys, 64 of values
      const Vec<u32, 4> words = *reinterpret_cast<const Vec<u32, 4>*>(quantized + Arriving::offset(row, chunk));
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        u32 low[2], high[2];
        Widen<KV, T>::pairs(low, words[half * 2]);
        Widen<KV, T>::pairs(high, words[half * 2 + 1]);
        auto* const to = reinterpret_cast<Vec<u32, 4>*>(tiles + Tile::offset(row, chunk * 2 + half));
        *to = {low[0], low[1], high[0], high[1]};
      }
    }
    __syncthreads();
  }

  __device__ __forceinline__ void tile(int tile) {
    const int kv_head = tile % kKvHeads;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    // The last tiles of a sequence take the longest and come first.
    const Work work = find(ceil_div(sizes.tokens * kGroup, kRows) + sizes.sequences - 1 - tile / kKvHeads);
    if (work.first == work.end) return;
    if (work.sequence == sizes.sequences) {
      for (int e = threadIdx.x; e < (work.end - work.first) * kHeadDim; e += kThreads) {
        out[row_offset(work, kv_head, work.first + e / kHeadDim) + e % kHeadDim] = from_float<T>(0.0f);
      }
      return;
    }
    const int context = inputs.positions[work.token];  // the position of row 0
    const int last = context + (work.end - 1) / kGroup;
    const int blocks = last / kBlockTokens + 1;
    const int* table = inputs.block_table + i64(work.sequence) * sizes.blocks_per_sequence;
    const u32 queries = ptx::shared_address(shared_memory());
    const u32 my_queries = Tile::by_columns(queries + warp * kWarpRows * Tile::kBytes);

    // load
    copy_block(0, kv + keys_offset<kKvHeads, kHeadDim>(table[0], kv_head), last);
#pragma unroll
    for (int pass = 0; pass < kRows; pass += kThreads / Tile::kSpan) {
      const int row = pass + threadIdx.x / Tile::kSpan;
      const bool real = work.first + row < work.end;
      const T* from = q + row_offset(work, kv_head, real ? work.first + row : work.first);
      for (int chunk = threadIdx.x % Tile::kSpan; chunk < Tile::kChunks; chunk += Tile::kSpan) {
        ptx::cp_async_16(queries + Tile::offset(row, chunk), from + chunk * 8, real);
      }
    }
    ptx::cp_async_commit_group();
    int block = blocks > 1 ? table[1] : 0;  // the next to copy
    // Row r sees token c of a step at position s where s + c <= context + r / kGroup, that is
    // c * kGroup <= room + r - work.first with this `room` at position 0 and kGroup less at each position.
    int room = context * kGroup + work.first;

    // reduce
    float sum[kTilesPerWarp][kHeadDim / 8][4] = {};
    float top[kTilesPerWarp][2], weight[kTilesPerWarp][2];
#pragma unroll
    for (int m = 0; m < kTilesPerWarp; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) top[m][half] = minus_infinity(), weight[m][half] = 0.0f;
    }
#pragma unroll 1
    for (int j = 0; j < blocks; ++j) {
      ptx::cp_async_wait_group<0>();
      __syncthreads();  // block j has arrived, and all warps have left block j - 1
      if constexpr (kCodes) widen();
      if (j + 1 < blocks) {
        copy_block(j + 1, kv + keys_offset<kKvHeads, kHeadDim>(block, kv_head), last - (j + 1) * kBlockTokens);
        if (j + 2 < blocks) block = table[j + 2];
      }
      ptx::cp_async_commit_group();

#pragma unroll 1
      for (int step = 0; step < kBlockTokens / kStep; ++step, room -= kStep * kGroup) {
        if (room + warp * kWarpRows + kWarpRows <= 0) continue;  // no row of the warp sees these tokens
        const u32 keys = Tile::by_rows(stage(j) + step * kStep * Tile::kBytes);
        const u32 values = Tile::by_columns(stage(j) + kBlockBytes + step * kStep * Tile::kBytes);

        float score[kTilesPerWarp][kStep / 8][4] = {};
#pragma unroll
        for (int k = 0; k < kHeadDim / 16; ++k) {
          u32 query[kTilesPerWarp][4];
#pragma unroll
          for (int m = 0; m < kTilesPerWarp; ++m) {
            ptx::ldmatrix_x4(query[m], Tile::move(my_queries, m, k));
          }
#pragma unroll
          for (int n = 0; n < kStep / 16; ++n) {
            u32 key[4];
            ptx::ldmatrix_x4(key, Tile::move(keys, n, k));
#pragma unroll
            for (int m = 0; m < kTilesPerWarp; ++m) {
              ptx::mma_m16n8k16<T>(score[m][n * 2], query[m], key[0], key[1]);
              ptx::mma_m16n8k16<T>(score[m][n * 2 + 1], query[m], key[2], key[3]);
            }
          }
        }
        // All rows see position 0: `top` is finite from the first step on, even if a later one is completely masked.
        if ((kStep - 1) * kGroup > room) {
          const int own = room + warp * kWarpRows + lane / 4 - lane % 4 * 2 * kGroup;
#pragma unroll
          for (int m = 0; m < kTilesPerWarp; ++m) {
#pragma unroll
            for (int i = 0; i < kStep / 2; ++i) {
              const int column = i / 4 * 8 + i % 2, row = m * 16 + i / 2 % 2 * 8;
              if (column * kGroup - row > own) score[m][i / 4][i % 4] = minus_infinity();
            }
          }
        }
#pragma unroll
        for (int m = 0; m < kTilesPerWarp; ++m) {
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            float largest = minus_infinity();
#pragma unroll
            for (int n = 0; n < kStep / 8; ++n) {
              largest = fmaxf(largest, fmaxf(score[m][n][half * 2], score[m][n][half * 2 + 1]));
            }
            largest = fmaxf(largest, __shfl_xor_sync(kFullWarp, largest, 1));
            largest = fmaxf(largest, __shfl_xor_sync(kFullWarp, largest, 2));
            const float new_top = fmaxf(top[m][half], largest * (kScale * kLog2E));
            const float keep = ptx::ex2_approx_ftz_f32(top[m][half] - new_top);
            top[m][half] = new_top;
            float added = 0.0f;
#pragma unroll
            for (int n = 0; n < kStep / 8; ++n) {
#pragma unroll
              for (int i = half * 2; i < half * 2 + 2; ++i) {
                score[m][n][i] = ptx::ex2_approx_ftz_f32(score[m][n][i] * (kScale * kLog2E) - new_top);
                added += score[m][n][i];
              }
            }
            weight[m][half] = weight[m][half] * keep + added;
#pragma unroll
            for (int n = 0; n < kHeadDim / 8; ++n) sum[m][n][half * 2] *= keep, sum[m][n][half * 2 + 1] *= keep;
          }
        }
#pragma unroll
        for (int k = 0; k < kStep / 16; ++k) {
          u32 p[kTilesPerWarp][4];
#pragma unroll
          for (int m = 0; m < kTilesPerWarp; ++m) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
              const float* pair = &score[m][k * 2 + i / 2][i % 2 * 2];
              p[m][i] = pack2<T>(pair[0], pair[1]);
            }
          }
#pragma unroll
          for (int n = 0; n < kHeadDim / 16; ++n) {
            u32 value[4];
            ptx::ldmatrix_x4_trans(value, Tile::move(values, k, n));
#pragma unroll
            for (int m = 0; m < kTilesPerWarp; ++m) {
              ptx::mma_m16n8k16<T>(sum[m][n * 2], p[m], value[0], value[1]);
              ptx::mma_m16n8k16<T>(sum[m][n * 2 + 1], p[m], value[2], value[3]);
            }
          }
        }
      }
    }

    // store: each warp through its own rows of the queries, which all of its lanes have read
    __syncwarp();
#pragma unroll
    for (int m = 0; m < kTilesPerWarp; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        weight[m][half] += __shfl_xor_sync(kFullWarp, weight[m][half], 1);
        weight[m][half] += __shfl_xor_sync(kFullWarp, weight[m][half], 2);
        const float share = 1.0f / weight[m][half];
        const int row = warp * kWarpRows + m * 16 + half * 8 + lane / 4;
#pragma unroll
        for (int n = 0; n < kHeadDim / 8; ++n) {
          u32* to = reinterpret_cast<u32*>(shared_memory() + Tile::offset(row, n)) + lane % 4;
          *to = pack2<T>(sum[m][n][half * 2] * share, sum[m][n][half * 2 + 1] * share);
        }
      }
    }
    __syncwarp();
    for (int pass = 0; pass < kWarpRows; pass += 32 / Tile::kSpan) {
      const int row = warp * kWarpRows + pass + lane / Tile::kSpan;
      if (work.first + row >= work.end) break;
      T* to = out + row_offset(work, kv_head, work.first + row);
      for (int chunk = lane % Tile::kSpan; chunk < Tile::kChunks; chunk += Tile::kSpan) {
        const uint4* from = reinterpret_cast<const uint4*>(shared_memory() + Tile::offset(row, chunk));
        *reinterpret_cast<uint4*>(to + chunk * 8) = *from;
      }
    }
  }
};

}  // namespace smelt
