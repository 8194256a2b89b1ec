//! `cargo xtask tour`: runs the README's commands as a reader would.

use std::path::Path;
use std::process::Command;

use crate::process::{cargo, run as run_command};
use crate::test;

/// Code blocks of the README that are run, one shell for all of them.
const FENCE: &str = "```sh tour";

/// Builds the program and runs the tour with it on the path.
pub fn run(root: &Path) -> Result<(), String> {
    let readme = std::fs::read_to_string(root.join("README.md")).map_err(|error| format!("README.md: {error}"))?;
    let script = script(&readme);
    if script.is_empty() {
        return Err(format!("README.md has no block that starts with {FENCE}"));
    }
    run_command(&mut cargo(root, ["build", "--release", "--quiet", "-p", "cli"]))?;
    let old = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::iter::once(root.join("target/release")).chain(std::env::split_paths(&old));
    let path = std::env::join_paths(folders).map_err(|error| error.to_string())?;
    let mut bash = Command::new("bash");
    bash.envs(test::nvrtc_home(root).map(|home| ("SMELT_CUDA_HOME", home)));
    bash.current_dir(root).env("PATH", path).args(["-c", &format!("set -euxo pipefail\n{script}")]);
    // The script is long: the shell shows its lines as it runs them.
    let status = bash.status().map_err(|error| format!("bash did not start: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("the README's tour failed ({status})")) }
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
