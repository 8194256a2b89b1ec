//! `cargo run -p tests --example plant_outliers -- MODEL OUT`: a copy of a checkpoint with outliers among its activations.

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, out] = &args[..] else {
        eprintln!("expected the folder of a checkpoint, and one to write");
        return ExitCode::FAILURE;
    };
    match tests::plant_outliers(Path::new(model), Path::new(out)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
