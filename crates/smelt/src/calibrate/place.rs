//! Where a calibration is written, by one run at a time.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use plan::partial::{self, Unfinished};

use super::activations_path;
use super::state::beside;
use crate::Error;

/// A calibration's place, kept from other runs for as long as this lives.
pub(super) struct Place {
    lock: PathBuf,
    _locked: File,
    _known: Unfinished,
}

impl Place {
    /// Takes the place of a calibration and of the file beside it, before there is anything to write.
    pub fn take(out: &Path) -> Result<Place, Error> {
        // names that differ in more than their ends, or two calibrations would share the file beside them
        if out.extension().is_none_or(|end| end != "json") {
            let reason = "expected a name that ends in .json: the file of activations beside it ends in .safetensors";
            return Err(Error::Usage(format!("{}: {reason}", out.display())));
        }
        let lock = beside(out, ".lock");
        for path in [out, &activations_path(out), &lock] {
            partial::place(path).map_err(|error| Error::Io { path: path.to_owned(), error })?;
        }
        let io = |error| Error::Io { path: out.to_owned(), error };
        let file = File::options().create(true).truncate(false).write(true).open(&lock).map_err(io)?;
        match file.try_lock() {
            // the run that had it removed it before it let go
            Ok(()) if !lock.exists() => return Err(taken(out)),
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(taken(out)),
            // some file systems know no locks
            Err(TryLockError::Error(error)) if error.kind() == std::io::ErrorKind::Unsupported => {}
            Err(TryLockError::Error(error)) => return Err(io(error)),
        }
        Ok(Place { _known: Unfinished::of(&lock), lock, _locked: file })
    }
}

fn taken(out: &Path) -> Error {
    Error::Usage(format!("{}: another run is writing it: wait for its end, or name another file", out.display()))
}

impl Drop for Place {
    fn drop(&mut self) {
        // what cannot be removed is no lock once the process has ended
        let _ = fs::remove_file(&self.lock);
    }
}
