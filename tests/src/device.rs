//! The GPU test requirements of this machine: NVRTC, and a device. Both may be missing, and tests that need them say
//! so.

use std::path::PathBuf;
use std::sync::LazyLock;

use codegen::cuda::{Compiler, find};
use runtime::CudaExecutor;

/// NVRTC, or why there is none. `SMELT_CUDA_HOME` is a directory that holds it or has it below `lib`.
pub fn compiler() -> Result<Compiler, String> {
    static FOUND: LazyLock<Result<Compiler, String>> = LazyLock::new(|| {
        let mut folders: Vec<PathBuf> = std::env::var_os("SMELT_CUDA_HOME").map(PathBuf::from).into_iter().collect();
        folders.push(PathBuf::from("/usr/local/cuda"));
        let cache = std::env::temp_dir().join("smelt-test-units");
        find(&folders).map(|nvrtc| Compiler::new(nvrtc, Some(cache)))
    });
    FOUND.clone().map_err(|reason| format!("no NVRTC: {reason}"))
}

/// A device that runs plans for `sm_90a`, or why there is none. Arenas are poisoned before each step.
pub fn executor() -> Result<CudaExecutor, String> {
    static FOUND: LazyLock<Result<CudaExecutor, String>> =
        LazyLock::new(|| CudaExecutor::new().map(CudaExecutor::poisoning).map_err(|error| error.to_string()));
    FOUND.clone()
}
