//! Skips that are seen: written past the test harness, which hides what a passing test prints, in a form that
//! `cargo xtask test` counts.

use std::io::Write;

/// Says that the running test is skipped.
pub fn skip(reason: &str) {
    let thread = std::thread::current();
    // the harness names threads after tests; with one thread there is no name to use
    let name = thread.name().filter(|name| *name != "main").unwrap_or("a test");
    note(&format!("skipped: {name}: {reason}\n"));
}

/// Writes past the test harness.
pub(crate) fn note(text: &str) {
    // a closed stderr is not a failure
    let _ = std::io::stderr().write_all(text.as_bytes());
}
