//! Kernels of each target. A kernel is a [`Row`] in the file that mirrors its code, and a line in the list of its
//! target.

pub(crate) mod cpu;
pub(crate) mod cuda;

use std::sync::LazyLock;

use ir::OpClass;
use ir::ops::OpSet;

use plan::devices::sm90;

use crate::{About, Call, Kernel, Refusal, Site};

/// See [`Kernel::call`] and [`Kernel::candidates`].
type Choose = fn(&Site<'_>) -> Result<Call, Refusal>;
type Candidates = fn(&Site<'_>) -> Result<Vec<Call>, Refusal>;

/// A kernel of smelt.
#[derive(Debug)]
struct Row {
    /// Its name in plans.
    name: &'static str,
    ops: Ops,
    /// The file with its code, by its path in the repository.
    file: &'static str,
    call: Choose,
    /// Its configurations, if it has several.
    candidates: Option<Candidates>,
}

impl Row {
    const fn new(name: &'static str, ops: &'static [&'static str], file: &'static str, call: Choose) -> Row {
        Row { name, ops: Ops::Named(ops), file, call, candidates: None }
    }

    /// The same kernel with several configurations.
    const fn tuned(self, candidates: Candidates) -> Row {
        Row { candidates: Some(candidates), ..self }
    }
}

/// The ops of a kernel.
#[derive(Clone, Copy, Debug)]
enum Ops {
    Named(&'static [&'static str]),
    /// Every op with a formula.
    Elementwise,
}

impl Ops {
    fn names(self) -> &'static [&'static str] {
        static ELEMENTWISE: LazyLock<Vec<&str>> = LazyLock::new(|| {
            let ops = OpSet::standard();
            let elementwise = ops.iter().filter(|op| op.class == OpClass::Elementwise);
            elementwise.map(|op| op.mnemonic).collect()
        });
        match self {
            Ops::Named(names) => names,
            Ops::Elementwise => &ELEMENTWISE,
        }
    }
}

impl Kernel for Row {
    fn name(&self) -> &'static str {
        self.name
    }

    fn call(&self, site: &Site<'_>) -> Result<Call, Refusal> {
        (self.call)(site)
    }

    fn candidates(&self, site: &Site<'_>) -> Result<Vec<Call>, Refusal> {
        let Some(candidates) = self.candidates else { return Ok(vec![self.call(site)?]) };
        let fits = |call: &Call| call.device.as_ref().is_none_or(|device| device.shared_bytes <= sm90::SHARED_BYTES);
        Ok(candidates(site)?.into_iter().filter(fits).collect())
    }

    fn about(&self) -> About {
        About { ops: self.ops.names(), file: self.file }
    }
}

/// All distinct configurations of a kernel for an op: its own choice, and other candidates.
fn distinct(
    own: Result<Call, Refusal>,
    others: impl Iterator<Item = Result<Call, Refusal>>,
) -> Result<Vec<Call>, Refusal> {
    let mut calls = vec![own?];
    for call in others.flatten() {
        if !calls.contains(&call) {
            calls.push(call);
        }
    }
    Ok(calls)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::{Path, PathBuf};

    use crate::Target;

    fn root() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
    }

    #[test]
    fn every_kernel_has_a_file_and_ops() {
        let ops = ir::ops::OpSet::standard();
        for target in Target::ALL {
            for kernel in target.catalog().iter() {
                let (name, about) = (kernel.name(), kernel.about());
                assert!(root().join(about.file).is_file(), "{target}, {name}: {} does not exist", about.file);
                let unknown: Vec<_> = about.ops.iter().filter(|op| ops.find(op).is_none()).collect();
                assert!(unknown.is_empty() && !about.ops.is_empty(), "{target}, {name}: there are no ops {unknown:?}");
            }
        }
    }

    #[test]
    fn elementwise_ops_come_from_the_set_of_ops() {
        let names = super::Ops::Elementwise.names();
        assert!(["map", "gelu", "silu_mul"].iter().all(|op| names.contains(op)) && !names.contains(&"swiglu"));
    }

    /// The files below a folder that have a word.
    fn files_with(word: &str, folder: &str, found: &mut BTreeSet<String>) {
        for entry in fs::read_dir(root().join(folder)).expect("a folder") {
            let entry = entry.expect("an entry");
            let path = format!("{folder}/{}", entry.file_name().to_string_lossy());
            if entry.path().is_dir() {
                files_with(word, &path, found);
            } else {
                let text = fs::read_to_string(entry.path()).expect("a text");
                let mut words = text.split(|c: char| !c.is_alphanumeric() && c != '_');
                if words.any(|found| found == word) {
                    found.insert(path);
                }
            }
        }
    }

    /// A kernel is a row in the file that mirrors its code, and a line in the list: `docs/book/add-a-kernel.md` says so
    /// for `argmax`, and it is so for all.
    #[test]
    fn a_kernel_is_two_files_and_a_line() {
        let book = fs::read_to_string(root().join("docs/book/add-a-kernel.md")).expect("the book");
        let (_, section) = book.split_once("## The files of a kernel of smelt\n").expect("the section");
        let section = section.split("\n## ").next().unwrap_or_default();
        let listed = section.lines().filter_map(|line| line.strip_prefix("- `")?.split('`').next());
        let listed: BTreeSet<String> = listed.map(str::to_owned).collect();
        let mut found = BTreeSet::new();
        for (target, folder) in [(Target::Cpu, "cpu"), (Target::Sm90a, "cuda")] {
            let list = format!("crates/codegen/src/kernels/{folder}");
            for kernel in target.catalog().iter() {
                let mut files = BTreeSet::new();
                files_with(&kernel.name().to_uppercase(), &list, &mut files);
                assert!(files.len() == 2 && files.contains(&format!("{list}/mod.rs")), "{}: {files:?}", kernel.name());
                if kernel.name() == "argmax" {
                    found.extend(files);
                    found.insert(kernel.about().file.to_owned());
                }
            }
        }
        files_with("Argmax", "crates/runtime/src/cpu", &mut found);
        assert_eq!(found, listed);
    }
}
