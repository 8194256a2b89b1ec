//! `cargo xtask ci`: formatting, lints, tests (also under AddressSanitizer), damaged inputs and the README's tour. All
//! of them run, so that one push shows everything that is wrong; the last lines repeat what was skipped and what failed.

use std::path::Path;
use std::time::Instant;

use crate::process::{cargo, run as run_command, works};
use crate::tree::Tree;
use crate::{mutate, sanitize, summary, test, tour};

type Step = fn(&Path) -> Result<(), String>;

/// Runs the steps and fails if one of them did.
pub fn run(root: &Path) -> Result<(), String> {
    // Cheap ones first.
    let steps: [(&str, Step); 7] = [
        ("fmt", |root| format(root, true)),
        ("clippy", clippy),
        ("deny", deny),
        ("test", |root| test::run(root, &[])),
        ("sanitize", sanitize::run),
        ("mutate", mutate::in_ci),
        ("tour", tour::run),
    ];

    let mut failures = Vec::new();
    for (name, step) in steps {
        println!("== {name}");
        let start = Instant::now();
        if let Err(error) = step(root) {
            println!("error: {error}");
            failures.push((name, error));
        }
        println!("== {name} took {} s", start.elapsed().as_secs());
    }
    summary::print_skips();
    if failures.is_empty() {
        return Ok(());
    }
    for (name, error) in &failures {
        println!("== {name} failed: {}", error.trim_end());
    }
    Err(format!("failed: {}", failures.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")))
}

/// Formats every Rust file, or fails if `check` finds one that is not. By their names: rustfmt does not look for modules
/// in lists such as `ops!`.
pub fn format(root: &Path, check: bool) -> Result<(), String> {
    if !works(&mut cargo(root, ["fmt", "--version"])) {
        summary::skip("fmt", "no rustfmt here (`rustup component add rustfmt`)");
        return Ok(());
    }
    let tree = Tree::read(root)?;
    let files = tree.with_extension("rs").map(|file| file.path.as_str());
    let options = ["fmt", "--all", "--"].into_iter().chain(check.then_some("--check"));
    match works(&mut cargo(root, options.chain(files))) {
        true => Ok(()),
        false if check => Err("some files are not formatted: run `cargo xtask fmt`".to_owned()),
        false => Err("`cargo fmt` failed".to_owned()),
    }
}

fn clippy(root: &Path) -> Result<(), String> {
    if !works(&mut cargo(root, ["clippy", "--version"])) {
        summary::skip("clippy", "no clippy here (`rustup component add clippy`)");
        return Ok(());
    }
    run_command(&mut cargo(root, ["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))
}

/// Licences, advisories and duplicates of all dependencies, by deny.toml. `tidy` checks the licences in any case.
fn deny(root: &Path) -> Result<(), String> {
    if !works(&mut cargo(root, ["deny", "--version"])) {
        summary::skip("deny", "no cargo-deny here for advisories and duplicates (`cargo install cargo-deny`)");
        return Ok(());
    }
    // advisories are fetched from the network: without it, the rest is still checked
    let offline = !works(&mut cargo(root, ["deny", "fetch", "db"]));
    if offline {
        summary::skip("advisories", "their database cannot be fetched");
    }
    let which: &[&str] = if offline { &["bans", "licenses", "sources"] } else { &[] };
    run_command(&mut cargo(root, [&["deny", "--locked", "check"], which].concat()))
}
