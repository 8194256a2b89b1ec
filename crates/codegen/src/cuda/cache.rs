//! Compiled units on disk, by a hash of all their inputs.

use std::io::Write;
use std::path::Path;

use plan::partial::PartialFile;

/// The compiled form of a unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Artifact {
    pub cubin: Vec<u8>,
    pub ptx: String,
    pub log: String,
}

/// A cache key for these texts.
pub(super) fn key(texts: &[&str]) -> String {
    let mut hasher = blake3::Hasher::new();
    for text in texts {
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    }
    hasher.finalize().to_hex().to_string()
}

/// The entry of a key; `None` if the file is missing or damaged.
pub(super) fn load(folder: &Path, key: &str) -> Option<Artifact> {
    let bytes = plan::input::read(&folder.join(key), plan::input::DATA_BYTES).ok()?;
    let (hash, mut rest) = bytes.split_at_checked(32)?;
    if hash != blake3::hash(rest).as_bytes() {
        return None;
    }
    let mut part = || {
        let (length, tail) = rest.split_at_checked(8)?;
        let length = u64::from_le_bytes(length.try_into().ok()?);
        let (part, tail) = tail.split_at_checked(usize::try_from(length).ok()?)?;
        rest = tail;
        Some(part.to_vec())
    };
    let (cubin, ptx, log) = (part()?, part()?, part()?);
    Some(Artifact { cubin, ptx: String::from_utf8(ptx).ok()?, log: String::from_utf8(log).ok()? })
}

/// Stores under a key, atomically.
pub(super) fn store(folder: &Path, key: &str, artifact: &Artifact) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    let mut body = Vec::new();
    for part in [&artifact.cubin[..], artifact.ptx.as_bytes(), artifact.log.as_bytes()] {
        body.extend((part.len() as u64).to_le_bytes());
        body.extend(part);
    }
    let mut file = PartialFile::create(&folder.join(key))?;
    file.file().write_all(blake3::hash(&body).as_bytes())?;
    file.file().write_all(&body)?;
    file.keep()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_is_loaded_and_damage_is_a_miss() {
        let folder = tempfile::tempdir().expect("a folder");
        let key = key(&["unit", "options"]);
        let artifact = Artifact { cubin: vec![1, 2, 3], ptx: "ptx".to_owned(), log: String::new() };
        assert_eq!(load(folder.path(), &key), None);
        store(folder.path(), &key, &artifact).expect("written");
        assert_eq!(load(folder.path(), &key), Some(artifact));
        let path = folder.path().join(&key);
        let mut bytes = std::fs::read(&path).expect("there");
        bytes[40] ^= 1;
        std::fs::write(&path, bytes).expect("written");
        assert_eq!(load(folder.path(), &key), None);
    }

    #[test]
    fn texts_do_not_run_together() {
        assert_ne!(key(&["ab", "c"]), key(&["a", "bc"]));
    }
}
