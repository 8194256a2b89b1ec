//! Units to cubins, in parallel, each only once on a machine.

use std::path::PathBuf;

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

/// NVRTC, with a cache of what it made.
#[derive(Clone, Debug)]
pub struct Compiler {
    nvrtc: Nvrtc,
    cache: Option<PathBuf>,
}

/// What became of a unit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Built {
    /// Machine code.
    pub cubin: Vec<u8>,
    /// PTX, as text.
    pub ptx: String,
    /// What it takes of a multiprocessor.
    pub usage: Usage,
}

/// Why a unit is not used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UnitError {
    /// It does not compile: a bug of the kernel, or of what instantiated it.
    Broken(String),
    /// It compiles to something slower than it should be. Another kernel may do better.
    Slow {
        /// The unit.
        source: String,
        /// What the compiler noted.
        reason: String,
    },
}

impl Compiler {
    /// A compiler that keeps what it makes in a folder, or nowhere.
    pub fn new(nvrtc: Nvrtc, cache: Option<PathBuf>) -> Compiler {
        Compiler { nvrtc, cache }
    }

    /// Compiles the code of all kernels. Kernels without code give an empty result. Returns all problems.
    pub fn compile_all(&self, kernels: &[plan::Kernel]) -> Result<Vec<Built>, Vec<UnitError>> {
        let build = |kernel: &plan::Kernel| match &kernel.code {
            Some(code) => self.compile(&kernel.name, &code.source),
            None => Ok(Built::default()),
        };
        let results: Vec<Result<Built, UnitError>> = kernels.par_iter().map(build).collect();
        let problems: Vec<UnitError> = results.iter().filter_map(|result| result.as_ref().err()).cloned().collect();
        match problems.is_empty() {
            true => Ok(results.into_iter().flatten().collect()),
            false => Err(problems),
        }
    }

    /// Compiles a unit without includes, whose entry has this name.
    pub fn compile(&self, name: &str, source: &str) -> Result<Built, UnitError> {
        let key = cache::key(&[source, &OPTIONS.join(" "), &self.nvrtc.identity()]);
        let cached = self.cache.as_ref().and_then(|folder| cache::load(folder, &key));
        let artifact = match cached {
            Some(artifact) => artifact,
            None => {
                let made = nvrtc::compile(&format!("{name}.cu"), source, &OPTIONS)
                    .map_err(|log| UnitError::Broken(format!("kernel `{name}` does not compile:\n{log}")))?;
                if let Some(folder) = &self.cache {
                    // a cache that cannot be written is as good as none
                    let _ = cache::store(folder, &key, &made);
                }
                made
            }
        };
        let Artifact { cubin, ptx, log } = artifact;
        let slow = |reason| UnitError::Slow { source: source.to_owned(), reason };
        let usage = diagnostics::read(&log).map_err(slow)?;
        Ok(Built { cubin, ptx, usage })
    }
}
