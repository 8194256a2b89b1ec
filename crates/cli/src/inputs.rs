//! The inputs of commands: each is claimed before it is read, so that no output replaces it.

use std::path::{Path, PathBuf};

use smelt::plans::input::{self, DATA_BYTES, TEXT_BYTES};
use smelt::{CompileOptions, Error, PrecisionMap, Progress, Source};

use crate::failure::Failure;
use crate::output::{print_error, reads, reads_model};
use crate::progress::Stderr;

/// The model that a command reads. A directory that `smelt build` wrote stands for the plan in it.
pub fn plan_in(model: &Path) -> PathBuf {
    let plan = model.join("model.plan");
    let found = if plan.is_file() && !model.join("config.json").exists() { plan } else { model.to_owned() };
    reads_model(&found);
    found
}

/// Warns that compilation options have no effect on a compiled plan.
pub fn warn_of_options(model: &Path, options: &CompileOptions) {
    if model.is_file() && *options != CompileOptions::default() {
        let line = format!("warning: {} is already compiled: compilation options are ignored", model.display());
        print_error(&line);
    }
}

/// Opens a checkpoint, with progress on stderr.
pub fn open(dir: &Path, options: &CompileOptions, quiet: bool) -> Result<Source, Failure> {
    let mut progress = Stderr::new(quiet);
    progress.phase("reading checkpoint");
    let source = Source::open(dir, options);
    progress.finish();
    Ok(source?)
}

/// Reads a text, before anything is compiled.
pub fn read_text(path: &Path) -> Result<String, Failure> {
    reads(path);
    match input::read_text_or_pipe(path, DATA_BYTES) {
        Ok(text) if text.is_empty() => Err(Failure::bad_input(format!("{}: the file is empty", path.display()))),
        Ok(text) => Ok(text),
        Err(error) => Err(Error::Io { path: path.to_owned(), error }.into()),
    }
}

/// Reads a table of linear layers and their formats.
pub fn read_map(path: &Path) -> Result<PrecisionMap, Error> {
    reads(path);
    match input::read_text(path, TEXT_BYTES) {
        Ok(text) => Ok(PrecisionMap { path: path.to_owned(), text }),
        Err(error) => Err(Error::Io { path: path.to_owned(), error }),
    }
}
