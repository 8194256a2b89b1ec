//! The program `smelt`.

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run(smelt::Driver::new())
}
