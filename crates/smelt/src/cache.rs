//! Plans that were compiled on first use, by what they were made from.

use std::fs;
use std::path::{Path, PathBuf};

use crate::calibrate::activations_path;
use crate::{CompileOptions, Error};

/// A folder of plans. A plan is found again while the checkpoint's files have the same path, size, time and inode,
/// the options are the same, and the program is.
#[derive(Clone, Debug)]
pub struct PlanCache {
    folder: PathBuf,
    salt: String,
}

impl PlanCache {
    /// A cache in this folder, which is made when something is put in it. `salt` tells one build of the program from
    /// another.
    pub fn new(folder: PathBuf, salt: impl Into<String>) -> PlanCache {
        PlanCache { folder, salt: salt.into() }
    }

    /// Where the plan of these files under these options is, or would be.
    pub fn path(&self, files: &[PathBuf], options: &CompileOptions) -> Result<PathBuf, Error> {
        let mut hash = blake3::Hasher::new();
        let version = env!("CARGO_PKG_VERSION");
        hash.update(format!("{} {version} {} {options:?}\n", plan::FORMAT_VERSION, self.salt).as_bytes());
        // a timing cache that is still to be written has nothing to say
        let timings = options.timing.iter().map(|timing| &timing.file).filter(|file| file.exists());
        let calibration = options.precision.calibration.iter();
        let calibration = calibration.flat_map(|file| [file.clone(), activations_path(file)]);
        for file in files.iter().chain(timings).chain(&calibration.collect::<Vec<_>>()) {
            hash.update(identity(file).map_err(|error| Error::Io { path: file.clone(), error })?.as_bytes());
        }
        Ok(self.folder.join(format!("{}.plan", &hash.finalize().to_hex()[..32])))
    }

    /// Makes the folder, and sees whether files can be made in it: better now than when a plan is complete.
    pub(crate) fn prepare(&self) -> Result<(), Error> {
        let made = fs::create_dir_all(&self.folder).and_then(|()| tempfile::tempfile_in(&self.folder));
        made.map(drop).map_err(|error| Error::Io { path: self.folder.clone(), error })
    }
}

/// Path, size, time and inode: what changes when a file is replaced.
fn identity(file: &Path) -> std::io::Result<String> {
    let path = file.canonicalize()?;
    let metadata = fs::metadata(&path)?;
    let modified = metadata.modified()?.duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_nanos();
    #[cfg(unix)]
    let inode = std::os::unix::fs::MetadataExt::ino(&metadata);
    #[cfg(not(unix))]
    let inode = 0;
    Ok(format!("{} {} {modified} {inode}\n", path.display(), metadata.len()))
}
