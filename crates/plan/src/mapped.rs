//! Mapped files, and the file that an address belongs to.
//!
//! A file that is truncated while it is mapped has pages without contents: a process that reads one gets SIGBUS.
//! Reading instead of mapping would cost a copy of every weight of a plan that runs on a CPU, so a program handles the
//! signal instead (`cli` does), and asks here whether the address is in a mapped file. The lookup runs in a signal
//! handler, hence the table of atomics; the name of the file is looked up afterwards, by an ordinary thread.
//!
//! Contents that change without a signal, such as the rest of a page after a truncation, are detected by
//! [`crate::input::Stamp`].

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// The first address of a mapping and the end; zeros if unused.
struct Range {
    start: AtomicUsize,
    end: AtomicUsize,
}

/// Number of tracked mappings. Those beyond are read as well, but truncation of their files ends the process without a
/// message.
const KNOWN: usize = 4096;
static RANGES: [Range; KNOWN] = [const { Range { start: AtomicUsize::new(0), end: AtomicUsize::new(0) } }; KNOWN];
/// Their files, by first address.
static PATHS: Mutex<BTreeMap<usize, PathBuf>> = Mutex::new(BTreeMap::new());

fn paths<R>(work: impl FnOnce(&mut BTreeMap<usize, PathBuf>) -> R) -> R {
    // never held while mapped memory is read
    work(&mut PATHS.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Whether an address is in a mapped file. Async-signal-safe.
pub fn holds(address: usize) -> bool {
    let inside = |range: &Range| {
        let start = range.start.load(Ordering::Acquire);
        start != 0 && (start..range.end.load(Ordering::Acquire)).contains(&address)
    };
    RANGES.iter().any(inside)
}

/// The file that an address is in.
pub fn file_at(address: usize) -> Option<PathBuf> {
    paths(|paths| paths.range(..=address).next_back().map(|(_, path)| path.clone()))
}

/// A read-only mapped file.
#[derive(Debug)]
pub struct MappedFile {
    map: memmap2::Mmap,
    range: Option<usize>,
}

impl MappedFile {
    pub(crate) fn new(file: &File, path: &Path) -> std::io::Result<MappedFile> {
        // SAFETY: nothing writes to the mapping. What others do to the file changes the values that are read, which are
        // checked where they matter, or raises SIGBUS: see above.
        let map = unsafe { memmap2::Mmap::map(file) }?;
        let start = map.as_ptr() as usize;
        let free = |range: &Range| range.start.compare_exchange(0, start, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        let range = RANGES.iter().position(free);
        if let Some(index) = range {
            paths(|paths| paths.insert(start, path.to_owned()));
            // pages are mapped whole: what is after the end of the file is never read
            RANGES[index].end.store(start + map.len(), Ordering::Release);
        }
        Ok(MappedFile { map, range })
    }
}

impl Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map
    }
}

impl Drop for MappedFile {
    fn drop(&mut self) {
        if let Some(index) = self.range {
            paths(|paths| paths.remove(&(self.map.as_ptr() as usize)));
            // the end first: another mapping may reuse the entry once the start is gone
            RANGES[index].end.store(0, Ordering::Release);
            RANGES[index].start.store(0, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input::InputFile;

    #[test]
    fn addresses_of_maps_are_known_while_they_are_there() {
        let folder = tempfile::tempdir().unwrap();
        let [a, b] = ["a", "b"].map(|name| folder.path().join(name));
        std::fs::write(&a, [1; 5000]).unwrap();
        std::fs::write(&b, [2; 10]).unwrap();
        let [first, second] = [&a, &b].map(|path| InputFile::open(path).unwrap().map().unwrap());
        assert_eq!((first.len(), second[9]), (5000, 2));
        let places = [&first, &second].map(|map| map.as_ptr() as usize);
        for (place, bytes, path) in [(places[0], 5000, &a), (places[1], 10, &b)] {
            assert!(holds(place) && holds(place + bytes - 1) && !holds(place + bytes));
            assert_eq!(file_at(place + bytes - 1).as_ref(), Some(path));
        }
        drop(first);
        // other tests may have mapped something there meanwhile
        assert_ne!(file_at(places[0]).as_ref(), Some(&a));
        assert!(
            holds(places[1]) && !holds(0) && !holds(folder.path().as_os_str().as_encoded_bytes().as_ptr() as usize)
        );
    }
}
