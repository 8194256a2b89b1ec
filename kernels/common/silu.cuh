// The sigmoid linear unit.
#pragma once

namespace smelt {

__device__ __forceinline__ float silu(float x) { return x / (1.0f + expf(-x)); }

}  // namespace smelt
