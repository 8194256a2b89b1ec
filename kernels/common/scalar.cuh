// Scalar functions, in float. Formulas name them; their definition is `crates/plan/src/scalar.rs`.
#pragma once
#include "common/silu.cuh"

namespace smelt::scalar {

__device__ __forceinline__ float add(float a, float b) { return a + b; }
__device__ __forceinline__ float mul(float a, float b) { return a * b; }
__device__ __forceinline__ float silu(float x) { return smelt::silu(x); }
__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }
__device__ __forceinline__ float tanh(float x) { return tanhf(x); }
__device__ __forceinline__ float relu(float x) { return fmaxf(x, 0.0f); }
__device__ __forceinline__ float gelu(float x) { return 0.5f * x * erfcf(-x * 0.70710678f); }
__device__ __forceinline__ float gelu_tanh(float x) {
  return x / (1.0f + expf(-2.0f * 0.7978846f * (x + 0.044715f * x * x * x)));
}
__device__ __forceinline__ float softcap(float x, float cap) { return cap * tanhf(x / cap); }
__device__ __forceinline__ float clamp(float x, float low, float high) { return fminf(fmaxf(x, low), high); }

}  // namespace smelt::scalar
