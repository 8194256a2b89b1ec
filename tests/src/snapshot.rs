//! Snapshots next to their cases.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::Case;

/// How to accept a changed outcome.
const ACCEPT: &str =
    "read the difference, then accept it with `INSTA_UPDATE=always cargo test --test filetests -p PACKAGE`";

/// Compares `text` with `<case>.snap`.
pub(crate) fn check(case: &Case, text: &str) -> Result<(), String> {
    let folder = case.path.parent().unwrap_or(&case.path);
    let stem = case.path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let kept = case.path.with_extension("snap").exists();
    let compared = insta::with_settings!({
        snapshot_path => folder,
        prepend_module_to_snapshot => false,
        omit_expression => true,
    }, {
        // insta panics if the text differs: caught, so that all cases run
        catch_unwind(AssertUnwindSafe(|| insta::assert_snapshot!(stem, text)))
    });
    compared.map_err(|_| match kept {
        true => format!("differs from its snapshot: {ACCEPT}"),
        false => format!("has no snapshot: {ACCEPT}"),
    })
}

/// Cases of commands without an outcome have no snapshot.
pub(crate) fn refuse(case: &Case) -> Result<(), String> {
    match case.path.with_extension("snap").exists() {
        true => Err(format!("has a snapshot, but `{}` keeps none", case.command)),
        false => Ok(()),
    }
}
