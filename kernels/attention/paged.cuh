// Shared by the attention kernels: walks over the paged KV cache (common/cache.cuh), and tiles of rows in shared
// memory.
#pragma once
#include "common/cache.cuh"
#include "ptx/load.cuh"
#include "ptx/mma.cuh"

namespace smelt {

constexpr float kLog2E = 1.4426950408889634f;

__device__ __forceinline__ float minus_infinity() { return __int_as_float(0xff800000); }

// Elements of the pool before the keys of a (block, head). The values follow 64 * head_dim elements after the keys.
template <int kKvHeads, int kHeadDim> __device__ __forceinline__ i64 keys_offset(int block, int kv_head) {
  return (i64(block) * kKvHeads + kv_head) * (2 * kBlockTokens * kHeadDim);
}

// Walks the entries of a block table in order: a warp holds 32, and the next 32 are prefetched.
struct BlockWalk {
  const int* entries = nullptr;
  int count = 0;
  int at = 0;
  int window = 0;
  int ahead = 0;

  __device__ __forceinline__ int entry(int i) const { return i < count ? entries[i] : 0; }

  BlockWalk() = default;

  __device__ __forceinline__ BlockWalk(const int* table, int blocks) : entries(table), count(blocks) {
    window = entry(threadIdx.x % 32);
    ahead = entry(32 + threadIdx.x % 32);
  }

  // The next entry. All lanes of the warp must call it.
  __device__ __forceinline__ int next() {
    if (at == 32) {
      entries += 32, count -= 32, at = 0;
      window = ahead;
      ahead = entry(32 + threadIdx.x % 32);
    }
    return __shfl_sync(kFullWarp, window, at++);
  }
};

// Rows of kHeadDim elements of T in shared memory, in chunks of 16 bytes. The chunks of a row are permuted by XOR with
// a key of the row such that the same chunk of 8 rows, as ldmatrix reads it, covers all 32 banks. The permutation stays
// within kSpan chunks, the largest power of two (at most 8) that divides the chunks of a row. T is a 16-bit float, or
// an 8-bit quantized value, of which only the size matters.
template <class T, int kHeadDim> struct Rows {
  static_assert(kHeadDim % 16 == 0 && kHeadDim >= 16 && kHeadDim <= 256, "tensor cores take head_dim in steps of 16");
  static constexpr int kPerChunk = 16 / sizeof(T);
  static constexpr int kChunks = kHeadDim / kPerChunk;
  static constexpr int kBytes = kHeadDim * sizeof(T);
  static constexpr int kSpan = kChunks % 8 == 0 ? 8 : kChunks % 4 == 0 ? 4 : kChunks % 2 == 0 ? 2 : 1;

  // Bytes from the first row to a chunk. The first row is at a multiple of 128 bytes.
  static __device__ __forceinline__ u32 offset(u32 row, u32 chunk) {
    const u32 key = row / (8 / kSpan) % kSpan;
    return row * kBytes + (chunk ^ key) * 16;
  }

  // Copies kCount contiguous rows with kThreads threads, of which this is `thread`; rows after row `last` become zero.
  // kSpan threads copy the chunks of a row, so that all copies of a thread are at constant distances.
  template <int kCount, int kThreads>
  static __device__ __forceinline__ void copy(u32 to, const T* from, int last, u32 thread) {
    constexpr int kPass = kThreads / kSpan < kCount ? kThreads / kSpan : kCount;  // rows
    static_assert(kCount % kPass == 0 && (kPass % 8 == 0 || (kSpan == 8 && kPass == 4)));
    const u32 row = thread / kSpan, chunk = thread % kSpan;
    if (kPass * kSpan < kThreads && row >= kPass) return;
    from += row * kHeadDim + chunk * kPerChunk;
    to += offset(row, chunk);
#pragma unroll
    for (int down = 0; down < kCount; down += kPass) {
      const u32 pass = to ^ (down % 8 * 16);  // the key of row + down
#pragma unroll
      for (int right = 0; right < kChunks; right += kSpan) {
        const T* chunks = from + (down * kHeadDim + right * kPerChunk);
        ptx::cp_async_16(pass + down * kBytes + right * 16, chunks, int(row) + down <= last);
      }
    }
  }

  // Where this lane points ldmatrix_x4 for the first 16x16 tile of the rows at `address`, a multiple of 128: the
  // matrices top left, top right, bottom left, bottom right. Untransposed and with rows as tokens, these are the
  // fragments (b0, b1) of tokens 0..7 and then of 8..15.
  static __device__ __forceinline__ u32 by_rows(u32 address) {
    const u32 lane = threadIdx.x % 32;
    return address + offset(lane % 8 + lane / 16 * 8, lane / 8 % 2);
  }

  // The same, matrices top left, bottom left, top right, bottom right: untransposed the fragment a0..a3 of 16 rows,
  // transposed and with rows as tokens the fragments (b0, b1) of columns 0..7 and then of 8..15.
  static __device__ __forceinline__ u32 by_columns(u32 address) {
    const u32 lane = threadIdx.x % 32;
    return address + offset(lane % 16, lane / 16);
  }

  // From there to the tile `down` tiles below and `right` tiles to the right. Keys repeat every 8 rows.
  static __device__ __forceinline__ u32 move(u32 address, int down, int right) {
    constexpr int kSpanBytes = kSpan * 16;
    const int bytes = right * 32;
    return (address ^ (bytes % kSpanBytes)) + (bytes / kSpanBytes * kSpanBytes + down * 16 * kBytes);
  }
};

// A warp's operands from 16 tokens x 16 columns of the cache, of KV, as pairs of T. `begin` is the start of its rows;
// tile `n` is columns 16n..16n + 15. Of keys, b[0], b[1] are the fragment of tokens 0..7 and b[2], b[3] of 8..15, whose
// halves are columns `pair(0)` and `pair(1)` of the tile and their neighbours. Of values, b[0], b[1] and b[2], b[3] are
// fragments of 8 columns each; column 2q + j of fragment `half`, as lane q holds it, is column `column(half, j)` of the
// tile.
template <class T, class KV, int kHeadDim> struct CacheTiles;

template <class T, int kHeadDim> struct CacheTiles<T, T, kHeadDim> {
  using Tile = Rows<T, kHeadDim>;
  u32 key_rows, value_rows;

  __device__ __forceinline__ CacheTiles(u32 keys, u32 values)
      : key_rows(Tile::by_rows(keys)), value_rows(Tile::by_columns(values)) {}

  __device__ __forceinline__ void keys(u32 (&b)[4], int n) const { ptx::ldmatrix_x4(b, Tile::move(key_rows, 0, n)); }
  __device__ __forceinline__ void values(u32 (&b)[4], int n) const {
    ptx::ldmatrix_x4_trans(b, Tile::move(value_rows, 0, n));
  }

  static __device__ __forceinline__ int pair(int half) { return half * 8 + threadIdx.x % 4 * 2; }
  static __device__ __forceinline__ int column(int half, int j) { return half * 8 + threadIdx.x % 4 * 2 + j; }
};

// 8-bit values: the matrices that ldmatrix reads are 8 tokens x 16 columns, and a lane has four neighbours of a token,
// or transposed two of each of two tokens. So a lane has pairs of other columns than with 16-bit elements.
template <class T, class KV, int kHeadDim> struct CacheTiles {
  static_assert(sizeof(KV) == 1, "8-bit values");
  using Tile = Rows<KV, kHeadDim>;
  u32 key_row, value_row;  // of this lane
  u32 permutation;         // of the chunks of its row

  __device__ __forceinline__ CacheTiles(u32 keys, u32 values) {
    const u32 row = threadIdx.x % 16, first = Tile::offset(row, 0), start = row * Tile::kBytes;
    key_row = keys + start, value_row = values + start, permutation = (first - start) / 16;
  }

  __device__ __forceinline__ u32 chunk(int n) const { return (n ^ permutation) * 16; }

  __device__ __forceinline__ void keys(u32 (&b)[4], int n) const {
    u32 quantized[2], pairs[2];
    ptx::ldmatrix_x2(quantized, key_row + chunk(n));
#pragma unroll
    for (int tokens = 0; tokens < 2; ++tokens) {
      Widen<KV, T>::pairs(pairs, quantized[tokens]);
      b[tokens * 2] = pairs[0], b[tokens * 2 + 1] = pairs[1];
    }
  }

  __device__ __forceinline__ void values(u32 (&b)[4], int n) const {
    u32 quantized[2], pairs[2];
    ptx::ldmatrix_x2_trans(quantized, value_row + chunk(n));
#pragma unroll
    for (int tokens = 0; tokens < 2; ++tokens) {
      Widen<KV, T>::pairs(pairs, __byte_perm(quantized[tokens], 0, 0x3120));  // both tokens of a column
      b[tokens] = pairs[0], b[2 + tokens] = pairs[1];
    }
  }

  static __device__ __forceinline__ int pair(int half) { return threadIdx.x % 4 * 4 + half * 2; }
  static __device__ __forceinline__ int column(int half, int j) { return threadIdx.x % 4 * 4 + j * 2 + half; }
};

}  // namespace smelt
