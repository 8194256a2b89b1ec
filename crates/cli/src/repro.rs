//! `repro.ir`: the graph on which a pass failed, as a file that shows the failure.

use std::path::Path;

use smelt::Error;

use crate::failure::Failure;
use crate::output::{make_folder, write_file};

/// Writes the graph on which a pass failed.
pub fn with_repro(error: Error, folder: Option<&Path>) -> Failure {
    let (failure, command) = match &error {
        Error::Pass(failure) => (failure, "smelt opt".to_owned()),
        Error::Rule(failure) => (failure, format!("smelt opt --rewrites FILE --pass {}", failure.pass)),
        _ => return error.into(),
    };
    let folder = folder.unwrap_or(Path::new("."));
    let path = folder.join("repro.ir");
    let help = match make_folder(folder).and_then(|()| write_file(&path, failure.repro.as_bytes())) {
        Ok(()) => format!("wrote {}: `{command}` on it reproduces the failure", path.display()),
        Err(failure) => format!("repro.ir could not be written: {failure}"),
    };
    Failure::from(error).help(help)
}
