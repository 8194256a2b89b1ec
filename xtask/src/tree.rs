//! Inputs of the checks: the text of the tree, and the dependencies.

use std::fs;
use std::path::Path;

use cargo_metadata::{DependencyKind, MetadataCommand};

/// Directories with sources and cases.
const FOLDERS: [&str; 8] = ["bench", "crates", "examples", "kernels", "models", "tests", "xtask", "docs"];

/// Files that are read as text. Weights and tokenizers are not.
const EXTENSIONS: [&str; 10] = ["rs", "cu", "cuh", "py", "sh", "toml", "md", "ir", "snap", "new"];

/// The files and packages of the workspace.
#[derive(Default)]
pub struct Tree {
    /// The root of the workspace.
    pub root: std::path::PathBuf,
    pub files: Vec<File>,
    pub packages: Vec<Package>,
    /// All crates of Cargo.lock but ours.
    pub licences: Vec<Licensed>,
}

/// A text file.
pub struct File {
    /// Relative to the root of the workspace, with `/`.
    pub path: String,
    pub text: String,
}

/// A package of ours.
pub struct Package {
    pub name: String,
    pub dependencies: Vec<Dependency>,
}

/// A dependency in a manifest of ours.
pub struct Dependency {
    pub name: String,
    /// Only for tests, examples and benchmarks.
    pub dev: bool,
    /// In this workspace.
    pub ours: bool,
}

/// A crate in Cargo.lock, and the licence in its manifest: an SPDX expression.
pub struct Licensed {
    pub name: String,
    pub licence: Option<String>,
}

impl Tree {
    /// Reads the tree below the root of the workspace.
    pub fn read(root: &Path) -> Result<Tree, String> {
        let (packages, licences) = (packages(root)?, licences(root)?);
        let mut tree = Tree { root: root.to_owned(), files: Vec::new(), packages, licences };
        for folder in FOLDERS.iter().filter(|folder| root.join(folder).exists()) {
            tree.read_folder(root, folder)?;
        }
        for path in ["ARCHITECTURE.md", "README.md", "deny.toml"] {
            if let Ok(text) = fs::read_to_string(root.join(path)) {
                tree.files.push(File { path: path.to_owned(), text });
            }
        }
        Ok(tree)
    }

    fn read_folder(&mut self, root: &Path, folder: &str) -> Result<(), String> {
        let failed = |error: std::io::Error| format!("{folder}: {error}");
        let mut entries: Vec<_> =
            root.join(folder).read_dir().map_err(failed)?.collect::<Result<_, _>>().map_err(failed)?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = format!("{folder}/{name}");
            if entry.path().is_dir() {
                if name != "target" && !name.starts_with('.') {
                    self.read_folder(root, &path)?;
                }
            } else if extension(&name).is_some_and(|extension| EXTENSIONS.contains(&extension)) {
                let text = fs::read_to_string(entry.path()).map_err(|error| format!("{path}: {error}"))?;
                self.files.push(File { path, text });
            }
        }
        Ok(())
    }

    pub fn with_extension(&self, wanted: &str) -> impl Iterator<Item = &File> {
        self.files.iter().filter(move |file| extension(&file.path) == Some(wanted))
    }

    pub fn get(&self, path: &str) -> Option<&File> {
        self.files.iter().find(|file| file.path == path)
    }
}

fn extension(path: &str) -> Option<&str> {
    path.rsplit_once('.').map(|(_, extension)| extension)
}

fn packages(root: &Path) -> Result<Vec<Package>, String> {
    let metadata = MetadataCommand::new().manifest_path(root.join("Cargo.toml")).no_deps().exec();
    let metadata = metadata.map_err(|error| format!("`cargo metadata` failed: {error}"))?;
    let package = |package: cargo_metadata::Package| Package {
        name: package.name.to_string(),
        dependencies: package
            .dependencies
            .into_iter()
            .map(|d| Dependency { dev: d.kind == DependencyKind::Development, ours: d.path.is_some(), name: d.name })
            .collect(),
    };
    Ok(metadata.packages.into_iter().map(package).collect())
}

/// What each crate of Cargo.lock says of its licence. Cargo must have all of them to say so, also those that only other
/// systems need, and fetches what it has not; where it cannot, only those for this one are looked at.
fn licences(root: &Path) -> Result<Vec<Licensed>, String> {
    let read = |options: &[&str]| {
        let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
        MetadataCommand::new().manifest_path(root.join("Cargo.toml")).other_options(options).exec()
    };
    let metadata = read(&["--locked"]).or_else(|_| {
        println!("note: not all crates can be fetched: the licences of those for other systems are not checked");
        read(&["--locked", "--offline", "--filter-platform", "host-tuple"])
    });
    let metadata = metadata.map_err(|error| format!("`cargo metadata --locked` failed: {error}"))?;
    let foreign = metadata.packages.into_iter().filter(|package| package.source.is_some());
    Ok(foreign.map(|p| Licensed { name: format!("{} {}", p.name, p.version), licence: p.license }).collect())
}

#[cfg(test)]
impl Tree {
    /// A tree of files given as path and text.
    pub fn of(files: &[(&str, &str)]) -> Tree {
        let file = |&(path, text): &(&str, &str)| File { path: path.to_owned(), text: text.to_owned() };
        Tree { files: files.iter().map(file).collect(), ..Tree::default() }
    }
}
