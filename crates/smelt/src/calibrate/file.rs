//! A calibration file, and the activations file next to it.

use std::path::{Path, PathBuf};

use frontend::Checkpoint;
use passes::calibration::Calibration;
use plan::input::{self, DATA_BYTES};

use crate::Error;

/// The activations file of a calibration, with rows and Hessians: `calibration.safetensors` for `calibration.json`.
pub fn activations_path(calibration: &Path) -> PathBuf {
    calibration.with_extension("safetensors")
}

/// Reads a calibration.
pub fn read_calibration(path: &Path) -> Result<Calibration, Error> {
    let text = input::read_text(path, DATA_BYTES).map_err(|error| Error::Io { path: path.to_owned(), error })?;
    Calibration::parse(&text).map_err(|error| Error::BadInput(format!("{}: {error}", path.display())))
}

/// Refuses a calibration of a different model than a checkpoint's.
pub fn check_calibration(calibration: &Calibration, checkpoint: &Checkpoint) -> Result<(), Error> {
    calibration.check_model(&checkpoint.fingerprint()).map_err(|error| Error::BadInput(error.to_string()))
}
