//! The command line of smelt with one more op, pass and kernel for each target.

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run(custom_op::driver())
}
