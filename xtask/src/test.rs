//! `cargo xtask test`: fetches what the tests need on a new machine and runs them all.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::{cargo, run as run_command, works};
use crate::{docs, snapshots, tidy};

/// The NVRTC that plans are compiled with: the release cudarc is built for.
const NVRTC: &str = "nvidia-cuda-nvrtc==13.0.*";
const NVRTC_LIBRARY: &str = "libnvrtc.so.13";

/// Runs `cargo test` with these arguments, or all tests of the workspace and its documentation, and checks that the
/// reference is not stale; then `tidy`.
pub fn run(root: &Path, args: &[String]) -> Result<(), String> {
    check_compiler()?;

    // With `--workspace`, cargo would ignore which packages were asked for.
    let chosen = args.iter().any(|arg| arg.starts_with("-p") || arg.starts_with("--package"));
    let mut command = cargo(root, ["test"]);
    command.args((!chosen).then_some("--workspace")).args(args);
    if let Some(home) = nvrtc_home(root) {
        println!("NVRTC: {}", home.display());
        command.env("SMELT_CUDA_HOME", home);
    }
    if env::var_os("CI").is_some() {
        command.env("INSTA_UPDATE", "no");
    }
    let references = snapshots::References::record(root, &mut command)?;
    run_command(&mut command)?;

    // A filtered run does not visit all snapshots.
    if args.is_empty() {
        references.reject_unused(root)?;
        docs::check(root)?;
    }
    tidy::run(root)
}

/// The tokenizer library builds C and C++ sources: report a missing compiler here, not in the middle of a build log.
fn check_compiler() -> Result<(), String> {
    let found = |variable: &str, usual: &str| {
        let compiler = env::var_os(variable).unwrap_or_else(|| usual.into());
        works(Command::new(&compiler).arg("--version")).then_some(()).ok_or_else(|| {
            format!("`{}` does not run: install a C and C++ compiler, or set {variable}", compiler.display())
        })
    };
    found("CC", "cc")?;
    found("CXX", "c++")
}

/// A directory with NVRTC below its `lib`: the caller's, or one that pip fills below `target/`. Without one, tests that
/// need it report that they are skipped.
pub fn nvrtc_home(root: &Path) -> Option<PathBuf> {
    if env::var_os("SMELT_SKIP_NVRTC").is_some() {
        println!("NVRTC: skipped, SMELT_SKIP_NVRTC is set");
        return None;
    }
    if let Some(home) = env::var_os("SMELT_CUDA_HOME") {
        return Some(home.into());
    }
    let folder = root.join("target/nvrtc");
    if let Some(home) = home_below(&folder) {
        return Some(home);
    }
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"]);
    // Without a network, fail fast.
    pip.args(["--retries", "1", "--timeout", "10"]);
    pip.arg("--target").arg(&folder).arg(NVRTC);
    let home = run_command(&mut pip).ok().and_then(|()| home_below(&folder));
    if home.is_none() {
        println!("NVRTC: skipped, python3 with pip could not fetch {NVRTC}; tests that compile CUDA C do not run");
    }
    home
}

/// The parent of the directory with NVRTC. Packages of NVIDIA differ in its depth.
fn home_below(folder: &Path) -> Option<PathBuf> {
    if folder.join("lib").join(NVRTC_LIBRARY).exists() {
        return Some(folder.to_owned());
    }
    let entries = folder.read_dir().ok()?.filter_map(Result::ok).map(|entry| entry.path());
    entries.filter(|path| path.is_dir()).find_map(|path| home_below(&path))
}
