//! Developer commands of smelt: `cargo xtask <command>`.

mod bench;
mod bundle;
mod ci;
mod docs;
mod mutate;
mod process;
mod replay;
mod sanitize;
mod snapshots;
mod summary;
mod test;
mod tidy;
mod tour;
mod tree;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

/// Developer commands of smelt.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Command {
    /// Fetch what the tests need and run them all, then `tidy`.
    Test {
        /// Arguments for `cargo test`, after `--`.
        #[arg(last = true)]
        args: Vec<String>,
    },
    /// Format every Rust file, also those that `cargo fmt` does not find: modules that a list declares.
    Fmt,
    /// Check the invariants of ARCHITECTURE.md.
    Tidy,
    /// Run the README's commands like a reader.
    Tour,
    /// Measure the CPU target, and keep the figures in bench/ and the book.
    Bench {
        /// Measures nothing: only rewrites the tables from the results in bench/.
        #[arg(long)]
        tables: bool,
        /// Measures the steps of a compilation for models of 10, 100 and 1000 layers instead.
        #[arg(long, conflicts_with = "tables")]
        passes: bool,
        /// Measures the perplexity of each format on the demo model instead.
        #[arg(long, conflicts_with_all = ["tables", "passes"])]
        accuracy: bool,
    },
    /// Write the reference from the program's declarations, and update the code in the book.
    Docs,
    /// Compile the test models with the compiler of another revision and with this one, and show differences.
    Replay {
        /// A revision of git, such as HEAD~1.
        revision: String,
        /// A file of `old → new`, one per line: names that the other revision has, and this one's. Prose is not compared.
        #[arg(long, value_name = "FILE")]
        renames: Option<PathBuf>,
    },
    /// Run the tests of `plan` and `runtime` under AddressSanitizer, and under Miri if it is installed.
    Sanitize,
    /// Pack the program and the GPU tests for a machine with a GPU and no Rust.
    Bundle,
    /// Damage inputs of every kind, and judge how the program behaves on each.
    Mutate(mutate::Options),
    /// Everything that must pass before a change lands: formatting, lints, `test`, `sanitize`, `mutate`, `tour`.
    Ci,
}

fn main() -> ExitCode {
    let command = Command::parse();
    let result = root().and_then(|root| match command {
        Command::Test { args } => test::run(&root, &args),
        Command::Fmt => ci::format(&root, false),
        Command::Tidy => tidy::run(&root),
        Command::Tour => tour::run(&root),
        Command::Bench { tables: true, .. } => bench::write_tables(&root),
        Command::Bench { passes: true, .. } => bench::passes::run(&root),
        Command::Bench { accuracy: true, .. } => bench::accuracy::run(&root),
        Command::Bench { .. } => bench::run(&root),
        Command::Docs => docs::write(&root),
        Command::Replay { revision, renames } => replay::run(&root, &revision, renames.as_deref()),
        Command::Sanitize => sanitize::run(&root),
        Command::Bundle => bundle::run(&root),
        Command::Mutate(options) => mutate::run(&root, &options),
        Command::Ci => ci::run(&root),
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The root of the workspace: the parent of this package's directory, which cargo passes to the programs it runs.
fn root() -> Result<PathBuf, String> {
    let package = std::env::var_os("CARGO_MANIFEST_DIR").ok_or("run this as `cargo xtask`")?;
    PathBuf::from(package).parent().map(PathBuf::from).ok_or_else(|| "this package has no folder above it".to_owned())
}
