//! Starts other programs, and names the one that failed.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// `cargo` as it was called, in the root of the workspace.
pub fn cargo(root: &Path, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root).args(args);
    cargo
}

/// The program, with the features of the whole workspace, as built for the tests.
pub fn smelt(root: &Path) -> Result<PathBuf, String> {
    run(&mut cargo(root, ["build", "--quiet", "--workspace", "--bin", "smelt"]))?;
    Ok(root.join("target/debug/smelt"))
}

/// Prints the command, runs it with its output shown, and fails if it does.
pub fn run(command: &mut Command) -> Result<(), String> {
    let line = line(command);
    println!("+ {line}");
    let status = command.stdin(Stdio::null()).status().map_err(|error| format!("`{line}` did not start: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("`{line}` failed ({status})")) }
}

/// Whether a command exists and succeeds; its output is not shown.
pub fn works(command: &mut Command) -> bool {
    let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    quiet.status().is_ok_and(|status| status.success())
}

/// The command as one would type it, without the program's directory.
fn line(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    let words: Vec<_> = std::iter::once(program).chain(command.get_args()).map(OsStr::to_string_lossy).collect();
    words.join(" ")
}
