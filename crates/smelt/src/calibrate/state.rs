//! How far a run is, in a folder beside its result: a run that is stopped goes on from there, and ends with the same
//! bytes as one that was not.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use passes::calibration::Calibration;
use plan::input::{self, DATA_BYTES};
use serde_json::{Value, json};

use super::activations_path;
use super::side::Side;
use crate::{Error, ErrorKind, Progress};

const STATE: &str = "state";
const ACTIVATIONS: &str = "activations.safetensors";

/// A run that is not finished.
pub(super) struct State {
    out: PathBuf,
    folder: PathBuf,
    job: String,
    /// Layers that are done.
    pub segment: usize,
    /// Samples of the next layer that are done.
    pub samples: usize,
    /// What was seen so far.
    pub calibration: Calibration,
    /// The file of rows and Hessians.
    pub activations: File,
}

impl State {
    /// The state of the run that writes `out`: where an earlier one with the same job was stopped, or at the start.
    pub fn open(
        out: &Path,
        job: &str,
        fresh: Calibration,
        side: &Side,
        progress: &mut dyn Progress,
    ) -> Result<State, Error> {
        let folder = beside(out, ".partial");
        let activations = folder.join(ACTIVATIONS);
        let (out, job) = (out.to_owned(), job.to_owned());
        if let Some((segment, samples, mut calibration)) = read(&folder.join(STATE), &job)
            && let Ok(activations) = File::options().read(true).write(true).open(&activations)
        {
            // how clips are chosen changes nothing that was seen
            calibration.method = fresh.method;
            return Ok(State { out, folder, job, segment, samples, calibration, activations });
        }
        if folder.exists() {
            if !folder.join(ACTIVATIONS).is_file() {
                let reason = "is in the way of what an unfinished run would leave";
                return Err(Error::Usage(format!("{}: {reason}", folder.display())));
            }
            let place = folder.display();
            progress.note(&format!("{place} is of another model, text or options: what it has is measured anew"));
            fs::remove_dir_all(&folder).map_err(|error| Error::Io { path: folder.clone(), error })?;
        }
        fs::create_dir_all(&folder).map_err(|error| Error::Io { path: folder.clone(), error })?;
        let activations = side.create(&activations).inspect_err(|_| {
            // nothing was measured yet: there is nothing to go on with
            let _ = fs::remove_dir_all(&folder);
        })?;
        Ok(State { out, folder, job, segment: 0, samples: 0, calibration: fresh, activations })
    }

    /// What an error of the run means for a next one. One of the model or the text would come again: nothing is kept.
    pub fn explain(&self, error: Error) -> Error {
        match error {
            // on a fuller disk than this one, the next run goes on
            error if error.kind() == ErrorKind::DoesNotFit => error,
            Error::BadInput(_) | Error::Changed(_) => {
                // what cannot be removed is found by the next run
                let _ = fs::remove_dir_all(&self.folder);
                error
            }
            Error::Io { path, error } if path.starts_with(&self.folder) => Error::BadInput(format!(
                "{}: {error}; if an earlier run was broken off there, remove {} to start anew",
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

    /// The file of what goes from a layer to the next.
    pub fn hidden(&self, segment: usize) -> PathBuf {
        self.folder.join(format!("hidden.{segment}"))
    }

    /// Writes down how far the run is. What goes to the next layer has been written before.
    pub fn save(&self) -> Result<(), Error> {
        let io = |error| Error::Io { path: self.folder.join(ACTIVATIONS), error };
        self.activations.sync_data().map_err(io)?;
        let head = json!({ "job": self.job, "segment": self.segment, "samples": self.samples });
        write_whole(&self.folder.join(STATE), format!("{head}\n{}", self.calibration.print()).as_bytes())
    }

    /// A layer is done.
    pub fn next_segment(&mut self) -> Result<(), Error> {
        (self.segment, self.samples) = (self.segment + 1, 0);
        self.save()?;
        if let Some(old) = self.segment.checked_sub(2) {
            // what this layer read: nobody reads it again
            let _ = fs::remove_file(self.hidden(old));
        }
        Ok(())
    }

    /// Puts the results in their places and removes the folder.
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

/// What a file of another run says; nothing where there is none, or it is of another job.
fn read(path: &Path, job: &str) -> Option<(usize, usize, Calibration)> {
    let text = input::read_text(path, DATA_BYTES).ok()?;
    let (head, calibration) = text.split_once('\n')?;
    let head: Value = serde_json::from_str(head).ok()?;
    let count = |field: &str| usize::try_from(head.get(field)?.as_u64()?).ok();
    (head.get("job")?.as_str()? == job).then_some(())?;
    Some((count("segment")?, count("samples")?, Calibration::parse(calibration).ok()?))
}

/// A path with more behind its name.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Writes a file that appears whole or not at all.
pub(super) fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    plan::partial::write_file(path, bytes).map_err(|error| Error::Io { path: path.to_owned(), error })
}
