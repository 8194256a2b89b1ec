//! The command line of smelt with two more passes. The result of the analysis is printed to stderr at the end.

use std::process::ExitCode;

use custom_pass::CountFlops;

fn main() -> ExitCode {
    let flops = CountFlops::default();
    let code = cli::run(custom_pass::driver(&flops));
    if let Some(found) = flops.found() {
        eprint!("{found}");
    }
    code
}
