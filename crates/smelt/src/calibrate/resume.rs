//! The saved state of a run, in a directory next to its result: a stopped run is resumed from there, with the same
//! bytes as a result.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use passes::calibration::Calibration;
use plan::input::{self, DATA_BYTES};
use serde_json::{Value, json};

use super::activation_writer::ActivationWriter;
use super::{activations_path, beside};
use crate::{Error, ErrorKind, Progress};

const STATE: &str = "state";
const ACTIVATIONS: &str = "activations.safetensors";

/// A run that is not finished.
pub(super) struct State {
    out: PathBuf,
    folder: PathBuf,
    job: String,
    /// Finished layers.
    pub segment: usize,
    /// Finished samples of the next layer.
    pub samples: usize,
    /// Statistics so far.
    pub calibration: Calibration,
    /// The file of rows and Hessians.
    pub activations: File,
}

impl State {
    /// The state of the run that writes `out`: as saved by an earlier one with the same job, or new.
    pub fn open(
        out: &Path,
        job: &str,
        fresh: Calibration,
        writer: &ActivationWriter,
        progress: &mut dyn Progress,
    ) -> Result<State, Error> {
        let folder = beside(out, ".partial");
        let activations = folder.join(ACTIVATIONS);
        let (out, job) = (out.to_owned(), job.to_owned());
        if let Some((segment, samples, mut calibration)) = read(&folder.join(STATE), &job)
            && let Ok(activations) = File::options().read(true).write(true).open(&activations)
        {
            // the clipping method does not change the statistics
            calibration.method = fresh.method;
            return Ok(State { out, folder, job, segment, samples, calibration, activations });
        }
        if folder.exists() {
            if !folder.join(ACTIVATIONS).is_file() {
                let reason = "is in the way of the state of unfinished runs";
                return Err(Error::Usage(format!("{}: {reason}", folder.display())));
            }
            let place = folder.display();
            progress.note(&format!("{place} belongs to another model, text or options: starting over"));
            fs::remove_dir_all(&folder).map_err(|error| Error::Io { path: folder.clone(), error })?;
        }
        fs::create_dir_all(&folder).map_err(|error| Error::Io { path: folder.clone(), error })?;
        let activations = writer.create(&activations).inspect_err(|_| {
            // nothing was measured yet: there is nothing to resume
            let _ = fs::remove_dir_all(&folder);
        })?;
        Ok(State { out, folder, job, segment: 0, samples: 0, calibration: fresh, activations })
    }

    /// Cleans up after an error of the run. One of the model or the text would occur again: nothing is kept.
    pub fn explain(&self, error: Error) -> Error {
        match error {
            // after I/O errors such as a full disk, the next run resumes
            error if error.kind() == ErrorKind::DoesNotFit => error,
            Error::BadInput(_) | Error::Changed(_) => {
                // files that cannot be removed are found by the next run
                let _ = fs::remove_dir_all(&self.folder);
                error
            }
            Error::Io { path, error } if path.starts_with(&self.folder) => Error::BadInput(format!(
                "{}: {error}; if an earlier run was interrupted there, remove {} to start over",
                path.display(),
                self.folder.display()
            )),
            error => error,
        }
    }

    /// Where files of the run go.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The file of activations from a layer to the next.
    pub fn hidden(&self, segment: usize) -> PathBuf {
        self.folder.join(format!("hidden.{segment}"))
    }

    /// Saves the progress of the run. The activations for the next layer have been written before.
    pub fn save(&self) -> Result<(), Error> {
        let io = |error| Error::Io { path: self.folder.join(ACTIVATIONS), error };
        self.activations.sync_data().map_err(io)?;
        let head = json!({ "job": self.job, "segment": self.segment, "samples": self.samples });
        write_whole(&self.folder.join(STATE), format!("{head}\n{}", self.calibration.print()).as_bytes())
    }

    /// Marks a layer as finished.
    pub fn next_segment(&mut self) -> Result<(), Error> {
        (self.segment, self.samples) = (self.segment + 1, 0);
        self.save()?;
        if let Some(old) = self.segment.checked_sub(2) {
            // the input of this layer is not read again
            let _ = fs::remove_file(self.hidden(old));
        }
        Ok(())
    }

    /// Moves the results to their final paths and removes the directory.
    pub fn finish(mut self, samples: u64, tokens: u64) -> Result<Calibration, Error> {
        (self.calibration.samples, self.calibration.tokens) = (samples, tokens);
        let activations = activations_path(&self.out);
        plan::partial::replace(&self.folder.join(ACTIVATIONS), &activations)
            .map_err(|error| Error::Io { path: activations, error })?;
        write_whole(&self.out, self.calibration.print().as_bytes())?;
        fs::remove_dir_all(&self.folder).map_err(|error| Error::Io { path: self.folder, error })?;
        Ok(self.calibration)
    }
}

/// The state in the file of an earlier run; `None` if there is none, or if it is of another job.
fn read(path: &Path, job: &str) -> Option<(usize, usize, Calibration)> {
    let text = input::read_text(path, DATA_BYTES).ok()?;
    let (head, calibration) = text.split_once('\n')?;
    let head: Value = serde_json::from_str(head).ok()?;
    let count = |field: &str| usize::try_from(head.get(field)?.as_u64()?).ok();
    (head.get("job")?.as_str()? == job).then_some(())?;
    Some((count("segment")?, count("samples")?, Calibration::parse(calibration).ok()?))
}

/// Writes a file atomically.
pub(super) fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    plan::partial::write_file(path, bytes).map_err(|error| Error::Io { path: path.to_owned(), error })
}
