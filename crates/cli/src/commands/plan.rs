//! `smelt plan`

use std::path::PathBuf;

use clap::Subcommand;
use smelt::dump_plan;

use crate::failure::Failure;
use crate::model::open_plan;
use crate::output::{print, print_json};

/// Tools for plans.
#[derive(Debug, Subcommand)]
pub enum PlanCommand {
    /// Prints a plan as text: weights, kernels, and each program's buffers and steps.
    Dump {
        /// Plan file.
        #[arg(value_name = "FILE.plan")]
        plan: PathBuf,
        /// Prints JSON, without machine code and the contents of text files.
        #[arg(long)]
        json: bool,
    },
}

impl PlanCommand {
    pub fn run(self) -> Result<(), Failure> {
        match self {
            PlanCommand::Dump { plan, json } => {
                let file = open_plan(&plan)?;
                if !json {
                    return print(&dump_plan(file.plan()));
                }
                let mut plan = file.plan().clone();
                plan.kernels.iter_mut().filter_map(|kernel| kernel.code.as_mut()).for_each(|code| code.cubin.clear());
                plan.files.iter_mut().for_each(|file| file.bytes.clear());
                print_json(&serde_json::json!({ "schema_version": 1, "plan": plan }))
            }
        }
    }
}
