//! `smelt new-pass`

use std::path::{Path, PathBuf};

use clap::Args;
use smelt::plans::input::{TEXT_BYTES, read_text};
use smelt::{Driver, Error};

use crate::failure::Failure;
use crate::output::{make_folder, print, write_file};

/// Writes a crate with a pass of one's own: smelt's command line with it, its case, and a manifest that optimizes the
/// kernels in debug builds, too.
#[derive(Debug, Args)]
pub struct NewPass {
    /// Name of the pass and of the crate, such as fuse-my-gate.
    name: String,
    /// Directory to create [default: the name].
    #[arg(long, value_name = "DIR")]
    path: Option<PathBuf>,
    /// Directory with the sources of smelt [default: the one around this directory].
    #[arg(long, value_name = "DIR")]
    smelt: Option<PathBuf>,
}

/// The example that is written under another name: CI builds and tests it.
const FILES: [(&str, &str); 8] = [
    ("src/lib.rs", include_str!("../../../../examples/new-pass/src/lib.rs")),
    ("src/main.rs", include_str!("../../../../examples/new-pass/src/main.rs")),
    ("src/pass.rs", include_str!("../../../../examples/new-pass/src/pass.rs")),
    ("tests/cases.rs", include_str!("../../../../examples/new-pass/tests/cases.rs")),
    ("cases/fires.ir", include_str!("../../../../examples/new-pass/cases/fires.ir")),
    ("cases/keeps-another-function.ir", include_str!("../../../../examples/new-pass/cases/keeps-another-function.ir")),
    ("cases/fires.snap", include_str!("../../../../examples/new-pass/cases/fires.snap")),
    (
        "cases/keeps-another-function.snap",
        include_str!("../../../../examples/new-pass/cases/keeps-another-function.snap"),
    ),
];

const MANIFEST: &str = include_str!("new-pass.toml");

impl NewPass {
    pub fn run(self, driver: &Driver) -> Result<(), Failure> {
        check_name(&self.name, driver)?;
        let smelt = self.smelt.or_else(around).ok_or_else(|| {
            Failure::usage("expected --smelt DIR, the directory with smelt's sources, from which the crate is built")
        })?;
        if !is_smelt(&smelt) {
            return Err(Failure::bad_input(format!("{}: is not a checkout of smelt", smelt.display())));
        }
        let io = |path: &Path| {
            let path = path.to_owned();
            move |error| Failure::from(Error::Io { path, error })
        };
        let smelt = smelt.canonicalize().map_err(io(&smelt))?;
        let folder = self.path.unwrap_or_else(|| PathBuf::from(&self.name));
        if folder.exists() {
            return Err(Failure::usage(format!("{}: exists already, expected a new directory", folder.display())));
        }
        let manifest = MANIFEST.replace("NAME", &self.name).replace("SMELT", &smelt.display().to_string());
        let files = FILES.iter().map(|(path, text)| (*path, renamed(text, &self.name)));
        // the versions that smelt is tested with; read before anything is written
        let lock = smelt.join("Cargo.lock");
        let versions = read_text(&lock, TEXT_BYTES).map_err(io(&lock))?;
        for (path, text) in files.chain([("Cargo.toml", manifest), ("Cargo.lock", versions)]) {
            let path = folder.join(path);
            path.parent().map_or(Ok(()), make_folder)?;
            write_file(&path, text.as_bytes())?;
        }
        let place = folder.display();
        print(&format!(
            "{place}/src/pass.rs       the pass\n{place}/cases/fires.ir   a graph that it changes\n\n\
             cd {place}\n\
             cargo test                       # the case: its effect, and that it changes no value\n\
             cargo run -- --list-passes       # smelt with the pass\n"
        ))
    }
}

/// Names that cargo and the driver take.
fn check_name(name: &str, driver: &Driver) -> Result<(), Failure> {
    let word = |word: &str| word.starts_with(|c: char| c.is_ascii_lowercase());
    let plain = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    if !plain || !name.split('-').all(word) || ["test", "smelt", "cli", "tests"].contains(&name) {
        let expected = "expected lowercase words with dashes between them, such as fuse-my-gate";
        return Err(Failure::usage(format!("`{name}` cannot be the name of a crate here: {expected}")));
    }
    match driver.pass_named(name) {
        Ok(_) => Err(Failure::usage(format!("there is a pass `{name}` already: expected another name"))),
        Err(_) => Ok(()),
    }
}

/// `new-pass`, `new_pass` and `NewPass` to a name of the same form.
fn renamed(text: &str, name: &str) -> String {
    let camel = name.split('-').map(|word| word[..1].to_ascii_uppercase() + &word[1..]).collect::<String>();
    text.replace("new-pass", name).replace("new_pass", &name.replace('-', "_")).replace("NewPass", &camel)
}

/// The checkout of smelt that the current directory is in.
fn around() -> Option<PathBuf> {
    let here = std::env::current_dir().ok()?;
    here.ancestors().find(|folder| is_smelt(folder)).map(Path::to_owned)
}

fn is_smelt(folder: &Path) -> bool {
    ["crates/smelt/Cargo.toml", "crates/cli/Cargo.toml", "tests/Cargo.toml"]
        .iter()
        .all(|file| folder.join(file).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_crates_and_new() {
        let driver = Driver::new();
        for name in ["fuse-my-gate", "a", "x2"] {
            assert!(check_name(name, &driver).is_ok(), "{name}");
        }
        for name in ["", "A", "a_b", "-a", "a-", "a--b", "2x", "a-2", "../a", "fuse-silu-mul", "test"] {
            assert!(check_name(name, &driver).is_err(), "{name}");
        }
        assert_eq!(renamed("new-pass new_pass::NewPass", "fuse-my-gate"), "fuse-my-gate fuse_my_gate::FuseMyGate");
    }
}
