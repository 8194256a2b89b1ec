//! The last lines of a run: which tests failed, with their messages, and what was skipped, with reasons. Both are taken
//! from the output of commands, where they have scrolled away.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// Lines that are kept of a failed command.
const LINES: usize = 60;
/// Lines that are kept if none of them is recognized as a failure: the last ones.
const LAST: usize = 30;
/// The fewest lines of a failed test.
const FEWEST: usize = 8;
/// How a line about a skip begins, as `tests::skip` writes it: `skipped: NAME: REASON`, or `NAME, 8 cases`.
const SKIPPED: &str = "skipped: ";

/// The skips of this process and of its commands, without the first word.
static SKIPS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Says that a step is skipped.
pub fn skip(step: &str, reason: &str) {
    println!("{SKIPPED}{step}: {reason}");
    record_skips(&format!("{SKIPPED}{step}: {reason}"));
}

/// Remembers the skips that an output reports.
pub fn record_skips(output: &str) {
    SKIPS.lock().unwrap_or_else(PoisonError::into_inner).extend(output.lines().filter_map(skipped).map(str::to_owned));
}

/// Prints how many tests and steps were skipped, by reason.
pub fn print_skips() {
    print!("{}", skips(&SKIPS.lock().unwrap_or_else(PoisonError::into_inner)));
}

/// The rest of a line about a skip. A harness with one thread has begun the line with the test's name.
fn skipped(line: &str) -> Option<&str> {
    let (before, skip) = line.split_once(SKIPPED)?;
    (before.is_empty() || before.starts_with("test ") && before.ends_with("... ")).then_some(skip)
}

fn skips(skips: &[String]) -> String {
    let mut reasons: BTreeMap<&str, (usize, Vec<&str>)> = BTreeMap::new();
    for skip in skips {
        let (name, reason) = skip.split_once(": ").unwrap_or((skip, "no reason given"));
        let cases = name.rsplit_once(", ").and_then(|(_, cases)| cases.strip_suffix(" cases")?.parse().ok());
        let (count, names) = reasons.entry(reason).or_default();
        *count += cases.unwrap_or(1);
        names.push(name);
    }
    let total: usize = reasons.values().map(|(count, _)| count).sum();
    let mut text = format!("== {total} skipped\n");
    for (reason, (count, names)) in reasons {
        let shown = names.iter().take(3).copied().collect::<Vec<_>>().join("; ");
        let more = if names.len() > 3 { "; …" } else { "" };
        text.push_str(&format!("  {count}: {reason} ({shown}{more})\n"));
    }
    text
}

/// The part of a failed command's output that says what failed: failed tests by name and the end of what each printed,
/// then errors of the compiler and of cargo; the last lines if there is neither.
pub fn failures(output: &str) -> String {
    let Failures { names, tests, errors } = Failures::of(output);
    let share = (LINES.saturating_sub(names.len()) / tests.len().max(1)).max(FEWEST);
    let mut lines = names;
    lines.extend(tests.into_iter().flat_map(|test| message(test, share)));
    lines.extend(errors.into_iter().map(str::to_owned));
    if lines.is_empty() {
        let all: Vec<&str> = output.lines().collect();
        lines = all[all.len().saturating_sub(LAST)..].iter().map(|line| (*line).to_owned()).collect();
    }
    if let more @ 1.. = lines.len().saturating_sub(LINES) {
        lines.truncate(LINES);
        lines.push(format!("(and {more} more lines, see above)"));
    }
    lines.iter().map(|line| format!("  {line}").trim_end().to_owned() + "\n").collect()
}

#[derive(Default)]
struct Failures<'a> {
    /// `tests/filetests.rs: pass`.
    names: Vec<String>,
    /// What each failed test printed, with the line of its name.
    tests: Vec<Vec<&'a str>>,
    /// Errors outside tests.
    errors: Vec<&'a str>,
}

impl<'a> Failures<'a> {
    fn of(output: &'a str) -> Failures<'a> {
        let mut found = Failures::default();
        let (mut target, mut in_test, mut in_error) = ("", false, false);
        for line in output.lines() {
            let started = line.trim_start();
            if let Some(name) = started.strip_prefix("Running ").or_else(|| started.strip_prefix("Doc-tests ")) {
                (target, in_error) = (name.split(" (").next().unwrap_or(name), false);
            } else if line.starts_with("---- ") && line.ends_with(" ----") {
                (in_test, in_error) = (true, false);
                found.tests.push(vec![line]);
            } else if line == "failures:" || line.starts_with("test result: ") {
                in_test = false;
            } else if let (true, Some(test)) = (in_test, found.tests.last_mut()) {
                test.push(line);
            } else if let Some(name) = line.strip_prefix("test ").and_then(|rest| rest.strip_suffix(" ... FAILED")) {
                found.names.push(format!("failed: {target}: {name}"));
            } else {
                in_error = !line.is_empty() && (in_error || line.starts_with("error: ") || line.starts_with("error["));
                found.errors.extend(in_error.then_some(line));
            }
        }
        found
    }
}

/// What a test printed, without backtraces, in at most this many lines after its name: first of all the message of its
/// last panic.
fn message(test: Vec<&str>, most: usize) -> Vec<String> {
    let mut in_trace = false;
    let told = |line: &&str| {
        in_trace = *line == "stack backtrace:" || in_trace && line.starts_with("  ");
        !in_trace && !line.is_empty() && !line.starts_with("note: ")
    };
    let lines: Vec<&str> = test[1..].iter().copied().filter(told).collect();
    let panic = lines.iter().rposition(|line| line.contains("' panicked at ") || line.contains(") panicked at "));
    let from = if lines.len() > most { panic.unwrap_or(0) } else { 0 };
    test[..1].iter().chain(lines[from..].iter().take(most)).map(|line| (*line).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\
   Compiling plan v0.1.0
     Running tests/filetests.rs (target/debug/deps/filetests-0a1b)

running 3 tests
skipped: run_device, 130 cases: no CUDA driver
test roundtrip ... ok
test pass ... FAILED
test nvrtc ... skipped: nvrtc, 8 cases: no NVRTC
ok

failures:

---- pass stdout ----
the whole of a difference
line 2
line 3
line 4
line 5
line 6
line 7
line 8

thread 'pass' (123) panicked at tests/src/snapshot.rs:24:9:
caught

thread 'pass' (123) panicked at tests/src/runner.rs:102:9:
1 of 400 cases failed

fusion/swiglu/x: differs from its snapshot
stack backtrace:
   0: panic_fmt
             at library/core/src/panicking.rs:80:14
note: Some details are omitted, run with `RUST_BACKTRACE=full` for a verbose backtrace.


failures:
    pass

test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.00s

error: test failed, to rerun pass `-p tests --test filetests`
   Doc-tests plan
error: 1 target failed:
    `-p tests --test filetests`
";

    #[test]
    fn failed_tests_are_named_with_their_messages() {
        let short = "  failed: tests/filetests.rs: pass\n  ---- pass stdout ----\n";
        let errors = "  error: test failed, to rerun pass `-p tests --test filetests`\n  error: 1 target failed:\n      \
                      `-p tests --test filetests`\n";
        let text = failures(OUTPUT);
        assert!(text.starts_with(&format!("{short}  the whole of a difference\n")), "{text}");
        assert!(text.ends_with(&format!("  fusion/swiglu/x: differs from its snapshot\n{errors}")), "{text}");
        // many failures share the lines: then the last panic is what remains of each
        let many: String = (0..20).map(|at| OUTPUT.replace("pass", &format!("pass{at}"))).collect();
        let text = failures(&many);
        assert_eq!(text.lines().count(), LINES + 1, "{text}");
        assert!(text.contains("  failed: tests/filetests.rs: pass19\n"), "{text}");
        assert!(
            text.contains("1 of 400 cases failed\n  fusion/swiglu/x: differs from its snapshot\n  ---- pass1 "),
            "{text}"
        );
        assert!(!text.contains("difference") && !text.contains("caught"), "{text}");
    }

    #[test]
    fn compiler_errors_and_otherwise_the_last_lines_are_kept() {
        let text = "warning: unused\n\nerror[E0308]: mismatched types\n --> src/a.rs:1:1\n\n   Checking b\n";
        assert_eq!(failures(text), "  error[E0308]: mismatched types\n   --> src/a.rs:1:1\n");
        let lines: String = (0..100).map(|at| format!("line {at}\n")).collect();
        assert!(failures(&lines).starts_with("  line 70\n"));
    }

    #[test]
    fn skips_are_counted_by_reason() {
        let found: Vec<String> = OUTPUT.lines().filter_map(skipped).map(str::to_owned).collect();
        let more = "filetests: nvrtc: 8 cases, 8 skipped";
        assert_eq!(skipped(more), None);
        let text = "== 138 skipped\n  130: no CUDA driver (run_device, 130 cases)\n  8: no NVRTC (nvrtc, 8 cases)\n";
        assert_eq!(skips(&found), text);
        assert_eq!(skips(&[]), "== 0 skipped\n");
    }
}
