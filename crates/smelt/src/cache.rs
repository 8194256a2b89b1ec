//! The cache of plans that were compiled on first use, keyed by their inputs.

use std::fs;
use std::path::{Path, PathBuf};

use plan::input::Stamp;

use crate::calibrate::activations_path;
use crate::{CompileOptions, Error};

/// The configuration entry of a plan that holds its cache key.
pub(crate) const CACHE_KEY: &str = "cache_key";

/// A directory of plans. A plan is reused while the checkpoint's files are unchanged, the options are the same, and the
/// program is. It contains its key, so that no other plan is mistaken for it.
#[derive(Clone, Debug)]
pub struct PlanCache {
    folder: PathBuf,
    salt: String,
}

impl PlanCache {
    /// A cache in this directory, which is created on first write. `salt` distinguishes builds of the program.
    pub fn new(folder: PathBuf, salt: impl Into<String>) -> PlanCache {
        PlanCache { folder, salt: salt.into() }
    }

    /// The path of the plan of these files with these options.
    pub fn path(&self, files: &[PathBuf], options: &CompileOptions) -> Result<PathBuf, Error> {
        let mut hash = blake3::Hasher::new();
        let version = env!("CARGO_PKG_VERSION");
        hash.update(format!("{} {version} {} {options:?}\n", plan::FORMAT_VERSION, self.salt).as_bytes());
        // a timing cache that is still to be written has no contents to hash
        let timings = options.timing.iter().map(|timing| &timing.file).filter(|file| file.exists());
        let calibration = options.precision.calibration.iter();
        let calibration = calibration.flat_map(|file| [file.clone(), activations_path(file)]);
        for file in files.iter().chain(timings).chain(&calibration.collect::<Vec<_>>()) {
            let stamp = file.canonicalize().and_then(|file| Stamp::of(&file));
            let stamp = stamp.map_err(|error| Error::Io { path: file.clone(), error })?;
            hash.update(format!("{stamp:?}\n").as_bytes());
        }
        Ok(self.folder.join(format!("{}.plan", &hash.finalize().to_hex()[..32])))
    }

    /// The cache key of a plan at this path.
    pub(crate) fn key(path: &Path) -> String {
        path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Creates the directory, and checks that it is writable: better now than when a plan is complete.
    pub(crate) fn prepare(&self) -> Result<(), Error> {
        let made = fs::create_dir_all(&self.folder).and_then(|()| tempfile::tempfile_in(&self.folder));
        made.map(drop).map_err(|error| Error::Io { path: self.folder.clone(), error })
    }
}
