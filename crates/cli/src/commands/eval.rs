//! `smelt eval`

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use smelt::eval::{self, Passage, Score, WindowOptions, Windows};
use smelt::plans::input::{self, DATA_BYTES};
use smelt::{Driver, Error, Llm, LoadOptions, Progress, RunOptions};

use super::compile::with_repro;
use super::generate::{plan_in, warn_of_options};
use crate::args::{CacheArgs, CompileArgs, parse_count, parse_threads};
use crate::failure::Failure;
use crate::output::{print, print_json, reads};
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
    /// Number of CPU threads [default: all].
    #[arg(long, value_name = "N", value_parser = parse_threads)]
    threads: Option<usize>,
    #[command(flatten)]
    cache: CacheArgs,
    #[command(flatten)]
    compile: CompileArgs,
}

/// How a text is cut.
#[derive(Clone, Copy, Debug, Args)]
pub struct WindowArgs {
    /// Window length in tokens [default: the plan's maximum sequence length, at most 2048].
    #[arg(long, value_name = "N", value_parser = parse_count::<u32>)]
    context: Option<u32>,
    /// Tokens from the start of one window to the start of the next [default: --context].
    #[arg(long, value_name = "N", value_parser = parse_count::<u32>)]
    stride: Option<u32>,
}

impl From<WindowArgs> for WindowOptions {
    fn from(args: WindowArgs) -> WindowOptions {
        WindowOptions { context: args.context, stride: args.stride }
    }
}

/// Reads a text, before anything is compiled.
pub fn read_text(path: &Path) -> Result<String, Failure> {
    reads(path);
    match input::read_text_or_pipe(path, DATA_BYTES) {
        Ok(text) if text.is_empty() => Err(Failure::bad_input(format!("{}: the file is empty", path.display()))),
        Ok(text) => Ok(text),
        Err(error) => Err(Error::Io { path: path.to_owned(), error }.into()),
    }
}

/// What was measured.
#[derive(Serialize)]
struct Report {
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
        let text = read_text(&self.text)?;
        let model = plan_in(&self.model);
        let compile = self.compile.options()?;
        warn_of_options(&model, &compile);
        let options = LoadOptions {
            compile: windows.compile_options(compile),
            cache: None,
            run: RunOptions { threads: self.threads, ..RunOptions::default() },
        };
        let llm = Llm::load_with(&self.cache.driver(driver), &model, &options, progress);
        let mut llm = llm.map_err(|error| with_repro(error, None))?;
        progress.phase("scoring");
        let passage = Passage::new(&llm, &text)?;
        let windows = windows.resolve(&llm, &passage)?;
        let score = eval::score(&mut llm, &passage, windows, &mut |position, _, _| {
            progress.items(position as u64, passage.tokens().len() as u64);
        })?;
        Ok(Report { score, windows })
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
