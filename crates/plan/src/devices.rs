//! Constants of devices that code generation, the check of plans and executors share.

/// The GPU of `sm_90a`: an H100 or H200. `kernels/common/limits.cuh` has what kernels need of them.
pub mod sm90 {
    /// Multiprocessors.
    pub const MULTIPROCESSORS: u32 = 132;
    /// Maximum shared memory of a block, in bytes (CUDA C++ Programming Guide, compute capability 9.0).
    pub const SHARED_BYTES: u32 = 227 << 10;
    /// Tokens per KV block of attention kernels. `kernels/common/cache.cuh` has the same number.
    pub const KV_BLOCK_TOKENS: u32 = 64;
}

/// A CPU.
pub mod cpu {
    /// Rows per task of a kernel that works row by row.
    pub const ROWS_PER_TASK: u64 = 8;
}
