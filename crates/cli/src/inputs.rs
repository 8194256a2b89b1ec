//! The inputs of commands: each is claimed before it is read, so that no output replaces it.

use std::io::Read;
use std::path::Path;

use smelt::plans::input::{self, DATA_BYTES, TEXT_BYTES};
use smelt::{CompileOptions, Error, PrecisionMap, Progress, Source};

use crate::failure::Failure;
use crate::output::{print_error, reads};
use crate::progress::Stderr;

/// Longest prompt on stdin in bytes.
const PROMPT_BYTES: u64 = 64 << 20;

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

/// Reads the text of an option, before anything is compiled.
pub fn read_text(option: &str, path: &Path) -> Result<String, Failure> {
    reads(path);
    match input::read_text_or_pipe(path, DATA_BYTES) {
        Ok(text) if text.is_empty() => Err(Failure::bad_input(format!("{}: the file is empty", path.display()))),
        Ok(text) => Ok(text),
        Err(error) => Err(not_read(option, path, error).into()),
    }
}

/// Why the file of an option was not read.
pub fn not_read(option: &str, path: &Path, error: std::io::Error) -> Error {
    Error::Io { path: format!("{option} {}", path.display()).into(), error }
}

/// Reads a prompt from a file, or from stdin (`-`). Editors and `echo` end a text with a line feed, which is not part of it.
pub fn read_prompt(path: &Path) -> Result<String, Failure> {
    let (name, text) = match path.to_str() {
        Some("-") => ("stdin".to_owned(), read_stdin()?),
        _ => (path.display().to_string(), read_text("--prompt-file", path)?),
    };
    let text = text.strip_suffix('\n').map_or(&text[..], |text| text.strip_suffix('\r').unwrap_or(text));
    match text.is_empty() {
        true => Err(Failure::bad_input(format!("{name}: the prompt is empty"))),
        false => Ok(text.to_owned()),
    }
}

fn read_stdin() -> Result<String, Failure> {
    let wrong = |reason: &str| Failure::bad_input(format!("stdin: {reason}"));
    let mut bytes = Vec::new();
    let read = std::io::stdin().lock().take(PROMPT_BYTES + 1).read_to_end(&mut bytes);
    read.map_err(|error| wrong(&error.to_string()))?;
    if bytes.len() as u64 > PROMPT_BYTES {
        return Err(wrong(&format!("a prompt has at most {} MiB", PROMPT_BYTES >> 20)));
    }
    String::from_utf8(bytes).map_err(|_| wrong("the prompt is not UTF-8"))
}

/// Reads a table of linear layers and their formats.
pub fn read_map(path: &Path) -> Result<PrecisionMap, Error> {
    reads(path);
    match input::read_text(path, TEXT_BYTES) {
        Ok(text) => Ok(PrecisionMap { path: path.to_owned(), text }),
        Err(error) => Err(not_read("--precision-map", path, error)),
    }
}
