//! Finds the cases of a suite, runs those of a command, and reports all failures at once.

use std::any::Any;
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use crate::skip::note;
use crate::{COMMANDS, Case, Command, Outcome, Suite, snapshot};

/// What one command ran.
#[derive(Clone, Copy)]
struct Count {
    /// Cases that name it.
    own: usize,
    /// Cases that it ran: `roundtrip` also runs on those of other commands.
    ran: usize,
    skipped: usize,
}

/// The commands that have finished.
static FINISHED: Mutex<Vec<Count>> = Mutex::new(Vec::new());

impl Suite {
    /// All cases below the directory, by name; only those whose name contains `SMELT_CASE`, if it is set.
    pub fn cases(&self) -> Result<Vec<Case>, String> {
        let mut paths = Vec::new();
        find(&self.folder, &mut paths)?;
        paths.sort();
        let wanted = std::env::var("SMELT_CASE").unwrap_or_default();
        let cases = paths.iter().map(|path| Case::load(&self.folder, path)).collect::<Result<Vec<Case>, String>>()?;
        if let Some(case) = cases.iter().find(|case| !COMMANDS.iter().any(|command| command.name() == case.command)) {
            let known: Vec<&str> = COMMANDS.iter().map(|command| command.name()).collect();
            return Err(format!(
                "{}: unknown command `{}`, expected one of: {}",
                case.name,
                case.command,
                known.join(", ")
            ));
        }
        Ok(cases.into_iter().filter(|case| case.name.contains(&wanted)).collect())
    }

    /// Runs the cases of the command of this name.
    ///
    /// # Panics
    /// If a case fails; the message holds all failures.
    pub fn run(&self, name: &str) {
        let command = COMMANDS.iter().find(|command| command.name() == name).expect("the list names the command");
        let cases = self.cases().unwrap_or_else(|error| panic!("{error}"));
        let mut failures = Vec::new();
        let mut skipped = Vec::new();
        let mut ran = 0;
        for case in cases.iter().filter(|case| command.takes(self, case)) {
            ran += 1;
            match run_case(self, *command, case) {
                Ok(None) => {}
                Ok(Some(reason)) => skipped.push(reason),
                Err(reason) => failures.push(format!("{}: {reason}", case.name)),
            }
        }
        let own = cases.iter().filter(|case| case.command == name).count();
        report(name, Count { own, ran, skipped: skipped.len() }, &skipped);
        assert!(failures.is_empty(), "{} of {ran} cases failed\n\n{}", failures.len(), failures.join("\n\n"));
    }
}

/// All cases of smelt's own suite.
pub fn cases() -> Result<Vec<Case>, String> {
    Suite::standard().cases()
}

/// Runs the cases of smelt's own suite that a command takes.
///
/// # Panics
/// If a case fails.
pub fn run(name: &str) {
    Suite::standard().run(name);
}

fn find(folder: &Path, found: &mut Vec<PathBuf>) -> Result<(), String> {
    let error = |error: std::io::Error| format!("{}: {error}", folder.display());
    for entry in std::fs::read_dir(folder).map_err(error)? {
        let path = entry.map_err(error)?.path();
        if path.is_dir() {
            find(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "ir") {
            found.push(path);
        }
    }
    Ok(())
}

/// Runs one case. Returns why it was skipped.
fn run_case(suite: &Suite, command: &dyn Command, case: &Case) -> Result<Option<String>, String> {
    let outcome = catch_unwind(AssertUnwindSafe(|| command.run(suite, case)));
    match outcome.unwrap_or_else(|panic| Err(format!("panicked: {}", message(panic.as_ref()))))? {
        Outcome::Skipped(reason) => Ok(Some(reason)),
        Outcome::Text(text) => snapshot::check(case, &text).map(|()| None),
        Outcome::Passed if case.command == command.name() => snapshot::refuse(case).map(|()| None),
        Outcome::Passed => Ok(None),
    }
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("see above")
}

/// A line per command, one per reason for which it skipped cases, and one for all when the last command is done. Written
/// past the test harness: a skip is never silent.
fn report(name: &str, count: Count, skipped: &[String]) {
    let mut text = format!("filetests: {name}: {} cases, {} skipped\n", count.ran, count.skipped);
    for reason in skipped.iter().collect::<BTreeSet<_>>() {
        let cases = skipped.iter().filter(|other| *other == reason).count();
        text.push_str(&format!("skipped: {name}, {cases} cases: {reason}\n"));
    }
    let mut finished = FINISHED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    finished.push(count);
    if finished.len() == COMMANDS.len() {
        let own: usize = finished.iter().map(|count| count.own).sum();
        let skipped: usize = finished.iter().map(|count| count.skipped).sum();
        text.push_str(&format!("filetests: {own} cases, {skipped} skipped\n"));
    }
    note(&text);
}
