//! `smelt build`, for those who know `trtllm-build`

use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use smelt::Driver;

use super::compile::table;
use super::trtllm::TrtllmArgs;
use crate::args::{CacheArgs, CompileArgs};
use crate::emit::{EmitArgs, compile};
use crate::failure::Failure;
use crate::model::checkpoint;
use crate::output::{check_place, make_folder, print, print_json};

/// Compiles a checkpoint with the options of trtllm-build: writes OUTPUT_DIR/model.plan. Options of trtllm-build that mean
/// nothing here are ignored with a note.
#[derive(Debug, Args)]
pub struct Build {
    /// Checkpoint directory.
    #[arg(long, value_name = "DIR", alias = "checkpoint-dir", required_unless_present = "dir")]
    model_dir: Option<PathBuf>,
    /// The same.
    #[arg(value_name = "DIR", conflicts_with = "model_dir")]
    dir: Option<PathBuf>,
    /// Directory to write model.plan to, or a file that ends in .plan.
    #[arg(short, long, value_name = "DIR", visible_alias = "output")]
    output_dir: PathBuf,
    /// Prints the report as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    trtllm: TrtllmArgs,
    #[command(flatten)]
    cache: CacheArgs,
    #[command(flatten)]
    compile: CompileArgs,
}

impl Build {
    pub fn run(self, driver: &Driver) -> Result<(), Failure> {
        let start = Instant::now();
        self.trtllm.check()?;
        let dir = checkpoint(self.model_dir.or(self.dir).as_deref().unwrap_or(Path::new("")))?;
        let options = self.compile.options()?;
        driver.check_compiler(&options.target)?;
        let names_plan = self.output_dir.extension().is_some_and(|extension| extension == "plan");
        let (folder, output) = match names_plan && !self.output_dir.is_dir() {
            true => (None, self.output_dir),
            false => (Some(self.output_dir.clone()), self.output_dir.join("model.plan")),
        };
        let made = folder.as_deref().filter(|folder| !folder.exists());
        folder.as_deref().map_or(Ok(()), make_folder)?;
        check_place(&output)?;
        let driver = self.cache.driver(driver);
        let report =
            compile(&EmitArgs::default(), self.json, |_, progress| driver.compile(&dir, &output, &options, progress));
        if let (Err(_), Some(folder)) = (&report, made) {
            // a failure leaves nothing; a directory that cannot be removed is not empty
            let _ = std::fs::remove_dir(folder);
        }
        let mut report = report?;
        report.total_ms = start.elapsed().as_secs_f64() * 1e3;
        if self.json { print_json(&report) } else { print(&table(&report, Some(&output))) }
    }
}
