//! `cargo xtask tour`: runs the commands of the README and of the book's pages as a reader would.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::{cargo, run as run_command, run_as};
use crate::test;

/// Code blocks that are run, one shell for all of a page.
const FENCE: &str = "```sh tour";

/// Builds the program and runs the tour with it on the path.
pub fn run(root: &Path) -> Result<(), String> {
    let book = std::fs::read_dir(root.join("docs/book")).map_err(|error| format!("docs/book: {error}"))?;
    let mut pages: Vec<PathBuf> = book.flatten().map(|entry| entry.path()).collect();
    pages.sort();
    pages.insert(0, root.join("README.md"));
    // the program of the tests: CI does not build all of it a third time
    run_command(&mut cargo(root, ["build", "--quiet", "--workspace", "--bin", "smelt"]))?;
    let old = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::iter::once(root.join("target/debug")).chain(std::env::split_paths(&old));
    let path = std::env::join_paths(folders).map_err(|error| error.to_string())?;
    let home = test::nvrtc_home(root)?;
    for page in pages {
        let text = std::fs::read_to_string(&page).map_err(|error| format!("{}: {error}", page.display()))?;
        let script = script(&text);
        let name = page.strip_prefix(root).unwrap_or(&page).display();
        match page.file_name() {
            _ if !script.is_empty() => {}
            Some(file) if file == "README.md" && page.parent() == Some(root) => {
                return Err(format!("{name} has no block that starts with {FENCE}"));
            }
            _ => continue,
        }
        let mut bash = Command::new("bash");
        bash.envs(home.as_ref().map(|home| ("SMELT_CUDA_HOME", home)));
        bash.current_dir(root).env("PATH", &path).args(["-c", &format!("set -euxo pipefail\n{script}")]);
        // The script is long: the shell shows its lines as it runs them.
        run_as(&format!("bash with the commands of {name}"), &mut bash)?;
    }
    Ok(())
}

/// The lines of all blocks.
fn script(readme: &str) -> String {
    let blocks = readme.split(FENCE).skip(1).filter_map(|rest| rest.split_once("```"));
    blocks.map(|(block, _)| block).collect()
}

#[cfg(test)]
mod tests {
    use super::script;

    #[test]
    fn only_marked_blocks_are_run() {
        let readme = "a\n```sh tour\nsmelt doctor\n```\n```sh\nrm -r /\n```\n```sh tour\nsmelt inspect x\n```\n";
        assert_eq!(script(readme), "\nsmelt doctor\n\nsmelt inspect x\n");
    }
}
