//! The command line of smelt with the pass.

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run(new_pass::driver())
}
