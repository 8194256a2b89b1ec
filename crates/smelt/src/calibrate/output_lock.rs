//! The output path of a calibration, locked against other runs.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use plan::partial::{self, Unfinished};

use super::{activations_path, beside};
use crate::Error;

/// A calibration's output path, locked for as long as this lives.
pub(super) struct OutputLock {
    lock: PathBuf,
    _locked: File,
    _known: Unfinished,
}

impl OutputLock {
    /// Locks the paths of a calibration and of its activations file, before there is anything to write.
    pub fn take(out: &Path) -> Result<OutputLock, Error> {
        // names that differ in more than their suffix, or two calibrations would share an activations file
        if out.extension().is_none_or(|end| end != "json") {
            let reason = "expected a name that ends in .json: the activations file next to it ends in .safetensors";
            return Err(Error::Usage(format!("{}: {reason}", out.display())));
        }
        let lock = beside(out, ".lock");
        for path in [out, &activations_path(out), &lock] {
            partial::place(path).map_err(|error| Error::Io { path: path.to_owned(), error })?;
        }
        let io = |error| Error::Io { path: out.to_owned(), error };
        let file = File::options().create(true).truncate(false).write(true).open(&lock).map_err(io)?;
        match file.try_lock() {
            // the run that held it removed it before unlocking
            Ok(()) if !lock.exists() => return Err(taken(out)),
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(taken(out)),
            // some file systems have no locks
            Err(TryLockError::Error(error)) if error.kind() == std::io::ErrorKind::Unsupported => {}
            Err(TryLockError::Error(error)) => return Err(io(error)),
        }
        Ok(OutputLock { _known: Unfinished::of(&lock), lock, _locked: file })
    }
}

fn taken(out: &Path) -> Error {
    Error::Usage(format!("{}: another run is writing it: wait until it ends, or name another file", out.display()))
}

impl Drop for OutputLock {
    fn drop(&mut self) {
        // a file that cannot be removed is unlocked once the process has ended
        let _ = fs::remove_file(&self.lock);
    }
}
