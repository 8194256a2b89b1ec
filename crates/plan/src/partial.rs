//! Files that appear whole or not at all: written beside their place under another name, renamed when complete, and gone
//! where the work ends before that. What a process is told to stop in the middle of, it removes with [`remove_all`].

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Error, ErrorKind, Result, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Files and folders that are not complete.
static UNFINISHED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

fn unfinished<R>(change: impl FnOnce(&mut BTreeSet<PathBuf>) -> R) -> R {
    change(&mut UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Removes everything that is not complete, for a process that is about to end.
pub fn remove_all() {
    for path in unfinished(std::mem::take) {
        // what cannot be removed stays: there is nobody left to tell
        let _ = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
    }
}

/// Keeps a path known as not complete for as long as it lives.
#[derive(Debug)]
pub struct Unfinished(PathBuf);

impl Unfinished {
    /// A file or folder that somebody else makes and removes.
    pub fn of(path: &Path) -> Unfinished {
        unfinished(|paths| paths.insert(path.to_owned()));
        Unfinished(path.to_owned())
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        unfinished(|paths| paths.remove(&self.0));
    }
}

/// The folder that a path is in.
pub fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Where a file would really be written, behind links; an error where a file cannot be there, before there is one to write.
pub fn place(path: &Path) -> Result<PathBuf> {
    let refused = |kind, reason: &str| Err(Error::new(kind, reason));
    match std::fs::metadata(path) {
        Ok(found) if found.is_file() => path.canonicalize(),
        Ok(found) if found.is_dir() => refused(ErrorKind::IsADirectory, "is a folder, expected the name of a file"),
        Ok(_) => refused(ErrorKind::InvalidInput, "is no regular file, and is not replaced by one"),
        Err(_) => match std::fs::metadata(folder_of(path)) {
            Ok(found) if found.is_dir() => Ok(path.to_owned()),
            Ok(_) => refused(ErrorKind::NotADirectory, "lies in something that is no folder"),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                refused(ErrorKind::NotFound, "its folder does not exist")
            }
            Err(error) => Err(error),
        },
    }
}

/// A file on its way to its place.
#[derive(Debug)]
pub struct PartialFile {
    place: PathBuf,
    file: tempfile::NamedTempFile,
    _unfinished: Unfinished,
}

impl PartialFile {
    /// Starts a file that will stand at a path.
    pub fn create(path: &Path) -> Result<PartialFile> {
        let place = place(path)?;
        let mut builder = tempfile::Builder::new();
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644));
        let file = builder.prefix(".smelt-").suffix(".partial").tempfile_in(folder_of(&place));
        // the name of what was not made says nothing to anybody
        let file = file.map_err(|error| Error::new(error.kind(), "its folder cannot be written to"))?;
        let unfinished = Unfinished::of(file.path());
        Ok(PartialFile { place, file, _unfinished: unfinished })
    }

    /// The file.
    pub fn file(&mut self) -> &mut File {
        self.file.as_file_mut()
    }

    /// Writes what is not on the disk yet, and moves the file to its place.
    pub fn finish(self) -> Result<()> {
        self.file.as_file().sync_all()?;
        self.file.persist(&self.place).map_err(|error| error.error)?;
        Ok(())
    }
}

/// Writes a file of these bytes.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = PartialFile::create(path)?;
    file.file().write_all(bytes)?;
    file.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_whole_or_not_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let names = || std::fs::read_dir(folder.path()).unwrap().count();
        let mut partial = PartialFile::create(&path).unwrap();
        partial.file().write_all(b"half").unwrap();
        assert!(names() == 1 && !path.exists());
        drop(partial);
        assert_eq!(names(), 0);
        write_file(&path, b"whole").unwrap();
        assert_eq!((names(), std::fs::read(&path).unwrap()), (1, b"whole".to_vec()));
        let kept = PartialFile::create(&path).unwrap();
        let shelter = folder.path().join("shelter");
        std::fs::create_dir(&shelter).unwrap();
        let known = Unfinished::of(&shelter);
        assert_eq!(names(), 3);
        unfinished(|paths| {
            paths.retain(|path| path.starts_with(folder.path().canonicalize().unwrap()) || path == &shelter)
        });
        remove_all();
        assert_eq!((names(), std::fs::read(&path).unwrap()), (1, b"whole".to_vec()));
        drop((kept, known));
    }

    #[test]
    fn what_is_no_place_for_a_file_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let says = |path: &Path| PartialFile::create(path).unwrap_err().to_string();
        assert_eq!(says(folder.path()), "is a folder, expected the name of a file");
        assert_eq!(says(&folder.path().join("no/file")), "its folder does not exist");
        #[cfg(unix)]
        {
            assert_eq!(says(Path::new("/dev/null")), "is no regular file, and is not replaced by one");
            let [target, link] = ["target", "link"].map(|name| folder.path().join(name));
            std::fs::write(&target, "old").unwrap();
            std::os::unix::fs::symlink(&target, &link).unwrap();
            write_file(&link, b"new").unwrap();
            assert!(link.is_symlink() && std::fs::read(&target).unwrap() == b"new");
        }
    }
}
