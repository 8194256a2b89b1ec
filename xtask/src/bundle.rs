//! `cargo xtask bundle`: everything that a machine with an NVIDIA driver and CUDA 13, but no Rust, needs to run the GPU
//! tests, as one archive.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::{cargo, run as run_command};

/// Maximum size of the archive: it is copied to borrowed machines.
const LIMIT: u64 = 32 << 20;
const FOLDER: &str = ".bundle/smelt-gpu";
const ARCHIVE: &str = ".bundle/smelt-gpu.tar.gz";

/// The script that runs them, at the top of the archive.
const SCRIPTS: &str = "xtask/bundle";

/// Directories of the repository that the tests read.
const DATA: [&str; 6] = ["tests/cases", "tests/oracle", "tests/quantized", "models/demo", "bench/configs", SCRIPTS];

/// Builds the program and the GPU tests, strips them, and packs them with their data.
pub fn run(root: &Path) -> Result<(), String> {
    let folder = root.join(FOLDER);
    if folder.exists() {
        std::fs::remove_dir_all(&folder).map_err(|error| format!("{FOLDER}: {error}"))?;
    }
    std::fs::create_dir_all(&folder).map_err(|error| format!("{FOLDER}: {error}"))?;
    run_command(&mut cargo(root, ["build", "--release", "--package", "cli"]))?;
    let tests = test_executable(root)?;
    let program = root.join("target/release/smelt");
    for (file, name) in [(program, "smelt"), (tests, "gpu-tests")] {
        let place = folder.join(name);
        run_command(Command::new("strip").arg("--strip-all").arg("-o").arg(&place).arg(&file))?;
    }
    for path in DATA {
        let place = if path == SCRIPTS { folder.clone() } else { folder.join(path) };
        copy(&root.join(path), &place)?;
    }
    let archive = root.join(ARCHIVE);
    // names, owners and times are independent of the machine
    let options = ["--sort=name", "--owner=0", "--group=0", "--numeric-owner", "--mtime=@0", "-czf"];
    let tar =
        Command::new("tar").args(options).arg(&archive).arg("-C").arg(root.join(".bundle")).arg("smelt-gpu").status();
    if !tar.is_ok_and(|status| status.success()) {
        return Err("`tar` failed".to_owned());
    }
    let bytes = std::fs::metadata(&archive).map_err(|error| format!("{ARCHIVE}: {error}"))?.len();
    println!("{ARCHIVE}: {:.1} MB; unpack it and run smelt-gpu/run.sh", bytes as f64 / 1e6);
    if bytes > LIMIT { Err(format!("{ARCHIVE} has {bytes} bytes, expected at most {LIMIT}")) } else { Ok(()) }
}

/// Builds the GPU tests and asks cargo for their path.
fn test_executable(root: &Path) -> Result<PathBuf, String> {
    let mut build = cargo(root, ["test", "--release", "--package", "tests", "--test", "gpu", "--no-run"]);
    let output = build.arg("--message-format=json-render-diagnostics").stderr(std::process::Stdio::inherit()).output();
    let output = output.map_err(|error| format!("`cargo test --no-run` did not start: {error}"))?;
    let executable = String::from_utf8_lossy(&output.stdout).lines().find_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let is_test = message["target"]["name"] == "gpu" && message["profile"]["test"] == true;
        message["executable"].as_str().filter(|_| is_test).map(PathBuf::from)
    });
    executable.ok_or_else(|| "cargo built no test executable `gpu`".to_owned())
}

fn copy(from: &Path, to: &Path) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("{}: {error}", from.display());
    if from.is_file() {
        std::fs::create_dir_all(to.parent().unwrap_or(to)).map_err(failed)?;
        return std::fs::copy(from, to).map(|_| ()).map_err(failed);
    }
    for entry in std::fs::read_dir(from).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        copy(&entry.path(), &to.join(entry.file_name()))?;
    }
    Ok(())
}
