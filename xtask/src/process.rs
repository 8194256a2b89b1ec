//! Starts other programs, and names the one that failed.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use crate::summary;

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

/// Prints the command, runs it with its output shown, and fails if it does, with what its output says about that.
pub fn run(command: &mut Command) -> Result<(), String> {
    let line = line(command);
    println!("+ {line}");
    run_as(&format!("`{line}`"), command)
}

/// The same under another name, which is not printed.
pub fn run_as(name: &str, command: &mut Command) -> Result<(), String> {
    let (status, output) = tee(command).map_err(|error| format!("{name} did not start: {error}"))?;
    summary::record_skips(&output);
    if status.success() { Ok(()) } else { Err(format!("{name} failed ({status})\n{}", summary::failures(&output))) }
}

/// Runs a command with its output shown, and returns that, with errors in their place.
fn tee(command: &mut Command) -> std::io::Result<(ExitStatus, String)> {
    let (mut reader, writer) = std::io::pipe()?;
    let mut child = command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer).spawn()?;
    // the command holds ends of the pipe, which would never be at its end
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let (mut output, mut part) = (Vec::new(), [0; 1 << 14]);
    loop {
        match reader.read(&mut part)? {
            0 => break,
            length => {
                output.extend_from_slice(&part[..length]);
                std::io::stdout().write_all(&part[..length])?;
                std::io::stdout().flush()?;
            }
        }
    }
    Ok((child.wait()?, String::from_utf8_lossy(&output).into_owned()))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_and_errors_are_kept_in_order() {
        let mut shell = Command::new("sh");
        shell.args(["-c", "echo one; echo two >&2; echo three; exit 3"]);
        let (status, output) = tee(&mut shell).unwrap();
        assert_eq!((status.code(), output.as_str()), (Some(3), "one\ntwo\nthree\n"));
        let error = run_as("a shell", &mut shell).unwrap_err();
        assert!(error.starts_with("a shell failed (") && error.ends_with(")\n  one\n  two\n  three\n"), "{error}");
    }
}
