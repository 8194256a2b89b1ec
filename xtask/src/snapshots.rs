//! Unused snapshots: insta lists those that tests compare with.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::tidy::is_filetest;
use crate::tree::Tree;

/// The list of a run of the tests.
pub struct References {
    list: PathBuf,
}

impl References {
    /// Makes the tests that `command` runs write the list from scratch.
    pub fn record(root: &Path, command: &mut Command) -> Result<References, String> {
        let list = root.join("target/snapshot-references.txt");
        // insta appends.
        if list.exists() {
            fs::remove_file(&list).map_err(|error| format!("{}: {error}", list.display()))?;
        }
        command.env("INSTA_SNAPSHOT_REFERENCES_FILE", &list);
        Ok(References { list })
    }

    /// Fails if a snapshot file is not in the list. Those of filetests are left to `tidy`, since a case that the
    /// machine cannot run keeps its snapshot.
    pub fn reject_unused(&self, root: &Path) -> Result<(), String> {
        let tree = Tree::read(root)?;
        let paths = tree.with_extension("snap").map(|file| file.path.as_str());
        let list = fs::read_to_string(&self.list).unwrap_or_default();
        let unused = unused(root, &list, paths.filter(|path| !is_filetest(path)));
        if unused.is_empty() {
            return Ok(());
        }
        Err(format!("unused snapshots, delete them: {}", unused.join(", ")))
    }
}

/// The paths that are missing in a list of files, one per line. They may be spelled differently there.
fn unused<'p>(root: &Path, list: &str, paths: impl Iterator<Item = &'p str>) -> Vec<&'p str> {
    let used: HashSet<PathBuf> = list.lines().filter_map(|line| root.join(line).canonicalize().ok()).collect();
    paths.filter(|path| root.join(path).canonicalize().is_ok_and(|path| !used.contains(&path))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_are_not_listed_are_unused() {
        let list = format!("{}/src/tidy/../main.rs\nsrc/gone.rs\n", env!("CARGO_MANIFEST_DIR"));
        let paths = ["src/main.rs", "src/ci.rs"];
        assert_eq!(unused(Path::new(env!("CARGO_MANIFEST_DIR")), &list, paths.into_iter()), ["src/ci.rs"]);
    }
}
