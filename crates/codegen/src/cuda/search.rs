//! Finds versions of a library in directories, the newest first.

use std::path::{Path, PathBuf};

/// The files of a library such as `libnvrtc.so`: from the directories in order, which hold libraries or a toolkit (with
/// `lib64` or `lib` below).
pub(super) fn files(folders: &[PathBuf], name: &str) -> Vec<PathBuf> {
    let below = |folder: &PathBuf| ["", "lib64", "lib", "targets/x86_64-linux/lib"].map(|sub| folder.join(sub));
    let found = folders.iter().flat_map(below).flat_map(|folder| versions(&folder, name));
    found.map(|(_, path)| path).collect()
}

/// The files of a library in one directory, the highest version first: `NAME.13.0` before `NAME.9`, and `NAME` last,
/// which is a link to one of the others or the only file.
pub(super) fn versions(folder: &Path, name: &str) -> Vec<(Vec<u32>, PathBuf)> {
    let version = |path: &Path| -> Option<Vec<u32>> {
        let rest = path.file_name()?.to_str()?.strip_prefix(name)?;
        match rest.strip_prefix('.') {
            Some(numbers) => numbers.split('.').map(|number| number.parse().ok()).collect(),
            None => rest.is_empty().then(Vec::new),
        }
    };
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let mut found: Vec<(Vec<u32>, PathBuf)> = paths.filter_map(|path| Some((version(&path)?, path))).collect();
    found.sort_by(|a, b| b.cmp(a));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_numbers_and_other_files_are_not_asked() {
        let home = tempfile::tempdir().expect("a folder");
        let lib = home.path().join("lib");
        std::fs::create_dir(&lib).expect("made");
        for name in ["libx.so", "libx.so.9", "libx.so.13", "libx.so.12.8.93", "libx.so.12.10", "libx.so.13.old"] {
            std::fs::write(lib.join(name), "").expect("written");
        }
        std::fs::write(lib.join("libx-builtins.so.13"), "").expect("written");
        let found = files(&[home.path().join("nothing"), home.path().to_owned()], "libx.so");
        let names: Vec<_> = found.iter().filter_map(|path| path.file_name()?.to_str()).collect();
        assert_eq!(names, ["libx.so.13", "libx.so.12.10", "libx.so.12.8.93", "libx.so.9", "libx.so"]);
    }
}
