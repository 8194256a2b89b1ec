//! What tests need that a machine may lack: NVRTC, and a device. Without it they are skipped, and say so; with
//! `SMELT_REQUIRE_NVRTC` or `SMELT_REQUIRE_GPU` they fail.

use std::path::PathBuf;
use std::sync::LazyLock;

use codegen::cuda::{Compiler, find};
use runtime::CudaExecutor;
use smelt::Driver;

use crate::skip;

/// Where NVRTC is looked for: in `SMELT_CUDA_HOME` and below its `lib`, then where CUDA is usually installed.
pub fn cuda_folders() -> Vec<PathBuf> {
    std::env::var_os("SMELT_CUDA_HOME").map(PathBuf::from).into_iter().chain(["/usr/local/cuda".into()]).collect()
}

/// Units that other runs of tests have compiled.
pub fn unit_cache() -> PathBuf {
    std::env::temp_dir().join("smelt-test-units")
}

/// NVRTC, or why there is none.
///
/// # Panics
/// If there is none and `SMELT_REQUIRE_NVRTC` is set.
pub fn compiler() -> Result<Compiler, String> {
    static FOUND: LazyLock<Result<Compiler, String>> =
        LazyLock::new(|| find(&cuda_folders()).map(|nvrtc| Compiler::new(nvrtc, Some(unit_cache()))));
    unless_required(FOUND.clone().map_err(|reason| format!("no NVRTC: {reason}")), "SMELT_REQUIRE_NVRTC")
}

/// NVRTC, or `None` and a skip of the running test.
pub fn compiler_or_skip() -> Option<Compiler> {
    compiler().map_err(|reason| skip(&reason)).ok()
}

/// A driver that finds the tests' NVRTC, or `None` and a skip of the running test.
pub fn with_nvrtc(driver: Driver) -> Option<Driver> {
    compiler_or_skip().map(|_| driver.cuda_folders(cuda_folders))
}

/// A device that runs plans for `sm_90a`, or why there is none. Arenas are poisoned before each step.
///
/// # Panics
/// If there is none and `SMELT_REQUIRE_GPU` is set.
pub fn executor() -> Result<CudaExecutor, String> {
    static FOUND: LazyLock<Result<CudaExecutor, String>> =
        LazyLock::new(|| CudaExecutor::new().map(CudaExecutor::poisoning).map_err(|error| error.to_string()));
    unless_required(FOUND.clone(), "SMELT_REQUIRE_GPU")
}

/// Whether there are a device and NVRTC, or why not.
pub fn available() -> Result<(), String> {
    executor()?;
    compiler().map(drop)
}

fn unless_required<T>(found: Result<T, String>, variable: &str) -> Result<T, String> {
    if let Err(reason) = &found {
        assert!(std::env::var_os(variable).is_none(), "{reason} ({variable} is set)");
    }
    found
}
