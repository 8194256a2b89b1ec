// What the attention kernels share: walks over the paged KV cache (common/cache.cuh), and tiles of rows in shared
// memory.
#pragma once
#include "common/cache.cuh"
#include "ptx/load.cuh"
#include "ptx/mma.cuh"

namespace smelt {

constexpr float kLog2E = 1.4426950408889634f;

__device__ __forceinline__ float minus_infinity() { return __int_as_float(0xff800000); }

// Elements of the pool before the keys of a (block, head). The values follow 64 * head_dim elements behind the keys.
template <int kKvHeads, int kHeadDim> __device__ __forceinline__ i64 keys_offset(int block, int kv_head) {
  return (i64(block) * kKvHeads + kv_head) * (2 * kBlockTokens * kHeadDim);
}

// Walks the entries of a block table in order: a warp holds 32, and the next 32 are on their way.
struct BlockWalk {
  const int* entries = nullptr;
  int count = 0;
  int at = 0;
  int held = 0;
  int ahead = 0;

  __device__ __forceinline__ int entry(int i) const { return i < count ? entries[i] : 0; }

  BlockWalk() = default;

  __device__ __forceinline__ BlockWalk(const int* table, int blocks) : entries(table), count(blocks) {
    held = entry(threadIdx.x % 32);
    ahead = entry(32 + threadIdx.x % 32);
  }

  // The next entry. All lanes of the warp must call it.
  __device__ __forceinline__ int next() {
    if (at == 32) {
      entries += 32, count -= 32, at = 0;
      held = ahead;
      ahead = entry(32 + threadIdx.x % 32);
    }
    return __shfl_sync(kFullWarp, held, at++);
  }
};

// Rows of kHeadDim 16-bit elements in shared memory, in chunks of 16 bytes. The chunks of a row are permuted by XOR
// with a key of the row such that the same chunk of 8 rows, as ldmatrix reads it, lies in all 32 banks. The permutation
// stays within kSpan chunks, the largest power of two (at most 8) that divides the chunks of a row.
template <int kHeadDim> struct Rows {
  static_assert(kHeadDim % 16 == 0 && kHeadDim >= 16 && kHeadDim <= 256, "tensor cores take head_dim in steps of 16");
  static constexpr int kChunks = kHeadDim / 8;
  static constexpr int kBytes = kHeadDim * 2;
  static constexpr int kSpan = kChunks % 8 == 0 ? 8 : kChunks % 4 == 0 ? 4 : 2;

  // Bytes from the first row to a chunk. The first row lies at a multiple of 128 bytes.
  static __device__ __forceinline__ u32 offset(u32 row, u32 chunk) {
    const u32 key = row / (8 / kSpan) % kSpan;
    return row * kBytes + (chunk ^ key) * 16;
  }

  // Copies kCount contiguous rows with kThreads threads, of which this is `thread`; rows behind row `last` become zero.
  // kSpan threads copy the chunks of a row, so that all copies of a thread lie at constant distances.
  template <int kCount, int kThreads, class T>
  static __device__ __forceinline__ void copy(u32 to, const T* from, int last, u32 thread) {
    constexpr int kPass = kThreads / kSpan;  // rows
    static_assert(sizeof(T) == 2 && kCount % kPass == 0 && (kPass % 8 == 0 || (kSpan == 8 && kPass == 4)));
    const u32 row = thread / kSpan, chunk = thread % kSpan;
    from += row * kHeadDim + chunk * 8;
    to += offset(row, chunk);
#pragma unroll
    for (int down = 0; down < kCount; down += kPass) {
      const u32 pass = to ^ (down % 8 * 16);  // the key of row + down
#pragma unroll
      for (int right = 0; right < kChunks; right += kSpan) {
        const T* chunks = from + (down * kHeadDim + right * 8);
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

}  // namespace smelt
