//! Tests as text: `cases/**/<case>.ir` has a command in its first line, `<case>.snap` next to it has the expected
//! outcome. One command per file, in `commands/`; `cargo test -p tests --test filetests` runs all of them. Another
//! package has its own cases with a [`Suite`] and [`filetests!`].

mod activations;
mod case;
mod commands;
mod compare;
mod compiled;
pub mod device;
mod edit;
mod execute;
mod graphs;
mod inputs;
mod interpret;
mod models;
mod planted;
mod random;
mod runner;
mod skip;
mod snapshot;
mod suite;
mod traced;
mod weights;

pub use activations::SeededActivations;
pub use case::{Case, ExpectedError, FiresWith};
pub use commands::{COMMANDS, Command, Outcome};
pub use compare::{Tolerance, compare};
pub use compiled::{Compiled, compile, compile_for, compile_with, limits, lower};
pub use edit::Edit;
pub use execute::execute;
pub use graphs::{Piece, in_f32, random_graph};
pub use inputs::{Scenario, StepValues};
pub use interpret::{StepOutputs, interpret, run_passes, run_passes_over};
pub use models::{model_folders, model_graph};
pub use planted::plant_outliers;
pub use random::Random;
pub use runner::{cases, run};
pub use skip::skip;
pub use suite::{Suite, folder};
pub use traced::Traced;
pub use weights::SeededWeights;

/// A test per command, over the cases of a [`Suite`].
#[macro_export]
macro_rules! filetests {
    (@commands $suite:expr; $($name:ident),*) => {
        $(#[test]
        fn $name() {
            $crate::Suite::run(&$suite, stringify!($name));
        })*

        #[test]
        fn every_command_has_a_test() {
            let names: Vec<&str> = $crate::COMMANDS.iter().map(|command| command.name()).collect();
            assert_eq!(names, [$(stringify!($name)),*]);
        }
    };
    ($suite:expr) => {
        $crate::filetests! {
            @commands $suite; roundtrip, verify, pass, pipeline, eval, select, plan, trace, rules, run, run_device, cuda,
            nvrtc
        }
    };
}
