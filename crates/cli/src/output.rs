//! Results on stdout, and files that appear whole or not at all.

use std::io::Write;
use std::path::Path;

use serde::Serialize;
use smelt::Error;

use crate::failure::Failure;

/// Prints text to stdout.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(())
}

/// Prints a line to stderr. Where nobody reads there any more, the line is lost and the work goes on.
pub fn print_error(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Prints a value as JSON, and a newline.
pub fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(|error| Failure::bad_input(error.to_string()))?;
    print(&format!("{text}\n"))
}

/// Writes a file beside its place and renames it.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    smelt::plans::partial::write_file(path, bytes).map_err(|error| Error::Io { path: path.to_owned(), error }.into())
}

/// Whether a file can be at a path, before work is done for it.
pub fn check_place(path: &Path) -> Result<(), Failure> {
    let place = smelt::plans::partial::place(path);
    place.map(drop).map_err(|error| Error::Io { path: path.to_owned(), error }.into())
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
