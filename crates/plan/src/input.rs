//! Input files: the one place that opens them. Anything but a regular file is refused at once, sizes are bounded, and a
//! file that changed while it was used is detected.
//!
//! A checkpoint may come from a stranger's archive, with links to devices in it; and a pipe has no size: opening one
//! blocks, reading one may take all memory.

use std::fs::{File, Metadata};
use std::io::{Error, ErrorKind, Read, Result};
use std::path::{Path, PathBuf};

use crate::mapped::MappedFile;

/// Maximum size of a configuration: of a checkpoint, or of its quantization.
pub const CONFIG_BYTES: u64 = 1 << 20;
/// Maximum size of a checkpoint's shard index: some 500,000 tensors.
pub const INDEX_BYTES: u64 = 64 << 20;
/// Maximum size of a tokenizer file: ten times the largest vocabularies.
pub const TOKENIZER_BYTES: u64 = 256 << 20;
/// Maximum size of a text that is written by hand or piped in: rules, tables, graphs, timings.
pub const TEXT_BYTES: u64 = 64 << 20;
/// Maximum size of a text for calibration or evaluation, and of a calibration, whose size grows with the model.
pub const DATA_BYTES: u64 = 1 << 30;

/// How long a pipe may be without a writer.
#[cfg(unix)]
const WRITER_MS: i32 = 2000;

/// A file changed while it was read.
#[derive(Debug, thiserror::Error)]
#[error("{0}: was changed while it was read: run the command again when nothing writes to it")]
pub struct Changed(PathBuf);

/// The identity of a file when it was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp {
    path: PathBuf,
    state: State,
}

/// Fields that change when somebody writes to a file, or replaces it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct State {
    bytes: u64,
    /// Seconds and nanoseconds. Programs can set this one back,
    modified: (i64, i64),
    /// but not this one.
    changed: (i64, i64),
    device: u64,
    inode: u64,
}

impl State {
    #[cfg(unix)]
    fn of(found: &Metadata) -> State {
        use std::os::unix::fs::MetadataExt;
        State {
            bytes: found.len(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
            device: found.dev(),
            inode: found.ino(),
        }
    }

    #[cfg(not(unix))]
    fn of(found: &Metadata) -> State {
        let modified = found.modified().ok().and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
        let modified = modified.map_or((0, 0), |time| (time.as_secs() as i64, time.subsec_nanos().into()));
        State { bytes: found.len(), modified, changed: (0, 0), device: 0, inode: 0 }
    }
}

impl Stamp {
    /// The stamp of the file now at a path.
    pub fn of(path: &Path) -> Result<Stamp> {
        Ok(Stamp { path: path.to_owned(), state: State::of(&std::fs::metadata(path)?) })
    }

    /// Whether the same file is still there, unmodified.
    pub fn check(&self) -> std::result::Result<(), Changed> {
        let same = Stamp::of(&self.path).is_ok_and(|now| now == *self);
        if same { Ok(()) } else { Err(Changed(self.path.clone())) }
    }
}

/// A regular file, opened.
#[derive(Debug)]
pub struct InputFile {
    file: File,
    stamp: Stamp,
}

impl InputFile {
    /// Opens a file.
    pub fn open(path: &Path) -> Result<InputFile> {
        let (file, found) = open(path, false)?;
        Ok(InputFile { file, stamp: Stamp { path: path.to_owned(), state: State::of(&found) } })
    }

    /// The stamp of the file when it was opened.
    pub fn stamp(&self) -> &Stamp {
        &self.stamp
    }

    /// All its bytes.
    pub fn read(&self, most: u64) -> Result<Vec<u8>> {
        let bytes = bounded(&self.file, most)?;
        self.check_contents().map_err(Error::other)?;
        Ok(bytes)
    }

    /// The file, for streaming reads.
    pub fn into_file(self) -> File {
        self.file
    }

    /// The file, mapped.
    pub fn map(&self) -> Result<MappedFile> {
        MappedFile::new(&self.file, &self.stamp.path)
    }

    /// Whether this very file is unmodified. It may have lost its name, which is how plans are replaced: that changes
    /// everything except its size and modification time.
    pub fn check_contents(&self) -> std::result::Result<(), Changed> {
        let now = self.file.metadata().map(|found| State::of(&found));
        let before = &self.stamp.state;
        let same = now.is_ok_and(|now| (now.bytes, now.modified) == (before.bytes, before.modified));
        if same { Ok(()) } else { Err(Changed(self.stamp.path.clone())) }
    }
}

/// The bytes of a file, up to a maximum.
pub fn read(path: &Path, most: u64) -> Result<Vec<u8>> {
    InputFile::open(path)?.read(most)
}

/// The text of a file.
pub fn read_text(path: &Path, most: u64) -> Result<String> {
    text(read(path, most)?)
}

/// The text of a file, or of a pipe such as `<(…)`, up to [`TEXT_BYTES`].
pub fn read_text_or_pipe(path: &Path, most: u64) -> Result<String> {
    let (file, found) = open(path, true)?;
    if found.is_file() {
        return text(bounded(&file, most)?);
    }
    let first = wait_for_writer(&file)?;
    text(bounded(first.as_slice().chain(&file), TEXT_BYTES)?)
}

/// A file or a pipe, for reading as it comes.
pub struct Stream {
    /// Its bytes.
    pub reader: Box<dyn Read + Send>,
    /// Whether it is a regular file, which can be read again.
    pub is_file: bool,
}

/// Opens a file, or a pipe such as `<(…)`, for reading as it comes.
pub fn stream(path: &Path) -> Result<Stream> {
    let (file, found) = open(path, true)?;
    if found.is_file() {
        return Ok(Stream { reader: Box::new(file), is_file: true });
    }
    let first = wait_for_writer(&file)?;
    Ok(Stream { reader: Box::new(std::io::Cursor::new(first).chain(file)), is_file: false })
}

/// All bytes of a reader, up to a maximum.
pub fn bounded(from: impl Read, most: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        let reason = format!("is too large, expected at most {most} bytes");
        return Err(Error::new(ErrorKind::InvalidData, reason));
    }
    Ok(bytes)
}

/// Bytes as text.
pub fn text(bytes: Vec<u8>) -> Result<String> {
    String::from_utf8(bytes).map_err(|_| Error::new(ErrorKind::InvalidData, "is not UTF-8 text"))
}

/// Opens a file for reading without blocking. The path is checked first, since opening a device may have effects; and
/// again when it is open, since the path may have changed meanwhile.
fn open(path: &Path, pipes: bool) -> Result<(File, Metadata)> {
    expect_file(&std::fs::metadata(path)?, pipes)?;
    let mut options = File::options();
    options.read(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, libc::O_NONBLOCK | libc::O_NOCTTY);
    let file = options.open(path)?;
    let found = file.metadata()?;
    expect_file(&found, pipes)?;
    Ok((file, found))
}

fn expect_file(found: &Metadata, pipes: bool) -> Result<()> {
    if found.is_file() || pipes && is_pipe(found) {
        return Ok(());
    }
    let what = match found.is_dir() {
        true => "a directory",
        false if is_pipe(found) => "a pipe",
        false => "a device or a socket",
    };
    let expected = if pipes { ", nor a pipe" } else { "" };
    Err(Error::new(ErrorKind::InvalidInput, format!("is not a regular file{expected}: it is {what}")))
}

#[cfg(unix)]
fn is_pipe(found: &Metadata) -> bool {
    std::os::unix::fs::FileTypeExt::is_fifo(&found.file_type())
}

#[cfg(not(unix))]
fn is_pipe(_: &Metadata) -> bool {
    false
}

/// Waits for a writer on a pipe that was opened without blocking, and makes reads block from now on. Returns the byte
/// that this may consume.
#[cfg(unix)]
fn wait_for_writer(file: &File) -> Result<Vec<u8>> {
    use std::os::fd::AsRawFd;
    let mut poll = libc::pollfd { fd: file.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one open descriptor.
    let ready = unsafe { libc::poll(&raw mut poll, 1, WRITER_MS) };
    let mut first = Vec::new();
    if ready == 0 {
        let mut byte = [0];
        let mut file = file;
        match file.read(&mut byte) {
            Ok(0) => return Err(Error::new(ErrorKind::InvalidInput, "is a pipe without a writer")),
            Ok(_) => first.extend(byte),
            // there is a slow writer
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    // SAFETY: the descriptor is open, and owned by this function.
    let set = unsafe {
        let flags = libc::fcntl(file.as_raw_fd(), libc::F_GETFL);
        libc::fcntl(file.as_raw_fd(), libc::F_SETFL, flags & !libc::O_NONBLOCK)
    };
    if set < 0 { Err(Error::last_os_error()) } else { Ok(first) }
}

#[cfg(not(unix))]
fn wait_for_writer(_: &File) -> Result<Vec<u8>> {
    Ok(Vec::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "four").unwrap();
        assert_eq!(read(&path, 4).unwrap(), b"four");
        let error = read_text(&path, 3).unwrap_err().to_string();
        assert_eq!(error, "is too large, expected at most 3 bytes");
        assert_eq!(bounded(std::io::repeat(0), 1000).unwrap_err().kind(), ErrorKind::InvalidData);
        std::fs::write(&path, [0xff]).unwrap();
        assert_eq!(read_text(&path, 4).unwrap_err().to_string(), "is not UTF-8 text");
    }

    #[test]
    fn changes_are_seen() {
        let folder = tempfile::tempdir().unwrap();
        let [path, other] = ["file", "other"].map(|name| folder.path().join(name));
        let write = |text: &str| {
            // file timestamps are coarse
            std::thread::sleep(std::time::Duration::from_millis(20));
            std::fs::write(&path, text).unwrap();
        };
        write("first");
        let file = InputFile::open(&path).unwrap();
        file.stamp().check().unwrap();
        file.check_contents().unwrap();
        write("other");
        assert!(file.check_contents().unwrap_err().to_string().contains("file: was changed while it was read"));
        assert!(file.stamp().check().is_err());

        // a modification time that was set back, as archivers do
        let (stamp, modified) = (Stamp::of(&path).unwrap(), std::fs::metadata(&path).unwrap().modified().unwrap());
        write("again");
        File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
        #[cfg(unix)]
        assert!(stamp.check().is_err());

        // an open file that was replaced
        let file = InputFile::open(&path).unwrap();
        std::fs::write(&other, "again").unwrap();
        std::fs::rename(&other, &path).unwrap();
        file.check_contents().unwrap();
        assert!(file.stamp().check().is_err());
        std::fs::remove_file(&path).unwrap();
        assert!(file.stamp().check().is_err());
    }

    #[cfg(unix)]
    #[test]
    fn only_regular_files_are_opened() {
        let folder = tempfile::tempdir().unwrap();
        let says = |path: &Path| read(path, 9).unwrap_err().to_string();
        assert_eq!(says(folder.path()), "is not a regular file: it is a directory");
        assert_eq!(says(Path::new("/dev/zero")), "is not a regular file: it is a device or a socket");
        let zero = read_text_or_pipe(Path::new("/dev/zero"), 9).unwrap_err().to_string();
        assert_eq!(zero, "is not a regular file, nor a pipe: it is a device or a socket");
        let pipe = folder.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        assert_eq!(says(&pipe), "is not a regular file: it is a pipe");
        let nobody = read_text_or_pipe(&pipe, 9).unwrap_err().to_string();
        assert_eq!(nobody, "is a pipe without a writer");
    }

    #[cfg(unix)]
    #[test]
    fn pipes_are_read_to_their_end() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let writer = {
            let pipe = pipe.clone();
            std::thread::spawn(move || {
                let mut file = File::options().write(true).open(pipe).unwrap();
                for piece in ["in ", "pieces"] {
                    std::thread::sleep(std::time::Duration::from_millis(50));
                    std::io::Write::write_all(&mut file, piece.as_bytes()).unwrap();
                }
            })
        };
        assert_eq!(read_text_or_pipe(&pipe, 9).unwrap(), "in pieces");
        writer.join().unwrap();
    }
}
