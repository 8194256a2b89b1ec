// A run of seeded random values, with the same bits as on the CPU: element i of the run is mean + std * z(seed, i),
// where z adds the four 16-bit quarters of splitmix64(seed + i * gamma), centred and scaled to unit variance.
//
//   out    a matrix of `rows` rows and `cols` columns. kOrder: 0 row-major, 1 tiled, 2 tiled with the rows of the two
//          halves interleaved (common/tiled.cuh), 3 two 4-bit values per byte. Tiles come filled with their padding:
//          zeros, which are bytes of 0x88 for 4-bit values
//   first  the row-major index of the run's first element in the matrix; elements: their number. Both are even
//          if two share a byte
//   Grid: any; each thread strides over the elements.
#pragma once
#include "common/body.cuh"
#include "common/tiled.cuh"
#include "common/widen.cuh"

namespace smelt {

template <class T, int kOrder> struct FillRandom {
  static constexpr int kThreads = 256;

  T* out;
  u64 seed;
  float mean;
  float std;
  u64 first;
  u64 elements;
  u64 rows;
  u64 cols;

  __device__ __forceinline__ void stream(int) {}

  __device__ __forceinline__ float value(u64 index) const {
    u64 bits = seed + index * 0x9e3779b97f4a7c15ull;
    bits = (bits ^ (bits >> 30)) * 0xbf58476d1ce4e5b9ull;
    bits = (bits ^ (bits >> 27)) * 0x94d049bb133111ebull;
    bits ^= bits >> 31;
    const int sum = int(bits & 0xffff) + int((bits >> 16) & 0xffff) + int((bits >> 32) & 0xffff) + int(bits >> 48);
    // each step rounded, as the CPU does: nothing may be contracted to a fused multiply-add
    const float z = __fmul_rn(__int2float_rn(sum - 2 * 65535), 1.0f / 37837.227f);
    return __fadd_rn(mean, __fmul_rn(std, z));
  }

  // The 4-bit value of an element.
  __device__ __forceinline__ u32 bits(u64 i) const { return from_float<i4>(value(i)).bits & 0xf; }

  __device__ __forceinline__ void store(u64 i) {
    const u64 at = first + i, col = at % cols;
    i64 row = at / cols;
    if (kOrder == 2) row = half_row_place(row, rows);
    if constexpr (kOrder == 0) {
      out[at] = from_float<T>(value(i));
    } else if constexpr (kUnitCols<T> == kUnitCols<i4>) {
      // neighbours share a word that holds zeros, each as 8: adding 8 to a value flips its upper bit
      atomicXor(reinterpret_cast<u32*>(out) + tiled_word(row, col, cols), bits(i) << tiled_shift(col));
    } else {
      out[tiled_at<T>(row, col, cols)] = from_float<T>(value(i));
    }
  }

  __device__ __forceinline__ void tile(int tile) {
    constexpr int kStep = kOrder == 3 ? 2 : 1;
    const u64 stride = u64(gridDim.x) * kThreads * kStep;
    for (u64 i = (u64(tile) * kThreads + threadIdx.x) * kStep; i < elements; i += stride) {
      if constexpr (kOrder == 3) {
        out[(first + i) / 2].bits = u8(bits(i) | bits(i + 1) << 4);
      } else {
        store(i);
      }
    }
  }
};

}  // namespace smelt
