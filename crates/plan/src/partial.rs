//! Files that appear whole or not at all: written beside their place under another name, renamed when complete, and gone
//! where the work ends before that. What a process is told to stop in the middle of, [`exit`] removes. What one left that
//! was killed, the next one that writes to the folder removes: an unfinished file is locked for as long as it has an owner.

use std::collections::BTreeSet;
use std::fs::{self, File, Permissions, TryLockError};
use std::io::{Error, ErrorKind, Result, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::claims;

const PREFIX: &str = ".smelt-";
const SUFFIX: &str = ".partial";

/// What is not complete in this process. Files and folders are made under its lock, so that none is made after the last
/// were removed.
static UNFINISHED: Mutex<Known> = Mutex::new(Known { paths: BTreeSet::new(), swept: BTreeSet::new() });

struct Known {
    /// Files and folders that are not complete.
    paths: BTreeSet<PathBuf>,
    /// Folders in which this process has looked for what others left.
    swept: BTreeSet<PathBuf>,
}

fn unfinished() -> MutexGuard<'static, Known> {
    UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends the process with this code, and removes everything that is not complete.
pub fn exit(code: i32) -> ! {
    let mut known = unfinished();
    std::mem::take(&mut known.paths).iter().for_each(|path| remove(path));
    // still under the lock: nothing new is begun
    std::process::exit(code)
}

/// Removes a file, or a folder in which somebody may still be writing.
fn remove(path: &Path) {
    // what cannot be removed stays: there is nobody left to tell
    if !path.is_dir() {
        let _ = fs::remove_file(path);
        return;
    }
    for _ in 0..10 {
        if fs::remove_dir_all(path).is_ok() || !path.exists() {
            return;
        }
    }
}

/// Keeps a path known as not complete for as long as it lives.
#[derive(Debug)]
pub struct Unfinished(PathBuf);

impl Unfinished {
    /// A file or folder that somebody else makes and removes.
    pub fn of(path: &Path) -> Unfinished {
        Unfinished::known(path, &mut unfinished())
    }

    fn known(path: &Path, known: &mut Known) -> Unfinished {
        known.paths.insert(path.to_owned());
        Unfinished(path.to_owned())
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        unfinished().paths.remove(&self.0);
    }
}

impl Known {
    /// Removes what processes left in a folder that were killed; once, as there is nothing else to find later.
    fn sweep(&mut self, folder: &Path) {
        if !self.swept.insert(folder.to_owned()) {
            return;
        }
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let (name, path) = (entry.file_name(), entry.path());
            let ours = name.to_str().is_some_and(|name| name.starts_with(PREFIX) && name.ends_with(SUFFIX));
            let plain = entry.file_type().is_ok_and(|kind| kind.is_file() || kind.is_dir());
            if ours && plain && !self.paths.contains(&path) {
                // where locks are unknown, so are owners
                if File::open(&path).is_ok_and(|file| file.try_lock().is_ok() && path.exists()) {
                    remove(&path);
                }
            }
        }
    }

    /// Makes something unfinished in a folder. `make` returns it with its path and the handle that keeps it locked.
    fn begin<T>(&mut self, folder: &Path, make: impl Fn(&Path) -> Result<(T, PathBuf, File)>) -> Result<Begun<T>> {
        self.sweep(folder);
        loop {
            let (made, path, lock) = make(folder)?;
            let ours = match lock.try_lock() {
                Ok(()) => path.exists(),
                // another process is about to remove it, which had no owner a moment ago
                Err(TryLockError::WouldBlock) => false,
                // some file systems know no locks
                Err(TryLockError::Error(_)) => true,
            };
            if ours {
                return Ok(Begun { made, lock, known: Unfinished::known(&path, self) });
            }
        }
    }
}

/// Something unfinished.
struct Begun<T> {
    made: T,
    lock: File,
    known: Unfinished,
}

/// The folder that a path is in.
pub fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Where a file would really be written, after links; an error where a file cannot be there, or takes the place of one
/// that this process reads, before there is one to write.
pub fn place(path: &Path) -> Result<PathBuf> {
    let refused = |kind, reason: &str| Err(Error::new(kind, reason));
    claims::check(path)?;
    match fs::metadata(path) {
        Ok(found) if found.is_file() => path.canonicalize(),
        Ok(found) if found.is_dir() => refused(ErrorKind::IsADirectory, "is a folder, expected the name of a file"),
        Ok(_) => refused(ErrorKind::InvalidInput, "is no regular file, and is not replaced by one"),
        Err(_) => match fs::metadata(folder_of(path)) {
            Ok(found) if found.is_dir() => Ok(path.to_owned()),
            Ok(_) => refused(ErrorKind::NotADirectory, "lies in something that is no folder"),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                refused(ErrorKind::NotFound, "its folder does not exist")
            }
            Err(error) => Err(error),
        },
    }
}

/// Moves a complete file to its place. One that it replaces leaves it its mode, and its owner where that is allowed.
pub fn replace(from: &Path, place: &Path) -> Result<()> {
    inherit(from, place)?;
    fs::rename(from, place)
}

fn inherit(from: &Path, place: &Path) -> Result<()> {
    #[cfg(unix)]
    if let Ok(old) = fs::metadata(place) {
        use std::os::unix::fs::MetadataExt;
        let new = fs::metadata(from)?;
        if (old.uid(), old.gid()) != (new.uid(), new.gid()) {
            let _ = std::os::unix::fs::chown(from, Some(old.uid()), Some(old.gid()));
        }
        if old.permissions() != new.permissions() {
            fs::set_permissions(from, old.permissions())?;
        }
    }
    Ok(())
}

/// The permissions of a file until it is complete: those of the one that it replaces, or of any new one.
#[cfg(unix)]
fn permissions(place: &Path) -> Permissions {
    use std::os::unix::fs::PermissionsExt;
    let old = fs::metadata(place).ok().map(|metadata| metadata.permissions().mode() & 0o777);
    // what the user's mask forbids, the system takes away
    Permissions::from_mode(old.unwrap_or(0o666))
}

fn named(permissions: Option<Permissions>) -> tempfile::Builder<'static, 'static> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(PREFIX).suffix(SUFFIX);
    if let Some(permissions) = permissions {
        builder.permissions(permissions);
    }
    builder
}

/// A file on its way to its place.
#[derive(Debug)]
pub struct PartialFile {
    place: PathBuf,
    file: tempfile::NamedTempFile,
    // last: a name is forgotten once there is nothing under it
    _known: Unfinished,
}

impl PartialFile {
    /// Starts a file that will stand at a path.
    pub fn create(path: &Path) -> Result<PartialFile> {
        let place = place(path)?;
        #[cfg(unix)]
        let permissions = Some(permissions(&place));
        #[cfg(not(unix))]
        let permissions = None;
        let make = |folder: &Path| {
            let file = named(permissions.clone()).tempfile_in(folder);
            // the name of what was not made says nothing to anybody
            let file = file.map_err(|error| Error::new(error.kind(), "its folder cannot be written to"))?;
            let (path, lock) = (file.path().to_owned(), file.as_file().try_clone()?);
            Ok((file, path, lock))
        };
        let Begun { made: file, known, .. } = unfinished().begin(folder_of(&place), make)?;
        Ok(PartialFile { place, file, _known: known })
    }

    /// The file.
    pub fn file(&mut self) -> &mut File {
        self.file.as_file_mut()
    }

    /// Writes what is not on the disk yet, and moves the file to its place.
    pub fn finish(self) -> Result<()> {
        self.file.as_file().sync_all()?;
        self.keep()
    }

    /// Moves the file to its place, for those who know a damaged one when they read it.
    pub fn keep(self) -> Result<()> {
        inherit(self.file.path(), &self.place)?;
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

/// A folder that only its owner may enter, and that goes with all that is in it.
#[derive(Debug)]
pub struct PartialFolder {
    folder: tempfile::TempDir,
    _lock: File,
    _known: Unfinished,
}

impl PartialFolder {
    /// A new folder inside of one.
    pub fn create_in(folder: &Path) -> Result<PartialFolder> {
        let make = |folder: &Path| {
            let made = named(None).tempdir_in(folder)?;
            let (path, lock) = (made.path().to_owned(), File::open(made.path())?);
            Ok((made, path, lock))
        };
        let Begun { made, lock, known } = unfinished().begin(folder, make)?;
        Ok(PartialFolder { folder: made, _lock: lock, _known: known })
    }

    /// A new folder among the system's temporary files.
    pub fn temporary() -> Result<PartialFolder> {
        PartialFolder::create_in(&std::env::temp_dir())
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Removes it, and says where that fails.
    pub fn close(self) -> Result<()> {
        self.folder.close()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn files_are_whole_or_not_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let mut partial = PartialFile::create(&path).unwrap();
        partial.file().write_all(b"half").unwrap();
        assert!(names(folder.path()).len() == 1 && !path.exists());
        drop(partial);
        assert_eq!(names(folder.path()), [""; 0]);
        write_file(&path, b"whole").unwrap();
        assert_eq!((names(folder.path()).len(), fs::read(&path).unwrap()), (1, b"whole".to_vec()));
        let inner = PartialFolder::create_in(folder.path()).unwrap();
        fs::write(inner.path().join("in"), "more").unwrap();
        assert_eq!(names(folder.path()).len(), 2);
        inner.close().unwrap();
        assert_eq!(names(folder.path()), ["file"]);
    }

    #[test]
    fn what_has_lost_its_owner_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        // what a process left that was killed
        fs::write(at(".smelt-a.partial"), "half a plan").unwrap();
        fs::create_dir_all(at(".smelt-b.partial/inner")).unwrap();
        fs::write(at(".smelt-b.partial/inner/trial.plan"), "half a plan").unwrap();
        // what others own: a running process, and people
        fs::write(at(".smelt-c.partial"), "half a plan").unwrap();
        let owner = File::open(at(".smelt-c.partial")).unwrap();
        owner.lock().unwrap();
        fs::create_dir(at(".smelt-d.partial")).unwrap();
        let other = File::open(at(".smelt-d.partial")).unwrap();
        other.lock().unwrap();
        fs::write(at(".smelt-notes"), "mine").unwrap();
        fs::write(at("x.partial"), "mine").unwrap();
        let mine = PartialFile::create(&at("plan")).unwrap();
        let kept = [".smelt-c.partial", ".smelt-d.partial", ".smelt-notes", "x.partial"];
        let found = names(folder.path());
        assert!(found.len() == 5 && kept.iter().all(|name| found.iter().any(|found| found == name)), "{found:?}");
        // what is unfinished here has an owner, too
        let own = unfinished().paths.iter().find(|path| path.starts_with(folder.path())).unwrap().clone();
        assert!(File::open(&own).unwrap().try_lock().is_err());
        mine.finish().unwrap();
        assert_eq!(names(folder.path()).len(), 5);
    }

    #[cfg(unix)]
    #[test]
    fn what_is_replaced_leaves_its_mode() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let [plan, new, plain] = ["plan", "new", "plain"].map(|name| folder.path().join(name));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        fs::write(&plan, "old").unwrap();
        for old in [0o600, 0o640, 0o666, 0o444] {
            fs::set_permissions(&plan, Permissions::from_mode(old)).unwrap();
            let mut partial = PartialFile::create(&plan).unwrap();
            partial.file().write_all(b"new").unwrap();
            // what is private is so while it is written
            assert_eq!(mode(partial.file.path()) & !old, 0);
            partial.finish().unwrap();
            assert_eq!(mode(&plan), old);
        }
        write_file(&new, b"new").unwrap();
        fs::write(&plain, "new").unwrap();
        assert_eq!(mode(&new), mode(&plain));
        fs::set_permissions(&plan, Permissions::from_mode(0o600)).unwrap();
        replace(&new, &plan).unwrap();
        assert_eq!((mode(&plan), fs::read(&plan).unwrap()), (0o600, b"new".to_vec()));
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
            fs::write(&target, "old").unwrap();
            std::os::unix::fs::symlink(&target, &link).unwrap();
            write_file(&link, b"new").unwrap();
            assert!(link.is_symlink() && fs::read(&target).unwrap() == b"new");
        }
    }
}
