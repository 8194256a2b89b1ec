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

/// Prints a line in which all control characters are the program's own: colours, where they are shown.
pub fn print_styled(line: &str) {
    let _ = writeln!(anstream::stderr(), "{line}");
}

/// Columns of the terminal that stderr is, at most as many as are read with ease.
fn columns() -> Option<usize> {
    let (width, _) = terminal_size::terminal_size_of(std::io::stderr())?;
    Some(usize::from(width.0).min(100))
}

/// Prints an error to stderr, as JSON if a program reads it, and returns its exit code.
pub fn print_failure(failure: Failure, json: bool) -> ExitCode {
    let code = failure.code();
    match json {
        _ if failure.is_closed_pipe() => {}
        true => print_json_error(&failure.shown().json()),
        false => print_styled(&failure.shown().rendered(columns())),
    }
    ExitCode::from(code)
}

fn print_json_error(error: &serde_json::Value) {
    // a value is always JSON
    let text = serde_json::to_string(error).unwrap_or_default();
    let _ = writeln!(std::io::stderr(), "{}", plain_json(&text));
}

/// Prints an error of the command line, or the requested help, and returns the exit code.
pub fn print_usage(error: &clap::Error, json: bool) -> ExitCode {
    let plain = error.render().to_string();
    if json && error.use_stderr() {
        let message = plain.split("\n\n").next().unwrap_or(&plain).trim_start_matches("error: ").trim();
        return print_failure(Failure::usage(message), json);
    }
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

/// A value as JSON, and a newline, as files and stdout get it. Lists of numbers have one line.
pub fn written_json(value: &impl Serialize) -> Result<String, Failure> {
    let text = serde_json::to_string_pretty(value).map_err(|error| Failure::bad_input(error.to_string()))?;
    Ok(format!("{}\n", plain_json(&with_short_lists(&text))))
}

/// Indented JSON, whose strings have no line feeds, with each list of numbers on a line.
fn with_short_lists(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut lines = text.lines().peekable();
    let is_number = |line: &str| line.starts_with(|c: char| c.is_ascii_digit() || c == '-');
    while let Some(line) = lines.next() {
        out.push_str(line);
        if line.ends_with('[') && lines.peek().is_some_and(|next| is_number(next.trim_start())) {
            let mut numbers = Vec::new();
            while let Some(number) = lines.next_if(|next| is_number(next.trim_start())) {
                numbers.push(number.trim_start());
            }
            out.push_str(&numbers.join(" "));
            // what else is in the list, or its end
            if let Some(end) = lines.next_if(|next| next.trim_start().starts_with(']')) {
                out.push_str(end.trim_start());
            }
        }
        if lines.peek().is_some() {
            out.push('\n');
        }
    }
    out
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
    fn lists_of_numbers_have_a_line() {
        let value = serde_json::json!({
            "a": [1, -2, 3.5], "b": [], "c": ["1,", "x["], "d": [[1, 2], [3]], "e": {"f": [null, 1, 2]}, "g": [1, "a", 2]
        });
        let text = with_short_lists(&serde_json::to_string_pretty(&value).unwrap());
        assert!(text.contains("\"a\": [1, -2, 3.5],\n") && text.contains("    [1, 2],\n    [3]\n"), "{text}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), value);
    }

    #[test]
    fn json_is_the_same_value_and_plain_text() {
        let value = serde_json::json!({ "name": "a\u{1b}\u{7f}\u{9b}2J\u{202e}\r\n\t\"é" });
        let text = plain_json(&serde_json::to_string_pretty(&value).unwrap());
        assert!(!text.contains(is_obeyed) && text.contains('é'), "{text}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), value);
    }
}
