//! Files that this process reads and those that it will write: none is both, and none is written twice. Files are
//! identified by inode, not by name: links of any kind lead to the same one.

use std::ffi::OsString;
use std::io::{Error, ErrorKind, Result};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The claimed file, and its name.
static CLAIMS: Mutex<Claims> = Mutex::new(Claims { inputs: Vec::new(), outputs: Vec::new() });

struct Claims {
    inputs: Vec<(Place, PathBuf)>,
    outputs: Vec<(Place, PathBuf)>,
}

/// A file, or the path of a new one.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    There(Identity),
    /// A name in a directory.
    New(Identity, OsString),
}

/// Device and inode.
#[cfg(unix)]
type Identity = (u64, u64);
#[cfg(not(unix))]
type Identity = PathBuf;

#[cfg(unix)]
fn identity(path: &Path) -> Option<Identity> {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

#[cfg(not(unix))]
fn identity(path: &Path) -> Option<Identity> {
    path.canonicalize().ok()
}

impl Place {
    fn of(path: &Path) -> Option<Place> {
        match identity(path) {
            Some(file) => Some(Place::There(file)),
            None => Some(Place::New(identity(folder_of(path))?, path.file_name()?.to_owned())),
        }
    }
}

/// The parent directory of a path.
pub fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Why a file must not be written.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Conflict(String);

/// Whether an error says that an output is an input, or another output.
pub fn is_conflict(error: &Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<Conflict>())
}

fn claims() -> MutexGuard<'static, Claims> {
    CLAIMS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The name under which a file was claimed. A removed file's inode number may have been reused by another file.
fn find<'a>(list: &'a [(Place, PathBuf)], place: &Place) -> Option<&'a Path> {
    let found = list.iter().find(|(known, path)| known == place && Place::of(path).as_ref() == Some(place));
    found.map(|(_, path)| path.as_path())
}

/// Claims a file or directory that this process reads: no output may replace it from now on. A missing file is not an
/// input.
pub fn input(path: &Path) {
    if let Some(file) = identity(path) {
        claims().inputs.push((Place::There(file), path.to_owned()));
    }
}

/// Claims a file that this process will write: an error if it is an input, or another output.
pub fn output(path: &Path) -> Result<()> {
    check(path)?;
    let Some(place) = Place::of(path) else { return Ok(()) };
    let mut claims = claims();
    if let Some(first) = find(&claims.outputs, &place) {
        let same = if first == path { String::new() } else { format!(" (as {})", first.display()) };
        let message = format!("is used by two outputs{same}, expected a file for each");
        return Err(Error::new(ErrorKind::InvalidInput, Conflict(message)));
    }
    claims.outputs.push((place, path.to_owned()));
    Ok(())
}

/// An error if a path leads to an input.
pub fn check(path: &Path) -> Result<()> {
    let Some(place) = Place::of(path) else { return Ok(()) };
    let claims = claims();
    let Some(input) = find(&claims.inputs, &place) else { return Ok(()) };
    let same = if input == path { String::new() } else { format!(" (as {})", input.display()) };
    let message = format!("is an input{same}, expected another output path");
    Err(Error::new(ErrorKind::InvalidInput, Conflict(message)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_are_no_inputs_and_not_each_other() {
        let folder = tempfile::tempdir().unwrap();
        let [read, other, new] = ["read", "other", "new"].map(|name| folder.path().join(name));
        std::fs::write(&read, "input").unwrap();
        std::fs::write(&other, "old").unwrap();
        input(&read);
        input(&folder.path().join("missing"));
        let refused = |path: &Path| {
            let error = output(path).unwrap_err();
            assert!(is_conflict(&error));
            error.to_string()
        };
        assert_eq!(refused(&read), "is an input, expected another output path");
        assert!(refused(&folder.path().join("../").join(folder.path()).join("./read")).starts_with("is an input"));
        output(&other).unwrap();
        output(&new).unwrap();
        assert_eq!(refused(&other), "is used by two outputs, expected a file for each");
        assert!(refused(&folder.path().join("./new")).starts_with("is used by two outputs"));
        // an output may be claimed as often as it is written
        check(&other).unwrap();
        #[cfg(unix)]
        for (link, hard) in [(folder.path().join("link"), false), (folder.path().join("hard"), true)] {
            match hard {
                true => std::fs::hard_link(&read, &link).unwrap(),
                false => std::os::unix::fs::symlink(&read, &link).unwrap(),
            }
            let expected = format!("is an input (as {}), expected another output path", read.display());
            assert_eq!(refused(&link), expected);
            assert!(is_conflict(&crate::partial::write_file(&link, b"plan").unwrap_err()));
        }
        assert_eq!(std::fs::read(&read).unwrap(), b"input");
    }
}
