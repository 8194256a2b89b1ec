// Element types and 16-byte vectors, without any header of the CUDA toolkit. Arithmetic is in float: bf16 and f16 are
// storage types. `to_float` is exact, `from_float` rounds to nearest even.
#pragma once
#include "ptx/convert.cuh"

namespace smelt {

using u8 = unsigned char;
using u16 = unsigned short;
using u32 = unsigned int;
using u64 = unsigned long long;
using i64 = long long;

using f32 = float;
using i32 = int;
struct bf16 { u16 bits; };
struct f16 { u16 bits; };
// Quantized values. Conversions are in common/widen.cuh.
using i8 = signed char;
struct f8e4m3 { u8 bits; };
struct i4 { u8 bits; };

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(bf16 x) { return __uint_as_float(u32(x.bits) << 16); }
__device__ __forceinline__ float to_float(f16 x) { return ptx::cvt_f32_f16(x.bits); }

template <class T> __device__ __forceinline__ T from_float(float x);
template <> __device__ __forceinline__ float from_float<float>(float x) { return x; }
template <> __device__ __forceinline__ bf16 from_float<bf16>(float x) { return {ptx::cvt_rn_bf16_f32(x)}; }
template <> __device__ __forceinline__ f16 from_float<f16>(float x) { return {ptx::cvt_rn_f16_f32(x)}; }

// Two floats as one word of a 16-bit type, `low` in the lower half.
template <class T> __device__ __forceinline__ u32 pack2(float low, float high);
template <> __device__ __forceinline__ u32 pack2<bf16>(float low, float high) {
  return ptx::cvt_rn_bf16x2_f32(high, low);
}
template <> __device__ __forceinline__ u32 pack2<f16>(float low, float high) {
  return ptx::cvt_rn_f16x2_f32(high, low);
}

// `kCount` elements that are loaded and stored together. Aligned to its size: 16 bytes are one transaction of a thread.
template <class T, int kCount> struct alignas(sizeof(T) * kCount) Vec {
  T at[kCount];
  __device__ __forceinline__ T& operator[](int i) { return at[i]; }
  __device__ __forceinline__ const T& operator[](int i) const { return at[i]; }
};

// The largest vector of at most 16 bytes whose size divides `kCols`.
template <class T, int kCols> constexpr int vector_width() {
  int width = 16 / sizeof(T);
  while (kCols % width != 0) width /= 2;
  return width;
}

// A if kFirst, otherwise B.
template <bool kFirst, class A, class B> struct Either { using Type = A; };
template <class A, class B> struct Either<false, A, B> { using Type = B; };

constexpr __device__ __forceinline__ int ceil_div(int a, int b) { return (a + b - 1) / b; }
constexpr __device__ __forceinline__ int round_up(int a, int b) { return ceil_div(a, b) * b; }

}  // namespace smelt
