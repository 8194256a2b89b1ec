//! A temporary directory in which a test runs the program.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

pub struct Sandbox {
    folder: tempfile::TempDir,
}

impl Sandbox {
    pub fn new() -> Sandbox {
        Sandbox { folder: tempfile::tempdir().unwrap() }
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// The project's directory.
    pub fn root(&self) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let root = self.root();
        let mut command = Command::new(env!("CARGO_BIN_EXE_smelt"));
        command.current_dir(root).env("SMELT_CACHE_DIR", self.path("cache")).env("NO_COLOR", "1").args(args);
        command
    }

    /// The command after a line of bash, such as a limit.
    pub fn after(&self, line: &str, args: &[&str]) -> Command {
        let command = self.command(args);
        let mut bash = Command::new("bash");
        bash.args(["-c", &format!("{line}; exec \"$0\" \"$@\"")]).arg(command.get_program()).args(command.get_args());
        bash.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        bash.current_dir(command.get_current_dir().unwrap());
        bash
    }

    pub fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// The output of a run that must succeed.
    pub fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.ok(args)).unwrap()
    }

    /// Checks the exit code, that stdout is empty, and the message on stderr.
    pub fn fails(&self, args: &[&str], code: i32, message: &str) {
        let output = self.run(args);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {errors}");
        assert!(errors.contains(message), "{args:?}: expected `{message}` in: {errors}");
        assert!(output.stdout.is_empty() && !errors.contains("panicked"), "{args:?}: {errors}");
    }

    pub fn files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.folder.path()).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}
