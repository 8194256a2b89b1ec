//! Tests that are texts: `cases/**/<case>.ir` says on its first line what is tested, `<case>.snap` beside it keeps
//! the outcome. One command a file, in `commands/`; `cargo test -p tests --test filetests` runs all of them.

mod case;
mod commands;
mod compare;
mod compiled;
pub mod device;
mod execute;
mod graphs;
mod inputs;
mod interpret;
mod models;
mod random;
mod runner;
mod snapshot;
mod weights;

pub use case::{Case, ExpectedError};
pub use commands::{COMMANDS, Command, Outcome};
pub use compare::{Tolerance, compare};
pub use compiled::{Compiled, compile, limits, lower};
pub use execute::execute;
pub use graphs::{Piece, in_f32, random_graph};
pub use inputs::{Scenario, StepValues};
pub use interpret::{StepOutputs, interpret, run_passes};
pub use models::{model_folders, model_graph};
pub use random::Random;
pub use runner::{cases, folder, run};
pub use weights::SeededWeights;
