// The loop of linear/skinny.cuh over four layouts of the weights, to compare them; kN % (16 kStrips) == 0 and
// kK % 64 == 0. kContiguous: a warp's units are neighbours instead of one in kWarps. Layouts:
//   0 row-major
//   1 tiled, as the product reads it: 64 bytes of each of 8 rows in a load
//   2 fragments: the unit is four blocks of 512 bytes, in lane order
//   3 tiled, whole 128-byte lines of 4 rows in a load, for twice the MMAs
#pragma once
#include "common/body.cuh"
#include "ptx/load.cuh"
#include "ptx/mma.cuh"

namespace smelt {

template <class T, int kN, int kK, int kRows, int kWarps, int kStrips, int kDepth, int kLayout, bool kContiguous>
struct SkinnyLayouts {
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kUnits = kK / 64;
  static constexpr int kTurns = ceil_div(kUnits, kWarps);
  static constexpr int kHeld = kDepth < kTurns ? kDepth : kTurns;
  static constexpr bool kWhole = kUnits % (kWarps * kHeld) == 0;
  static constexpr int kHalves = kLayout == 3 ? 2 : 1;
  static constexpr int kCols = 16 * kStrips;
  static constexpr int kPitch = kCols + 4;
  static constexpr int kSharedBytes = kWarps * kRows * kPitch * 4;
  static_assert(kN % kCols == 0 && kK % 64 == 0);

  using Weights = uint4[kStrips][4];
  using Chunks = uint4[2][kRows / 8];

  T* y;
  const T* x;
  const T* w;
  int rows;

  int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, q = threadIdx.x % 4;
  const u8* base;
  int lane[2];
  Weights held[kHeld];
  Chunks chunks[2];
  float sums[kHalves][kHalves][kStrips][kRows / 8][4];

  __device__ __forceinline__ int unit(int turn) { return kContiguous ? warp * kTurns + turn : turn * kWarps + warp; }
  __device__ __forceinline__ bool has(int turn) { return turn < kTurns && unit(turn) < kUnits; }

  __device__ __forceinline__ void load(Weights& to, int turn) {
    constexpr int kUnitBytes = kLayout == 0 ? 128 : 2048;
    const u8* at[2] = {base + i64(unit(turn)) * kUnitBytes + lane[0], base + i64(unit(turn)) * kUnitBytes + lane[1]};
#pragma unroll
    for (int s = 0; s < kStrips; ++s)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int h = i / 2, part = i % 2;
        const i64 offset = i64(s) * 32 * kK + (kLayout == 0   ? i64(part) * 16 * kK
                                               : kLayout == 2 ? 512 * i
                                               : kLayout == 3 ? 1024 * part + 512 * h
                                                              : 1024 * part);
        to[s][i] = ptx::ld_global_stream(at[h] + offset);
      }
  }

  __device__ __forceinline__ void read(Chunks& chunk, int turn) {
#pragma unroll
    for (int h = 0; h < 2; ++h)
#pragma unroll
      for (int n = 0; n < kRows / 8; ++n) {
        const int row = 8 * n + g, k = 64 * unit(turn) + 8 * (4 * h + q);
        chunk[h][n] = {0, 0, 0, 0};
        if (row < rows && k < kK) chunk[h][n] = *reinterpret_cast<const uint4*>(x + (row * kK + k));
      }
  }

  __device__ __forceinline__ void multiply(const Weights& unit, const Chunks& chunk) {
#pragma unroll
    for (int h = 0; h < 2; ++h)
#pragma unroll
      for (int n = 0; n < kRows / 8; ++n)
#pragma unroll
        for (int s = 0; s < kStrips; ++s) {
          const uint4 low = unit[s][2 * h], high = unit[s][2 * h + 1];
          if constexpr (kLayout == 2) {
            ptx::mma_m16n8k16<T>(sums[0][0][s][n], {low.x, low.y, low.z, low.w}, chunk[h][n].x, chunk[h][n].y);
            ptx::mma_m16n8k16<T>(sums[0][0][s][n], {high.x, high.y, high.z, high.w}, chunk[h][n].z, chunk[h][n].w);
          } else {
#pragma unroll
            for (int b = 0; b < kHalves; ++b) {
              const uint4 c = chunk[kLayout == 3 ? b : h][n];
              float(&d)[4] = sums[kLayout == 3 ? h : 0][b][s][n];
              ptx::mma_m16n8k16<T>(d, {low.x, high.x, low.y, high.y}, c.x, c.y);
              ptx::mma_m16n8k16<T>(d, {low.z, high.z, low.w, high.w}, c.z, c.w);
            }
          }
        }
  }

  __device__ __forceinline__ void stream(int tile) {
    base = reinterpret_cast<const u8*>(w) + i64(tile) * kStrips * 32 * kK;
#pragma unroll
    for (int h = 0; h < 2; ++h)
      lane[h] = kLayout == 0   ? g * 2 * kK + 64 * h + 16 * q
                : kLayout == 1 ? g * 128 + (((4 * h + q) ^ g) << 4)
                : kLayout == 2 ? threadIdx.x % 32 * 16
                               : (g & 3) * 128 + (((q + 4 * (g >> 2)) ^ (4 * h + (g & 3))) << 4);
#pragma unroll
    for (int i = 0; i < kHeld; ++i)
      if (kWhole || has(i)) load(held[i], i);
  }

  template <bool kMore> __device__ __forceinline__ void round(int first) {
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
      if (kWhole || has(first + i)) multiply(held[i], chunks[0]);
#pragma unroll
      for (int h = 0; h < 2; ++h)
#pragma unroll
        for (int n = 0; n < kRows / 8; ++n) chunks[0][h][n] = chunks[1][h][n];
      read(chunks[1], first + i + 2);
      if (kMore && (kWhole || has(first + i + kHeld))) load(held[i], first + i + kHeld);
    }
  }

  __device__ __forceinline__ void tile(int tile) {
    read(chunks[0], 0);
    read(chunks[1], 1);
#pragma unroll
    for (int i = 0; i < kHalves * kHalves * kStrips * kRows / 2; ++i) (&sums[0][0][0][0][0])[i] = 0.0f;
#pragma unroll 1
    for (int first = 0; first + kHeld < kTurns; first += kHeld) round<true>(first);
    round<false>((kTurns - 1) / kHeld * kHeld);

    float* partial = reinterpret_cast<float*>(shared_memory());
#pragma unroll
    for (int s = 0; s < kStrips; ++s)
#pragma unroll
      for (int n = 0; n < kRows / 8; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          float sum = sums[0][0][s][n][i];
          if constexpr (kLayout == 3) {
            // Row 4h + g % 4: its first 32 k are with the lanes of g < 4, the others with those of g >= 4.
            float half[2];
#pragma unroll
            for (int h = 0; h < 2; ++h) {
              half[h] = g < 4 ? sums[h][0][s][n][i] : sums[h][1][s][n][i];
              half[h] += __shfl_xor_sync(0xffffffff, half[h], 16);
            }
            sum = g < 4 ? half[0] : half[1];
          }
          partial[(warp * kRows + 8 * n + 2 * q + i % 2) * kPitch + 16 * s + g + 8 * (i / 2)] = sum;
        }
    __syncthreads();
#pragma unroll 1
    for (int i = threadIdx.x; i < rows * kCols; i += kThreads) {
      float sum = 0.0f;
#pragma unroll
      for (int part = 0; part < kWarps; ++part) sum += partial[(part * kRows + i / kCols) * kPitch + i % kCols];
      y[i64(i / kCols) * kN + tile * kCols + i % kCols] = from_float<T>(sum);
    }
  }
};

}  // namespace smelt
