//! The commands of the first line of a case, one per file, and their list.

mod cuda;
mod eval;
mod pass;
mod pipeline;
mod plan;
mod roundtrip;
mod rules;
mod run;
mod select;
mod trace;
mod verify;

use std::str::FromStr;

use codegen::Target;

use crate::{Case, Suite};

/// A command of cases.
pub trait Command: Sync {
    /// The word after `// test:`.
    fn name(&self) -> &'static str;

    /// Runs a case; the error is the failure.
    fn run(&self, suite: &Suite, case: &Case) -> Result<Outcome, String>;

    /// Whether it runs this case.
    fn takes(&self, _: &Suite, case: &Case) -> bool {
        case.command == self.name()
    }
}

/// The outcome of a case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Passed.
    Passed,
    /// This text must equal the snapshot.
    Text(String),
    /// This machine or this program cannot run it.
    Skipped(String),
}

/// All commands.
pub const COMMANDS: [&dyn Command; 13] = [
    &roundtrip::Roundtrip,
    &verify::Verify,
    &pass::Pass,
    &pipeline::Pipeline,
    &eval::Eval,
    &select::Select,
    &plan::Plan,
    &trace::Trace,
    &rules::Rules,
    &run::Run,
    &run::RunDevice,
    &cuda::Cuda,
    &cuda::Nvrtc,
];

/// The target of a case; `Err` is an outcome if this program has none of that name.
fn target(case: &Case) -> Result<Target, Outcome> {
    let name = case.args.first().map_or("", String::as_str);
    Target::from_str(name).map_err(|error| Outcome::Skipped(error.to_string()))
}
