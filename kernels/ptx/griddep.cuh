// Programmatic dependent launch: PTX ISA, "griddepcontrol".
#pragma once

namespace smelt::ptx {

// Waits until all grids that this one depends on have completed and their writes are visible.
__device__ __forceinline__ void griddepcontrol_wait() { asm volatile("griddepcontrol.wait;" ::: "memory"); }

// Lets the dependent grid start, once all blocks have called this or ended.
__device__ __forceinline__ void griddepcontrol_launch_dependents() {
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
}

}  // namespace smelt::ptx
