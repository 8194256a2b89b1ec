//! `cargo xtask test`: fetches what the tests need on a new machine and runs them all.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::{cargo, run as run_command, works};
use crate::{docs, snapshots, summary, tidy};

/// The NVRTC that plans are compiled with: the release cudarc is built for.
const NVRTC: &str = "nvidia-cuda-nvrtc==13.0.*";
const NVRTC_LIBRARY: &str = "libnvrtc.so.13";

/// Runs `cargo test` with these arguments, or all tests of the workspace and its documentation, and checks that the
/// reference is not stale; then `tidy`, whether or not the tests pass.
pub fn run(root: &Path, args: &[String]) -> Result<(), String> {
    check_compiler()?;

    // With `--workspace`, cargo would ignore which packages were asked for.
    let chosen = args.iter().any(|arg| arg.starts_with("-p") || arg.starts_with("--package"));
    let mut command = cargo(root, ["test", "--no-fail-fast"]);
    command.args((!chosen).then_some("--workspace")).args(args);
    if let Some(home) = nvrtc_home(root)? {
        println!("NVRTC: {}", home.display());
        command.env("SMELT_CUDA_HOME", home);
    }
    if env::var_os("CI").is_some() {
        command.env("INSTA_UPDATE", "no");
    }
    let references = snapshots::References::record(root, &mut command)?;
    let tests = run_command(&mut command);
    summary::print_skips();
    // A filtered run does not visit all snapshots.
    let visited = tests.is_ok() && args.is_empty();
    let rest = if visited { references.reject_unused(root).and_then(|()| docs::check(root)) } else { Ok(()) };
    let errors: Vec<String> = [tests, rest, tidy::run(root)].into_iter().filter_map(Result::err).collect();
    if errors.is_empty() { Ok(()) } else { Err(errors.join("\n")) }
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
/// need it report that they are skipped; with `SMELT_REQUIRE_NVRTC` that is an error.
pub fn nvrtc_home(root: &Path) -> Result<Option<PathBuf>, String> {
    if let Some(home) = env::var_os("SMELT_CUDA_HOME") {
        return Ok(Some(home.into()));
    }
    let folder = root.join("target/nvrtc");
    let found = match (env::var_os("SMELT_SKIP_NVRTC"), home_below(&folder)) {
        (Some(_), _) => Err("SMELT_SKIP_NVRTC is set".to_owned()),
        (None, Some(home)) => Ok(home),
        (None, None) => fetch_nvrtc(&folder),
    };
    match found {
        Ok(home) => Ok(Some(home)),
        Err(reason) if env::var_os("SMELT_REQUIRE_NVRTC").is_some() => {
            Err(format!("NVRTC is required (SMELT_REQUIRE_NVRTC), and {reason}"))
        }
        Err(reason) => {
            println!("NVRTC: {reason}; tests that compile CUDA C are skipped");
            Ok(None)
        }
    }
}

fn fetch_nvrtc(folder: &Path) -> Result<PathBuf, String> {
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"]);
    // Without a network, fail fast.
    pip.args(["--retries", "1", "--timeout", "10"]);
    pip.arg("--target").arg(folder).arg(NVRTC);
    run_command(&mut pip).map_err(|error| format!("{NVRTC} could not be fetched: {error}"))?;
    home_below(folder).ok_or_else(|| format!("{NVRTC} holds no {NVRTC_LIBRARY}"))
}

/// The parent of the directory with NVRTC. Packages of NVIDIA differ in its depth.
fn home_below(folder: &Path) -> Option<PathBuf> {
    if folder.join("lib").join(NVRTC_LIBRARY).exists() {
        return Some(folder.to_owned());
    }
    let entries = folder.read_dir().ok()?.filter_map(Result::ok).map(|entry| entry.path());
    entries.filter(|path| path.is_dir()).find_map(|path| home_below(&path))
}
