//! Options of commands that load a model.

use std::path::Path;

use clap::Args;
use smelt::{Driver, Llm, LoadOptions, PlanCache, RunOptions};

use crate::args::{CacheArgs, CompileArgs, parse_threads};
use crate::environment::build_identity;
use crate::failure::Failure;
use crate::inputs::warn_of_options;
use crate::progress::Stderr;
use crate::repro::with_repro;

/// How a model is compiled, cached and run.
#[derive(Debug, Args)]
pub struct LoadArgs {
    /// Number of CPU threads [default: all].
    #[arg(long, value_name = "N", value_parser = parse_threads)]
    threads: Option<usize>,
    #[command(flatten)]
    cache: CacheArgs,
    #[command(flatten)]
    compile: CompileArgs,
}

impl LoadArgs {
    /// The driver with its kernel cache.
    pub fn driver(&self, driver: &Driver) -> Driver {
        self.cache.driver(driver)
    }

    /// The number of CPU threads, if it is set.
    pub fn threads(&self) -> Option<usize> {
        self.threads
    }

    /// The options for a model, with a cache of plans. Those that have no effect on a plan are warned of.
    pub fn options(&self, model: &Path) -> Result<LoadOptions, Failure> {
        let compile = self.compile.options()?;
        warn_of_options(model, &compile);
        Ok(LoadOptions {
            compile,
            cache: self.cache.folder().map(|folder| PlanCache::new(folder, build_identity())),
            run: RunOptions { threads: self.threads, blocking: false },
            ..LoadOptions::default()
        })
    }
}

/// Loads a plan or a checkpoint.
pub fn load(driver: &Driver, model: &Path, options: &LoadOptions, progress: &mut Stderr) -> Result<Llm, Failure> {
    Llm::load_with(driver, model, options, progress).map_err(|error| with_repro(error, None))
}
