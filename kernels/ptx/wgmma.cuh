// Matrix products of one warpgroup (4 warps, the first a multiple of 4) from shared memory: PTX ISA, "wgmma".
//
// d[64][kCols] += a[64][16] * b[kCols][16]^T, or 32 along k for 8-bit elements. Both operands are K-major in atoms of
// 8 rows x 128 bytes (64 elements of k, or 128), the 16-byte chunk c of row r at chunk c ^ r, atoms of neighbouring
// rows one after the other, each at a multiple of 1024 bytes. Warp w, lane l = 4g + q holds of D, for each block j of
// 8 columns:
//   d[4j], d[4j + 1] = D[16w + g][8j + 2q, 8j + 2q + 1], d[4j + 2], d[4j + 3] = D[16w + g + 8][the same]
#pragma once
#include "common/types.cuh"

namespace smelt::ptx {

// The descriptor of an operand at this shared-memory address: 128-byte swizzle, 1024 bytes from 8 rows to the next 8.
// Sixteen elements of k further, or 32 of 8 bits, it is larger by `kWgmmaStep`.
__device__ __forceinline__ u64 wgmma_descriptor(u32 shared) {
  return u64((shared & 0x3ffff) >> 4) | u64(1) << 16 | u64(64) << 32 | u64(1) << 62;
}
constexpr u64 kWgmmaStep = 2;

// Before the first product, and after registers of d were written otherwise.
__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

__device__ __forceinline__ void wgmma_commit_group() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

// Waits until at most `kPending` groups are pending.
template <int kPending> __device__ __forceinline__ void wgmma_wait_group() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// Keeps reads of d after the preceding wait.
template <int kCount> __device__ __forceinline__ void wgmma_complete(float (&d)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(d[i])::"memory");
}
template <int kCount> __device__ __forceinline__ void wgmma_complete(int (&d)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+r"(d[i])::"memory");
}

// d = a * b (`add` false) or d += a * b. T is bf16 or f16; kCols 16, 32, 64, 128, 192 or 256.
template <class T, int kCols>
__device__ __forceinline__ void wgmma_m64k16(float (&d)[kCols / 2], u64 a, u64 b, bool add);

// The same over 32 elements of k: f8e4m3 to floats of some 14 bits, i8 to exact integers.
template <class T, int kCols, class D>
__device__ __forceinline__ void wgmma_m64k32(D (&d)[kCols / 2], u64 a, u64 b, bool add);

#define SMELT_WGMMA_8 "%0, %1, %2, %3, %4, %5, %6, %7"
#define SMELT_WGMMA_16 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
#define SMELT_WGMMA_32 SMELT_WGMMA_16 ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define SMELT_WGMMA_48 SMELT_WGMMA_32 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47"
#define SMELT_WGMMA_64 SMELT_WGMMA_48 ", %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define SMELT_WGMMA_80 SMELT_WGMMA_64 ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79"
#define SMELT_WGMMA_96 SMELT_WGMMA_80 ", %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define SMELT_WGMMA_112 SMELT_WGMMA_96 \
  ", %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111"
#define SMELT_WGMMA_128 SMELT_WGMMA_112 \
  ", %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define SMELT_D4(c, i) c(d[i]), c(d[i + 1]), c(d[i + 2]), c(d[i + 3])
#define SMELT_D8(c, i) SMELT_D4(c, i), SMELT_D4(c, i + 4)
#define SMELT_D16(c, i) SMELT_D8(c, i), SMELT_D8(c, i + 8)
#define SMELT_D32(c, i) SMELT_D16(c, i), SMELT_D16(c, i + 16)
#define SMELT_WGMMA(name, D, cols, instruction, more, registers, a_, b_, add_, ...) \
  template <> __device__ __forceinline__ void name(D (&d)[cols / 2], u64 a, u64 b, bool add) { \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " add_ ", 0;\n" \
                 "wgmma.mma_async.sync.aligned.m64n" #cols instruction " {" registers "}, " \
                 a_ ", " b_ ", p" more ";\n}" \
                 : __VA_ARGS__ \
                 : "l"(a), "l"(b), "r"(int(add))); \
  }
// The same with a from registers: a[0] and a[2] hold rows g, a[1] and a[3] rows g + 8 of the warp's 16, columns 2q and
// 2q + 1, in the latter two eight further. They stay as they are until the products are complete.
template <class T, int kCols>
__device__ __forceinline__ void wgmma_m64k16_of_registers(float (&d)[kCols / 2], const u32 (&a)[4], u64 b, bool add);

#define SMELT_WGMMA_A(name, cols, instruction, registers, a0, a1, a2, a3, b_, add_, ...) \
  template <> __device__ __forceinline__ void name(float (&d)[cols / 2], const u32 (&a)[4], u64 b, bool add) { \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " add_ ", 0;\n" \
                 "wgmma.mma_async.sync.aligned.m64n" #cols instruction " {" registers "}, {" \
                 a0 ", " a1 ", " a2 ", " a3 "}, " b_ ", p, 1, 1, 0;\n}" \
                 : __VA_ARGS__ \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(int(add))); \
  }
#define SMELT_WGMMA_A_ALL(name, c, instruction) \
  SMELT_WGMMA_A(name(16), 16, instruction, SMELT_WGMMA_8, "%8", "%9", "%10", "%11", "%12", "%13", SMELT_D8(c, 0)) \
  SMELT_WGMMA_A(name(32), 32, instruction, SMELT_WGMMA_16, "%16", "%17", "%18", "%19", "%20", "%21", SMELT_D16(c, 0)) \
  SMELT_WGMMA_A(name(64), 64, instruction, SMELT_WGMMA_32, "%32", "%33", "%34", "%35", "%36", "%37", SMELT_D32(c, 0)) \
  SMELT_WGMMA_A(name(128), 128, instruction, SMELT_WGMMA_64, "%64", "%65", "%66", "%67", "%68", "%69", \
                SMELT_D32(c, 0), SMELT_D32(c, 32)) \
  SMELT_WGMMA_A(name(192), 192, instruction, SMELT_WGMMA_96, "%96", "%97", "%98", "%99", "%100", "%101", \
                SMELT_D32(c, 0), SMELT_D32(c, 32), SMELT_D32(c, 64)) \
  SMELT_WGMMA_A(name(256), 256, instruction, SMELT_WGMMA_128, "%128", "%129", "%130", "%131", "%132", "%133", \
                SMELT_D32(c, 0), SMELT_D32(c, 32), SMELT_D32(c, 64), SMELT_D32(c, 96))
#define SMELT_F(x) "+f"(x)
#define SMELT_I(x) "+r"(x)
#define SMELT_WGMMA_ALL(name, D, c, instruction, more) \
  SMELT_WGMMA(name(16, D), D, 16, instruction, more, SMELT_WGMMA_8, "%8", "%9", "%10", SMELT_D8(c, 0)) \
  SMELT_WGMMA(name(32, D), D, 32, instruction, more, SMELT_WGMMA_16, "%16", "%17", "%18", SMELT_D16(c, 0)) \
  SMELT_WGMMA(name(64, D), D, 64, instruction, more, SMELT_WGMMA_32, "%32", "%33", "%34", SMELT_D32(c, 0)) \
  SMELT_WGMMA(name(128, D), D, 128, instruction, more, SMELT_WGMMA_64, "%64", "%65", "%66", SMELT_D32(c, 0), \
              SMELT_D32(c, 32)) \
  SMELT_WGMMA(name(192, D), D, 192, instruction, more, SMELT_WGMMA_96, "%96", "%97", "%98", SMELT_D32(c, 0), \
              SMELT_D32(c, 32), SMELT_D32(c, 64)) \
  SMELT_WGMMA(name(256, D), D, 256, instruction, more, SMELT_WGMMA_128, "%128", "%129", "%130", SMELT_D32(c, 0), \
              SMELT_D32(c, 32), SMELT_D32(c, 64), SMELT_D32(c, 96))
#define SMELT_BF16(cols, D) wgmma_m64k16<bf16, cols>
#define SMELT_F16(cols, D) wgmma_m64k16<f16, cols>
#define SMELT_F8(cols, D) wgmma_m64k32<f8e4m3, cols, D>
#define SMELT_I8(cols, D) wgmma_m64k32<i8, cols, D>
SMELT_WGMMA_ALL(SMELT_BF16, float, SMELT_F, "k16.f32.bf16.bf16", ", 1, 1, 0, 0")
SMELT_WGMMA_ALL(SMELT_F16, float, SMELT_F, "k16.f32.f16.f16", ", 1, 1, 0, 0")
#define SMELT_BF16_A(cols) wgmma_m64k16_of_registers<bf16, cols>
#define SMELT_F16_A(cols) wgmma_m64k16_of_registers<f16, cols>
SMELT_WGMMA_A_ALL(SMELT_BF16_A, SMELT_F, "k16.f32.bf16.bf16")
SMELT_WGMMA_A_ALL(SMELT_F16_A, SMELT_F, "k16.f32.f16.f16")
SMELT_WGMMA_ALL(SMELT_F8, float, SMELT_F, "k32.f32.e4m3.e4m3", ", 1, 1")
SMELT_WGMMA_ALL(SMELT_I8, int, SMELT_I, "k32.s32.s8.s8", "")
#undef SMELT_BF16_A
#undef SMELT_F16_A
#undef SMELT_WGMMA_A
#undef SMELT_WGMMA_A_ALL
#undef SMELT_BF16
#undef SMELT_F16
#undef SMELT_F8
#undef SMELT_I8
#undef SMELT_F
#undef SMELT_I
#undef SMELT_WGMMA_8
#undef SMELT_WGMMA_16
#undef SMELT_WGMMA_32
#undef SMELT_WGMMA_48
#undef SMELT_WGMMA_64
#undef SMELT_WGMMA_80
#undef SMELT_WGMMA_96
#undef SMELT_WGMMA_112
#undef SMELT_WGMMA_128
#undef SMELT_D4
#undef SMELT_D16
#undef SMELT_D32
#undef SMELT_WGMMA
#undef SMELT_WGMMA_ALL

}  // namespace smelt::ptx
