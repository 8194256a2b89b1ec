// How a kernel body becomes a kernel. A body is a struct whose members are the arguments of the launch, in order:
// outputs, inputs, tensor maps, scalars. It has four parts, of which `run` supplies two:
//
//   stream(tile)  prefetches bytes that no launch of the plan writes (weights); needs no results of others
//   wait          here: the launches before this one are complete and their writes visible (griddepcontrol.wait)
//   tile(tile)    the work on one tile: everything that reads activations or writes
//   signal        here: the next launch may become resident (griddepcontrol.launch_dependents)
//
// The signal is sent first: it lets the next grid start its `stream`, and its `wait` keeps it from more. A body with
// `static constexpr bool kAlone = true` sends none: the next grid starts when this one is done.
#pragma once
#include "common/types.cuh"
#include "ptx/griddep.cuh"

namespace smelt {

// The dynamic shared memory of the block, at a multiple of 1024 bytes.
__device__ __forceinline__ u8* shared_memory() {
  extern __shared__ __align__(1024) u8 smelt_shared[];
  return smelt_shared;
}

template <class Body> constexpr bool is_alone() {
  if constexpr (requires { Body::kAlone; }) return Body::kAlone;
  return false;
}

template <class Body> __device__ __forceinline__ void run(Body body) {
  body.stream(blockIdx.x);
  if constexpr (!is_alone<Body>()) ptx::griddepcontrol_launch_dependents();
  ptx::griddepcontrol_wait();
  body.tile(blockIdx.x);
}

}  // namespace smelt
