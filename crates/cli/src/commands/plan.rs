//! `smelt plan`

use std::path::PathBuf;

use clap::Subcommand;
use smelt::{Error, PlanFile, dump_plan};

use crate::failure::Failure;
use crate::output::print;

/// Tools for plans.
#[derive(Debug, Subcommand)]
pub enum PlanCommand {
    /// Prints a plan as text: weights, kernels, and each program's buffers and steps.
    Dump {
        /// Plan file.
        #[arg(value_name = "FILE.plan")]
        plan: PathBuf,
    },
}

impl PlanCommand {
    pub fn run(self) -> Result<(), Failure> {
        match self {
            PlanCommand::Dump { plan } => {
                let file = PlanFile::open(&plan).map_err(Error::from)?;
                print(&dump_plan(file.plan()))
            }
        }
    }
}
