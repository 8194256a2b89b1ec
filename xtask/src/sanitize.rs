//! `cargo xtask sanitize`: the tests of `plan` and `runtime`, which contain `unsafe`, under AddressSanitizer; and under
//! Miri what it can run, if it is installed. If one cannot run, that is printed.

use std::path::Path;
use std::process::Command;

use crate::process::{cargo, run as run_command, works};
use crate::summary;

/// The only target that these tests have been run on; the compiler has its library there.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Runs both.
pub fn run(root: &Path) -> Result<(), String> {
    // one after the other: either alone says where to look
    address_sanitizer(root)?;
    miri(root)
}

fn address_sanitizer(root: &Path) -> Result<(), String> {
    if !cfg!(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu")) {
        summary::skip("AddressSanitizer", &format!("memory accesses are checked only on {TARGET}"));
        return Ok(());
    }
    let mut command = cargo(root, ["test", "--package", "plan", "--package", "runtime", "--lib"]);
    // its own directory, since every dependency is built with the sanitizer, too; its own target, so that build scripts
    // are not
    command.args(["--target", TARGET, "--target-dir", "target/sanitize"]);
    // the tests are small: optimizing them takes longer than running them
    for profile in ["dev", "dev.package.\"*\"", "dev.package.runtime"] {
        command.arg("--config").arg(format!("profile.{profile}.opt-level=0"));
    }
    // a stable compiler accepts the flag with this variable
    command.env("RUSTC_BOOTSTRAP", "1").env("RUSTFLAGS", "-Zsanitizer=address").env_remove("CARGO_ENCODED_RUSTFLAGS");
    // threads of a pool outlive the tests
    command.env("ASAN_OPTIONS", "detect_leaks=0");
    run_command(&mut command)
}

fn miri(root: &Path) -> Result<(), String> {
    let miri = |command: &[&str]| {
        let mut miri = Command::new("cargo");
        miri.current_dir(root).arg("+nightly").arg("miri").args(command).env_remove("RUSTUP_TOOLCHAIN");
        miri
    };
    if !works(&mut miri(&["--version"])) || !works(&mut miri(&["setup"])) {
        summary::skip("Miri", "it is not installed (`rustup +nightly component add miri rust-src`)");
        return Ok(());
    }
    let mut command =
        miri(&["test", "--package", "runtime", "--lib", "--target-dir", "target/miri", "--", "cpu::edges"]);
    run_command(&mut command)
}
