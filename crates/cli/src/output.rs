//! Results on stdout, messages on stderr, and atomic file writes.
//!
//! All text leaves the program here. Names in it may come from a stranger: control characters are spelled out, and
//! escaped in JSON. Only a model's output goes to files and pipes unchanged.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde::Serialize;
use smelt::plans::terminal::{is_obeyed, shown};
use smelt::plans::{claims, clipped};
use smelt::{Error, checkpoint_files};

use crate::failure::{Failure, MAX_BYTES};

fn write(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(())
}

/// Prints text to stdout.
pub fn print(text: &str) -> Result<(), Failure> {
    write(&shown(text))
}

/// Prints a model's output.
pub fn print_generated(text: &str) -> Result<(), Failure> {
    if std::io::stdout().is_terminal() { print(text) } else { write(text) }
}

/// Prints a line to stderr. If the pipe is closed, the line is lost and the work goes on.
pub fn print_error(line: &str) {
    print_styled(&shown(line));
}

/// Prints a line in which all control characters are the program's own.
pub fn print_styled(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Prints an error and returns its exit code.
pub fn print_failure(failure: Failure) -> ExitCode {
    let code = failure.code();
    if !failure.is_closed_pipe() {
        print_styled(&format!("{:?}", miette::Report::new(failure.shown())));
    }
    ExitCode::from(code)
}

/// Prints an error of the command line, or the requested help, and returns the exit code.
pub fn print_usage(error: &clap::Error) -> ExitCode {
    let plain = error.render().to_string();
    match plain.contains(is_obeyed) || plain.len() > MAX_BYTES {
        true => print_styled(&clipped(shown(&plain), MAX_BYTES)),
        // with its styles; lost if the pipe is closed
        false => drop(error.print()),
    }
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}

/// Prints a value as JSON, and a newline.
pub fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    write(&written_json(value)?)
}

/// Prints a value as JSON on one line.
pub fn print_line(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string(value).map_err(|error| Failure::bad_input(error.to_string()))?;
    write(&format!("{}\n", plain_json(&text)))
}

/// A value as JSON, and a newline, as files and stdout get it.
pub fn written_json(value: &impl Serialize) -> Result<String, Failure> {
    let text = serde_json::to_string_pretty(value).map_err(|error| Failure::bad_input(error.to_string()))?;
    Ok(format!("{}\n", plain_json(&text)))
}

/// JSON with control characters escaped: they can only be in strings.
fn plain_json(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for c in text.chars() {
        match is_obeyed(c) {
            true => plain.push_str(&format!("\\u{:04x}", u32::from(c))),
            false => plain.push(c),
        }
    }
    plain
}

/// Claims a file that the command reads: no output may replace it.
pub fn reads(path: &Path) {
    claims::input(path);
}

/// Claims a checkpoint or plan that the command reads.
pub fn reads_model(path: &Path) {
    checkpoint_files(path).iter().for_each(|file| claims::input(file));
}

/// Claims a calibration that the command reads, and its activations file.
pub fn reads_calibration(path: &Path) {
    claims::input(path);
    claims::input(&smelt::activations_path(path));
}

/// Writes a file under a temporary name and renames it.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    smelt::plans::partial::write_file(path, bytes).map_err(|error| Error::Io { path: path.to_owned(), error }.into())
}

/// Claims a file that the command will write, before any work is done: an error if it cannot be written, or if the
/// command reads it or writes it as something else. Inputs are claimed first.
pub fn check_place(path: &Path) -> Result<(), Failure> {
    let place = smelt::plans::partial::place(path).and_then(|_| claims::output(path));
    place.map_err(|error| Error::Io { path: path.to_owned(), error }.into())
}

/// Checks the files that the command will write to a directory, by name: none may be an input or another output.
pub fn check_folder(folder: &Path, outputs: &[PathBuf], writes: impl Fn(&str) -> bool) -> Result<(), Failure> {
    let written = |path: &Path| path.file_name().and_then(|name| name.to_str()).is_some_and(&writes);
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten().filter(|entry| written(&entry.path())) {
        let place = smelt::plans::partial::place(&entry.path());
        place.map_err(|error| Error::Io { path: entry.path(), error })?;
    }
    let real = |path: &Path| path.canonicalize().ok();
    let is_there = |output: &&PathBuf| {
        real(folder).is_some_and(|folder| real(smelt::plans::partial::folder_of(output)) == Some(folder))
    };
    match outputs.iter().filter(is_there).find(|output| written(output)) {
        Some(output) => {
            let reason = "is also the name of an --emit text: expected another name, or another --dump-dir";
            Err(Failure::usage(format!("{}: {reason}", output.display())))
        }
        None => Ok(()),
    }
}

/// Creates a directory and its parents.
pub fn make_folder(path: &Path) -> Result<(), Failure> {
    std::fs::create_dir_all(path).map_err(|error| Error::Io { path: path.to_owned(), error }.into())
}

/// Bytes, human-readable.
pub fn bytes(count: u64) -> String {
    let units = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.into_iter().find(|(unit, _)| count >= *unit) {
        Some((unit, name)) => format!("{:.2} {name}", count as f64 / unit as f64),
        None => format!("{count} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_the_same_value_and_plain_text() {
        let value = serde_json::json!({ "name": "a\u{1b}\u{7f}\u{9b}2J\u{202e}\r\n\t\"é" });
        let text = plain_json(&serde_json::to_string_pretty(&value).unwrap());
        assert!(!text.contains(is_obeyed) && text.contains('é'), "{text}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), value);
    }
}
