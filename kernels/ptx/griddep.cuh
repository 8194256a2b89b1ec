// Programmatic dependent launch: PTX ISA, "griddepcontrol".
#pragma once

namespace smelt::ptx {

// Waits until all grids that this one depends on have completed and their writes are visible.
__device__ __forceinline__ void griddepcontrol_wait() { asm volatile("griddepcontrol.wait;" ::: "memory"); }

// Lets the grid that depends on this one start, once all blocks have said so or ended.
__device__ __forceinline__ void griddepcontrol_launch_dependents() {
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
}

}  // namespace smelt::ptx
