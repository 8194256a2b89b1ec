// A run of seeded random values, the bits that the CPU makes: element i of the run is mean + std * z(seed, i), where z
// adds the four 16-bit quarters of splitmix64(seed + i * gamma), centred and scaled to unit variance.
//
//   out    a matrix of `rows` rows and `cols` columns. kOrder: 0 row-major, 1 tiled, 2 tiled with the rows of the two
//          halves taking turns (common/tiled.cuh); the padding of tiles is the caller's to zero
//   first  the row-major place of the run's first element in the matrix; elements: those of the run
//   Grid: any; each thread strides over the elements.
#pragma once
#include "common/body.cuh"
#include "common/tiled.cuh"

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

  __device__ __forceinline__ void tile(int tile) {
    for (u64 i = u64(tile) * kThreads + threadIdx.x; i < elements; i += u64(gridDim.x) * kThreads) {
      const u64 at = first + i;
      i64 row = at / cols;
      if (kOrder == 2) row = half_row_place(row, rows);
      out[kOrder == 0 ? i64(at) : tiled_at(row, at % cols, cols)] = from_float<T>(value(i));
    }
  }
};

}  // namespace smelt
