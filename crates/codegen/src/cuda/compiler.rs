//! Compiles units to cubins, in parallel, each only once per machine.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use rayon::prelude::*;

use super::cache::{self, Artifact};
use super::diagnostics::{self, Usage};
use super::nvrtc::{self, Nvrtc};

/// Options of every unit. Registers and spills come with the log; line information costs nothing at run time and lets
/// profilers and sanitizers point into `kernels/`.
const OPTIONS: [&str; 6] = [
    "--gpu-architecture=sm_90a",
    "--std=c++20",
    "-default-device",
    "--generate-line-info",
    "--ptxas-options=-v",
    "--no-cache",
];

/// NVRTC, with a cache.
#[derive(Clone, Debug)]
pub struct Compiler {
    nvrtc: Nvrtc,
    cache: Option<PathBuf>,
    /// Everything that this compiler has compiled: plans are lowered again if a unit turns out to be slow.
    made: Arc<Mutex<HashMap<String, Built>>>,
}

/// A compiled unit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Built {
    /// Machine code.
    pub cubin: Vec<u8>,
    /// PTX, as text.
    pub ptx: String,
    /// Its resource usage.
    pub usage: Usage,
    /// Why it is slower than it should be, by the compiler's log. Another kernel may be faster.
    pub slow: Option<String>,
}

impl Compiler {
    /// A compiler with a cache directory, or without.
    pub fn new(nvrtc: Nvrtc, cache: Option<PathBuf>) -> Compiler {
        Compiler { nvrtc, cache, made: Arc::default() }
    }

    /// The version of NVRTC, such as (13, 0).
    pub fn version(&self) -> (i32, i32) {
        self.nvrtc.version
    }

    /// Compiles the code of all kernels. Kernels without code give an empty result. A unit that does not compile is a
    /// bug of its kernel, or of its instantiation: returns the logs of all of them.
    pub fn compile_all(&self, kernels: &[plan::Kernel]) -> Result<Vec<Built>, Vec<String>> {
        let build = |kernel: &plan::Kernel| match &kernel.code {
            Some(code) => self.compile(&kernel.name, &code.source),
            None => Ok(Built::default()),
        };
        let results: Vec<Result<Built, String>> = kernels.par_iter().map(build).collect();
        let problems: Vec<String> = results.iter().filter_map(|result| result.as_ref().err()).cloned().collect();
        match problems.is_empty() {
            true => Ok(results.into_iter().flatten().collect()),
            false => Err(problems),
        }
    }

    /// Compiles a unit without includes, whose entry has this name.
    pub fn compile(&self, name: &str, source: &str) -> Result<Built, String> {
        let key = cache::key(&[source, &OPTIONS.join(" "), &self.nvrtc.identity()]);
        if let Some(built) = self.made.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Ok(built.clone());
        }
        let cached = self.cache.as_ref().and_then(|folder| cache::load(folder, &key));
        let artifact = match cached {
            Some(artifact) => artifact,
            None => {
                let made = nvrtc::compile(&self.nvrtc, &format!("{name}.cu"), source, &OPTIONS)
                    .map_err(|log| format!("kernel `{name}` does not compile:\n{log}"))?;
                if let Some(folder) = &self.cache {
                    // errors of writing the cache are ignored
                    let _ = cache::store(folder, &key, &made);
                }
                made
            }
        };
        let Artifact { cubin, ptx, log } = artifact;
        let (usage, slow) = (diagnostics::usage(&log), diagnostics::slow(&log));
        let built = Built { cubin, ptx, usage, slow };
        self.made.lock().unwrap_or_else(PoisonError::into_inner).insert(key, built.clone());
        Ok(built)
    }
}
