//! Results on stdout, words to the user on stderr, and files that appear whole or not at all.
//!
//! All text leaves the program here. Names in it may be a stranger's: what a terminal would obey is spelled out, and in
//! JSON escaped. Only what a model writes goes to files and pipes as it is.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use smelt::plans::claims;
use smelt::plans::terminal::{is_obeyed, shown};
use smelt::{Error, checkpoint_files};

use crate::failure::Failure;

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

/// Prints what a model writes.
pub fn print_generated(text: &str) -> Result<(), Failure> {
    if std::io::stdout().is_terminal() { print(text) } else { write(text) }
}

/// Prints a line to stderr. Where nobody reads there any more, the line is lost and the work goes on.
pub fn print_error(line: &str) {
    print_styled(&shown(line));
}

/// Prints a line in which everything that a terminal obeys is the program's own.
pub fn print_styled(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Prints a value as JSON, and a newline.
pub fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    write(&written_json(value)?)
}

/// A value as JSON, and a newline, as files and stdout get it.
pub fn written_json(value: &impl Serialize) -> Result<String, Failure> {
    let text = serde_json::to_string_pretty(value).map_err(|error| Failure::bad_input(error.to_string()))?;
    Ok(format!("{}\n", plain_json(&text)))
}

/// JSON with what a terminal would obey escaped: it can be in strings alone.
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

/// Names a file that the command reads: nothing that it writes may take its place.
pub fn reads(path: &Path) {
    claims::input(path);
}

/// Names a checkpoint that the command reads, or a plan.
pub fn reads_model(path: &Path) {
    checkpoint_files(path).iter().for_each(|file| claims::input(file));
}

/// Names a calibration that the command reads, with the file of activations beside it.
pub fn reads_calibration(path: &Path) {
    claims::input(path);
    claims::input(&smelt::activations_path(path));
}

/// Writes a file beside its place and renames it.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    smelt::plans::partial::write_file(path, bytes).map_err(|error| Error::Io { path: path.to_owned(), error }.into())
}

/// Names a file that the command will write, before work is done for it: an error where it cannot be there, or is one that
/// the command reads or writes as something else. Inputs are named first.
pub fn check_place(path: &Path) -> Result<(), Failure> {
    let place = smelt::plans::partial::place(path).and_then(|_| claims::output(path));
    place.map_err(|error| Error::Io { path: path.to_owned(), error }.into())
}

/// Looks for the files of a folder that the command will write, by their names: none may be one that it reads, or one of
/// its other outputs.
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
            let reason = "is the name of one of the texts, too: expected another, or another --dump-dir";
            Err(Failure::usage(format!("{}: {reason}", output.display())))
        }
        None => Ok(()),
    }
}

/// Makes a folder and those above it.
pub fn make_folder(path: &Path) -> Result<(), Failure> {
    std::fs::create_dir_all(path).map_err(|error| Error::Io { path: path.to_owned(), error }.into())
}

/// Bytes as people read them.
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
