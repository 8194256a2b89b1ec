//! `smelt generate`

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use smelt::{
    Driver, EngineSettings, EngineStats, GenerateTimings, Generation, GenerationParams, NewToken, Policy, Prompt,
};

use crate::args::parse_limit;
use crate::failure::Failure;
use crate::inputs::plan_in;
use crate::load::{LoadArgs, load};
use crate::output::{check_place, print, print_error, print_generated, print_json, write_file};
use crate::progress::Stderr;
use crate::prompts::{Prompts, PromptsArgs};

/// Generates text from a plan, or from a checkpoint, which is compiled on first use.
#[derive(Debug, Args)]
pub struct Generate {
    /// Plan file or checkpoint directory.
    #[arg(value_name = "DIR|FILE.plan")]
    model: PathBuf,
    /// Prompt text.
    #[arg(long, value_name = "TEXT", conflicts_with = "Prompt::Tokens", required_unless_present_any = ["Prompt::Tokens", "prompts"])]
    prompt: Option<String>,
    /// Prompt as token ids, comma-separated.
    #[arg(id = "Prompt::Tokens", long = "prompt-ids", value_name = "IDS", value_delimiter = ',',
          value_parser = parse_limit::<u32>)]
    prompt_ids: Vec<u32>,
    #[command(flatten)]
    prompts: PromptsArgs,
    /// Maximum number of tokens to generate [default: 128, or as many as the plan has room for].
    #[arg(long, value_name = "N", value_parser = parse_limit::<u32>)]
    max_tokens: Option<u32>,
    /// Continues after stop tokens.
    #[arg(long)]
    ignore_eos: bool,
    /// Prints one JSON object instead of the text.
    #[arg(long)]
    json: bool,
    /// Writes logits, f32 [positions, vocab]: one row per prompt position, then one per generated token.
    #[arg(long, value_name = "OUT.safetensors")]
    logits: Option<PathBuf>,
    /// Synchronizes after every kernel launch on a GPU, so that an error names its kernel.
    #[arg(long)]
    blocking: bool,
    /// What a request reserves of the KV cache when it is admitted: likely (its prompt, and what nine of ten requests
    /// generate), guaranteed-no-evict (all that it may generate) or max-utilization (its prompt).
    #[arg(long, value_name = "POLICY", default_value_t, value_parser = parse_policy)]
    policy: Policy,
    /// Computes prompts in full, without reusing KV blocks of earlier ones.
    #[arg(long)]
    no_prefix_cache: bool,
    /// Prints steps, KV blocks and preemptions to stderr at the end.
    #[arg(long)]
    stats: bool,
    #[command(flatten)]
    load: LoadArgs,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    prompt_ids: &'a [u32],
    token_ids: &'a [u32],
    text: Option<&'a str>,
    finish_reason: &'static str,
    timings: GenerateTimings,
}

impl Generate {
    pub fn run(self, driver: &Driver) -> Result<(), Failure> {
        let model = plan_in(&self.model);
        let mut options = self.load.options(&model)?;
        options.run.blocking = self.blocking;
        options.engine =
            EngineSettings { policy: self.policy, prefix_cache: !self.no_prefix_cache, ..EngineSettings::default() };
        let prompts = self.prompts.prompts.as_deref().map(Prompts::open).transpose()?;
        self.logits.iter().try_for_each(|path| check_place(path))?;
        let mut progress = Stderr::new(self.json);
        let llm = load(&self.load.driver(driver), &model, &options, &mut progress);
        progress.finish();
        let mut llm = llm?;
        if let Some(prompts) = prompts {
            let params = GenerationParams { ignore_eos: self.ignore_eos, ..GenerationParams::default() };
            let stats = prompts.answer(&mut llm, &params, self.max_tokens, self.prompts.unordered)?;
            self.stats.then(|| print_error(&line(&stats)));
            return Ok(());
        }
        let prompt = match self.prompt {
            Some(text) => Prompt::Text(text),
            None => Prompt::Tokens(self.prompt_ids),
        };
        let prompt = llm.tokens(&prompt)?;
        let max_tokens = self.max_tokens.unwrap_or_else(|| llm.room_for(prompt.len()).min(128));
        let prompt = Prompt::Tokens(prompt);
        let params = GenerationParams { max_tokens, ignore_eos: self.ignore_eos, logits: self.logits.is_some() };
        let json = self.json;
        let mut closed = Ok(());
        let mut first = true;
        let (generations, timings) = llm.generate_with(&[prompt], &params, &mut |token: NewToken| {
            if !json && closed.is_ok() {
                closed = print_generated(&piece(&token, std::mem::take(&mut first)));
            }
        })?;
        closed?;
        let stats = self.stats.then(|| line(&llm.requests().stats()));
        let generation = &generations[0];
        if let Some(path) = &self.logits {
            write_logits(path, generation, llm.plan().plan().model.vocab_size)?;
        }
        if !json {
            print("\n")?;
        }
        stats.iter().for_each(|stats| print_error(stats));
        if !json {
            return Ok(());
        }
        print_json(&Report {
            prompt_ids: &generation.prompt_ids,
            token_ids: &generation.token_ids,
            text: generation.text.as_deref(),
            finish_reason: generation.finish_reason.name(),
            timings,
        })
    }
}

fn parse_policy(text: &str) -> Result<Policy, String> {
    text.parse()
}

/// Statistics of the engine on a line.
fn line(stats: &EngineStats) -> String {
    let EngineStats { steps, steps_ahead, computed_tokens, cached_tokens, preemptions, blocks, blocks_cached, .. } =
        stats;
    format!(
        "{steps} steps, {steps_ahead} of them submitted ahead; {computed_tokens} tokens computed, {cached_tokens} found in \
         the prefix cache; {preemptions} preemptions; {blocks} KV blocks, {blocks_cached} of them kept for prompts to come"
    )
}

/// How a token is printed: its text, or its id if the model has no tokenizer.
fn piece(token: &NewToken, first: bool) -> String {
    match &token.text {
        Some(text) => text.clone(),
        None if first => token.id.to_string(),
        None => format!(" {}", token.id),
    }
}

fn write_logits(path: &Path, generation: &Generation, vocab: u32) -> Result<(), Failure> {
    let bytes: Vec<u8> = generation.logits.iter().flat_map(|value| value.to_le_bytes()).collect();
    let shape = vec![generation.logits.len() / vocab as usize, vocab as usize];
    let failed = |error: safetensors::SafeTensorError| Failure::bad_input(format!("{}: {error}", path.display()));
    let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape, &bytes).map_err(failed)?;
    let file = safetensors::serialize([("logits", view)], None).map_err(failed)?;
    write_file(path, &file)
}
