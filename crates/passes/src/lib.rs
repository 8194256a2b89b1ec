//! Passes over graphs: what a pass is, the passes of smelt, the pipeline they form, and the manager that runs it.
//! Does no I/O and knows no kernel.

/// The passes of a folder, one line per file: its module, and the pass that it exports.
macro_rules! passes {
    ($($file:ident: $pass:ident),+ $(,)?) => {
        $(mod $file;)+
        $(pub use $file::$pass;)+
    };
}

pub mod calibration;
mod cleanup;
mod fusion;
mod list;
mod manager;
mod pass;
pub mod pipeline;
pub mod quantize;
pub mod rules;

pub use cleanup::*;
pub use fusion::*;
/// Used by `rewrite_pass!`, whose callers may not depend on this crate.
#[doc(hidden)]
pub use ir;
pub use list::PassList;
pub use manager::{Cause, Observer, PassFailure, PassManager, PassOptions, PassReport, Silent};
pub use pass::{Changed, Numerics, Pass, PassContext, PassError};
pub use pipeline::{Pipeline, Slot};
pub use rules::TextRule;
