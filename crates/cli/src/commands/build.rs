//! `smelt build`, for those who know `trtllm-build`

use std::path::PathBuf;

use clap::Args;
use smelt::Driver;

use super::compile::table;
use crate::args::{CacheArgs, CompileArgs};
use crate::emit::{EmitArgs, compile};
use crate::failure::Failure;
use crate::model::checkpoint;
use crate::output::{check_place, make_folder, print};

/// Compiles a checkpoint with the options of trtllm-build: writes OUTPUT_DIR/model.plan.
#[derive(Debug, Args)]
pub struct Build {
    /// Checkpoint directory.
    #[arg(long, value_name = "DIR", alias = "checkpoint-dir")]
    model_dir: PathBuf,
    /// Directory to write model.plan to.
    #[arg(long, value_name = "DIR")]
    output_dir: PathBuf,
    #[command(flatten)]
    cache: CacheArgs,
    #[command(flatten)]
    compile: CompileArgs,
}

impl Build {
    pub fn run(self, driver: &Driver) -> Result<(), Failure> {
        let dir = checkpoint(&self.model_dir)?;
        let options = self.compile.options()?;
        let made = !self.output_dir.exists();
        make_folder(&self.output_dir)?;
        let output = self.output_dir.join("model.plan");
        check_place(&output)?;
        let driver = self.cache.driver(driver);
        let report = compile(&EmitArgs::default(), |_, progress| driver.compile(&dir, &output, &options, progress));
        if report.is_err() && made {
            // a failure leaves nothing; a directory that cannot be removed is not empty
            let _ = std::fs::remove_dir(&self.output_dir);
        }
        print(&table(&report?, Some(&output)))
    }
}
