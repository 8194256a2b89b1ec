//! Atomic file writes: files are written under a temporary name, renamed when complete, and removed if the work ends
//! before that. [`exit`] removes the unfinished files of an interrupted process. Those of a killed process are removed
//! by the next one that writes to the directory: an unfinished file is locked for as long as it has an owner.

use std::collections::BTreeSet;
use std::fs::{self, File, Permissions, TryLockError};
use std::io::{Error, ErrorKind, Result, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::claims;
pub use crate::claims::folder_of;

const PREFIX: &str = ".smelt-";
const SUFFIX: &str = ".partial";

/// Unfinished files of this process. Files and directories are created under its lock, so that none is created after
/// the last were removed.
static UNFINISHED: Mutex<Known> = Mutex::new(Known { paths: BTreeSet::new(), swept: BTreeSet::new() });

struct Known {
    /// Unfinished files and directories.
    paths: BTreeSet<PathBuf>,
    /// Directories that this process has cleaned up.
    swept: BTreeSet<PathBuf>,
}

fn unfinished() -> MutexGuard<'static, Known> {
    UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends the process with this code, and removes everything that is unfinished.
pub fn exit(code: i32) -> ! {
    let mut known = unfinished();
    std::mem::take(&mut known.paths).iter().for_each(|path| remove(path));
    // still under the lock: nothing new is started
    std::process::exit(code)
}

/// Removes a file, or a directory in which somebody may still be writing.
fn remove(path: &Path) {
    // errors are ignored: there is nobody left to report them to
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

/// Registers a path as unfinished for as long as it lives.
#[derive(Debug)]
pub struct Unfinished(PathBuf);

impl Unfinished {
    /// A file or directory that is created and removed elsewhere.
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
    /// Removes the unfinished files of killed processes from a directory, once per process.
    fn sweep(&mut self, folder: &Path) {
        if !self.swept.insert(folder.to_owned()) {
            return;
        }
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let (name, path) = (entry.file_name(), entry.path());
            let ours = name.to_str().is_some_and(|name| name.starts_with(PREFIX) && name.ends_with(SUFFIX));
            let plain = entry.file_type().is_ok_and(|kind| kind.is_file() || kind.is_dir());
            if ours && plain && !self.paths.contains(&path) {
                // without locks, owners are unknown
                if File::open(&path).is_ok_and(|file| file.try_lock().is_ok() && path.exists()) {
                    remove(&path);
                }
            }
        }
    }

    /// Creates something unfinished in a directory. `make` returns it with its path and the handle that keeps it
    /// locked.
    fn begin<T>(&mut self, folder: &Path, make: impl Fn(&Path) -> Result<(T, PathBuf, File)>) -> Result<Begun<T>> {
        self.sweep(folder);
        loop {
            let (made, path, lock) = make(folder)?;
            let ours = match lock.try_lock() {
                Ok(()) => path.exists(),
                // another process is about to remove it: it had no owner a moment ago
                Err(TryLockError::WouldBlock) => false,
                // some file systems have no locks
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

/// The path that a file is really written to, after links; an error if there cannot be a file, or if it is an input of
/// this process.
pub fn place(path: &Path) -> Result<PathBuf> {
    let refused = |kind, reason: &str| Err(Error::new(kind, reason));
    claims::check(path)?;
    match fs::metadata(path) {
        Ok(found) if found.is_file() => path.canonicalize(),
        Ok(found) if found.is_dir() => refused(ErrorKind::IsADirectory, "is a directory, expected the name of a file"),
        Ok(_) => refused(ErrorKind::InvalidInput, "is not a regular file, and is not replaced by one"),
        Err(_) => match fs::metadata(folder_of(path)) {
            Ok(found) if found.is_dir() => Ok(path.to_owned()),
            Ok(_) => refused(ErrorKind::NotADirectory, "its parent is not a directory"),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                refused(ErrorKind::NotFound, "its parent directory does not exist")
            }
            Err(error) => Err(error),
        },
    }
}

/// Renames a complete file. It takes the mode of a file that it replaces, and the owner if that is allowed.
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

/// The permissions of an unfinished file: those of the file that it replaces, or of any new one.
#[cfg(unix)]
fn permissions(place: &Path) -> Permissions {
    use std::os::unix::fs::PermissionsExt;
    let old = fs::metadata(place).ok().map(|metadata| metadata.permissions().mode() & 0o777);
    // the system applies the umask
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

/// An unfinished file.
#[derive(Debug)]
pub struct PartialFile {
    place: PathBuf,
    file: tempfile::NamedTempFile,
    // last: a name is unregistered once nothing has it
    _known: Unfinished,
}

impl PartialFile {
    /// Starts a file that will be at a path.
    pub fn create(path: &Path) -> Result<PartialFile> {
        let place = place(path)?;
        #[cfg(unix)]
        let permissions = Some(permissions(&place));
        #[cfg(not(unix))]
        let permissions = None;
        let make = |folder: &Path| {
            let file = named(permissions.clone()).tempfile_in(folder);
            // the temporary name is meaningless to users
            let file = file.map_err(|error| Error::new(error.kind(), "its parent directory is not writable"))?;
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

    /// Syncs the file to disk and renames it.
    pub fn finish(self) -> Result<()> {
        self.file.as_file().sync_all()?;
        self.keep()
    }

    /// Renames the file without a sync, for formats whose readers detect damage.
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

/// A private directory that is removed with all its contents.
#[derive(Debug)]
pub struct PartialFolder {
    folder: tempfile::TempDir,
    _lock: File,
    _known: Unfinished,
}

impl PartialFolder {
    /// A new directory inside of another.
    pub fn create_in(folder: &Path) -> Result<PartialFolder> {
        let make = |folder: &Path| {
            let made = named(None).tempdir_in(folder)?;
            let (path, lock) = (made.path().to_owned(), File::open(made.path())?);
            Ok((made, path, lock))
        };
        let Begun { made, lock, known } = unfinished().begin(folder, make)?;
        Ok(PartialFolder { folder: made, _lock: lock, _known: known })
    }

    /// A new directory among the system's temporary files.
    pub fn temporary() -> Result<PartialFolder> {
        PartialFolder::create_in(&std::env::temp_dir())
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Removes it, and reports errors.
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
        // unfinished files of a killed process
        fs::write(at(".smelt-a.partial"), "half a plan").unwrap();
        fs::create_dir_all(at(".smelt-b.partial/inner")).unwrap();
        fs::write(at(".smelt-b.partial/inner/trial.plan"), "half a plan").unwrap();
        // files of others: a running process, and users
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
        // unfinished files of this process have an owner, too
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
            // private files are private while they are written
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
        assert_eq!(says(folder.path()), "is a directory, expected the name of a file");
        assert_eq!(says(&folder.path().join("no/file")), "its parent directory does not exist");
        #[cfg(unix)]
        {
            assert_eq!(says(Path::new("/dev/null")), "is not a regular file, and is not replaced by one");
            let [target, link] = ["target", "link"].map(|name| folder.path().join(name));
            fs::write(&target, "old").unwrap();
            std::os::unix::fs::symlink(&target, &link).unwrap();
            write_file(&link, b"new").unwrap();
            assert!(link.is_symlink() && fs::read(&target).unwrap() == b"new");
        }
    }
}
