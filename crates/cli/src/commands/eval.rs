//! `smelt eval`

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use smelt::eval::{self, Passage, Score, WindowOptions, Windows};
use smelt::{Driver, LoadOptions, Progress};

use crate::args::WindowArgs;
use crate::failure::Failure;
use crate::inputs::read_text;
use crate::load::{LoadArgs, load};
use crate::model::plan_or_checkpoint;
use crate::output::{print, print_json};
use crate::progress::Stderr;

/// Measures how well a model predicts a text: perplexity and mean negative log-likelihood in nats.
///
/// The text is one stream of tokens, cut into windows. Tokens that the tokenizer puts before a text, such as `<s>`,
/// precede each window and count towards its context. With a stride below the context length, windows overlap, and each
/// scores only the tokens that the previous one did not reach. Without such tokens, windows overlap by at least one
/// token, and the first token of the text is not scored.
#[derive(Debug, Args)]
pub struct Eval {
    /// Plan file, or checkpoint directory, which is compiled for this run.
    #[arg(value_name = "DIR|FILE.plan")]
    model: PathBuf,
    /// Text file, UTF-8; may be a pipe of at most 64 MiB.
    #[arg(long, value_name = "FILE")]
    text: PathBuf,
    #[command(flatten)]
    windows: WindowArgs,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    load: LoadArgs,
}

/// What was measured.
#[derive(Serialize)]
struct Report {
    schema_version: u32,
    #[serde(flatten)]
    score: Score,
    #[serde(flatten)]
    windows: Windows,
}

impl Eval {
    pub fn run(self, driver: &Driver) -> Result<(), Failure> {
        let mut progress = Stderr::new(self.json);
        let report = self.measure(driver, &mut progress);
        progress.finish();
        let report = report?;
        if self.json { print_json(&report) } else { print(&report.table()) }
    }

    fn measure(&self, driver: &Driver, progress: &mut Stderr) -> Result<Report, Failure> {
        let windows = WindowOptions::from(self.windows);
        let text = read_text("--text", &self.text)?;
        let model = plan_or_checkpoint(&self.model)?;
        let mut options = self.load.options(&model)?;
        // plans that score have limits of their own, and are of no use to other commands
        options = LoadOptions { compile: windows.compile_options(options.compile), cache: None, ..options };
        let mut llm = load(&self.load.driver(driver), &model, &options, progress)?;
        progress.phase("scoring");
        let passage = Passage::new(&llm, &text)?;
        let windows = windows.resolve(&llm, &passage)?;
        let score = eval::score(&mut llm, &passage, windows, &mut |position, _, _| {
            progress.items(position as u64, passage.tokens().len() as u64);
        })?;
        Ok(Report { schema_version: 1, score, windows })
    }
}

impl Report {
    fn table(&self) -> String {
        let (score, windows) = (&self.score, &self.windows);
        format!(
            "perplexity {:.4}\nnll        {:.4} nats per token\ntokens     {}, in windows of {}, {} apart\n",
            score.perplexity, score.nll, score.tokens, windows.context, windows.stride
        )
    }
}
