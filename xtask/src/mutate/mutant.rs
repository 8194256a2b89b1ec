//! One damaged input: files, and the command that reads them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The input of a run. Files are below `in/`, results below `out/`; the command names both from their parent directory.
#[derive(Clone, Debug, Default)]
pub struct Mutant {
    /// The name of its kind.
    pub kind: &'static str,
    /// Names below `in/`, and their contents.
    pub files: Vec<(String, Content)>,
    /// Arguments of the program.
    pub args: Vec<String>,
}

/// The contents of a path.
#[derive(Clone, Debug)]
pub enum Content {
    /// A regular file.
    Bytes(Vec<u8>),
    /// An empty directory.
    Folder,
    /// A link to something else.
    Link(PathBuf),
    /// A pipe without a writer.
    Pipe,
}

impl Mutant {
    /// Arguments given as one text, with spaces between them.
    pub fn command(line: &str) -> Mutant {
        Mutant { args: line.split_whitespace().map(str::to_owned).collect(), ..Mutant::default() }
    }

    /// The same with another file.
    pub fn file(mut self, name: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Mutant {
        self.files.push((name.into(), Content::Bytes(bytes.into())));
        self
    }

    /// The same with the files of a checkpoint, as `in/model`.
    pub fn model(mut self, files: Vec<(String, Vec<u8>)>) -> Mutant {
        self.files.extend(files.into_iter().map(|(name, bytes)| (format!("model/{name}"), Content::Bytes(bytes))));
        self
    }

    /// The same with more arguments.
    pub fn args(mut self, args: impl IntoIterator<Item = impl Into<String>>) -> Mutant {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Bytes of all its files.
    pub fn bytes(&self) -> u64 {
        let sizes = self.files.iter().map(|(_, content)| match content {
            Content::Bytes(bytes) => bytes.len() as u64,
            _ => 0,
        });
        sizes.sum()
    }

    /// Writes its files below a folder.
    pub fn write(&self, folder: &Path) -> Result<(), String> {
        for (name, content) in &self.files {
            let path = folder.join(name);
            let failed = |error: std::io::Error| format!("{}: {error}", path.display());
            path.parent().map_or(Ok(()), fs::create_dir_all).map_err(failed)?;
            match content {
                Content::Bytes(bytes) => fs::write(&path, bytes).map_err(failed)?,
                Content::Folder => fs::create_dir(&path).map_err(failed)?,
                Content::Link(target) => std::os::unix::fs::symlink(target, &path).map_err(failed)?,
                Content::Pipe => {
                    let status = Command::new("mkfifo").arg(&path).status().map_err(failed)?;
                    status.success().then_some(()).ok_or_else(|| format!("mkfifo {} failed", path.display()))?;
                }
            }
        }
        Ok(())
    }

    /// Whether the files below a directory are unchanged.
    pub fn unchanged(&self, folder: &Path) -> Option<&str> {
        let changed = self.files.iter().find(|(name, content)| match content {
            Content::Bytes(bytes) => !fs::read(folder.join(name)).is_ok_and(|found| found == *bytes),
            _ => fs::symlink_metadata(folder.join(name)).is_err(),
        });
        changed.map(|(name, _)| name.as_str())
    }

    /// The command as one would type it in the parent of `in/`.
    pub fn line(&self) -> String {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_./,=:".contains(c);
        let word = |arg: &String| match !arg.is_empty() && arg.chars().all(plain) {
            true => arg.clone(),
            false => format!("$'{}'", arg.escape_default()),
        };
        self.args.iter().map(word).fold("smelt".to_owned(), |line, word| line + " " + &word)
    }
}
