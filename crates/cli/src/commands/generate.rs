//! `smelt generate`

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use smelt::{
    Driver, EngineSettings, EngineStats, FinishReason, GenerateTimings, Generation, GenerationParams, Llm, NewToken,
    Policy, Prompt,
};

use crate::args::parse_limit;
use crate::failure::Failure;
use crate::inputs::read_prompt;
use crate::load::{LoadArgs, load};
use crate::model::plan_or_checkpoint;
use crate::output::{check_place, print, print_error, print_generated, print_json, write_file};
use crate::progress::Stderr;
use crate::prompts::{Prompts, PromptsArgs};

/// Generates text from a plan, or from a checkpoint, which is compiled on first use.
#[derive(Debug, Args)]
pub struct Generate {
    /// Plan file or checkpoint directory.
    #[arg(value_name = "DIR|FILE.plan")]
    model: PathBuf,
    /// Prompt text. Without any prompt, it is read from stdin if that is a pipe or a file.
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true, group = "a prompt")]
    prompt: Option<String>,
    /// File with the prompt text, `-` for stdin. A line feed at its end is not part of the prompt.
    #[arg(long, value_name = "FILE", group = "a prompt")]
    prompt_file: Option<PathBuf>,
    /// Prompt as token ids, comma-separated.
    #[arg(id = "Prompt::Tokens", long = "prompt-ids", value_name = "IDS", value_delimiter = ',',
          value_parser = parse_limit::<u32>, group = "a prompt")]
    prompt_ids: Vec<u32>,
    #[command(flatten)]
    prompts: PromptsArgs,
    /// Maximum number of tokens to generate [default: 128, or as many as the plan has room for].
    #[arg(short = 'n', long, value_name = "N", value_parser = parse_limit::<u32>)]
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
    schema_version: u32,
    prompt_ids: &'a [u32],
    token_ids: &'a [u32],
    text: Option<&'a str>,
    finish_reason: &'static str,
    timings: GenerateTimings,
}

impl Generate {
    pub fn run(self, driver: &Driver) -> Result<(), Failure> {
        let model = plan_or_checkpoint(&self.model)?;
        let mut options = self.load.options(&model)?;
        options.run.blocking = self.blocking;
        options.engine =
            EngineSettings { policy: self.policy, prefix_cache: !self.no_prefix_cache, ..EngineSettings::default() };
        let prompts = self.prompts.prompts.as_deref().map(Prompts::open).transpose()?;
        let prompt = if prompts.is_none() { Some(self.prompt()?) } else { None };
        self.logits.iter().try_for_each(|path| check_place(path))?;
        let mut progress = Stderr::new(self.json);
        let llm = load(&self.load.driver(driver), &model, &options, &mut progress);
        progress.finish();
        let mut llm = llm?;
        let Some(prompt) = prompt else {
            let Some(prompts) = prompts else { return Ok(()) };
            let params = GenerationParams { ignore_eos: self.ignore_eos, ..GenerationParams::default() };
            let stats = prompts.answer(&mut llm, &params, self.max_tokens, self.prompts.unordered)?;
            self.stats.then(|| print_error(&line(&stats)));
            return Ok(());
        };
        let prompt = llm.tokens(&prompt)?;
        let room = llm.room_for(prompt.len());
        // without room for a single one, the engine says why
        let max_tokens = self.max_tokens.unwrap_or(room.clamp(1, DEFAULT_TOKENS));
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
            let why = match generation.finish_reason {
                FinishReason::Stop => "a stop token".to_owned(),
                _ if max_tokens == room => full(&llm, generation.prompt_ids.len() as u32 + room),
                _ if self.max_tokens.is_some() => "--max-tokens".to_owned(),
                _ => format!("{DEFAULT_TOKENS} tokens (--max-tokens for more)"),
            };
            let target = llm.target_reason().map_or_else(String::new, |reason| {
                let target = &llm.plan().plan().target;
                format!("; target {target} ({reason})")
            });
            print_error(&format!("{}{target}", summary(generation, &timings, &why)));
        }
        stats.iter().for_each(|stats| print_error(stats));
        if !json {
            return Ok(());
        }
        print_json(&Report {
            schema_version: 1,
            prompt_ids: &generation.prompt_ids,
            token_ids: &generation.token_ids,
            text: generation.text.as_deref(),
            finish_reason: generation.finish_reason.name(),
            timings,
        })
    }
}

/// What `--max-tokens` is, where there is room.
const DEFAULT_TOKENS: u32 = 128;

impl Generate {
    /// The prompt, from wherever it comes.
    fn prompt(&self) -> Result<Prompt, Failure> {
        match (&self.prompt, &self.prompt_file) {
            (Some(text), _) => Ok(Prompt::Text(text.clone())),
            (None, Some(file)) => read_prompt(file).map(Prompt::Text),
            (None, None) if !self.prompt_ids.is_empty() => Ok(Prompt::Tokens(self.prompt_ids.clone())),
            (None, None) if std::io::stdin().is_terminal() => {
                Err(Failure::usage("expected --prompt TEXT, --prompt-file FILE, or a prompt through a pipe"))
            }
            (None, None) => read_prompt(Path::new("-")).map(Prompt::Text),
        }
    }
}

/// What a generation took, and why it ended.
fn summary(generation: &Generation, timings: &GenerateTimings, why: &str) -> String {
    let (prompt, tokens) = (generation.prompt_ids.len(), generation.token_ids.len());
    let rate = match timings.decode_tokens_per_s {
        0.0 => String::new(),
        rate => format!(", then {rate:.1} tokens/s"),
    };
    let first = timings.prefill_ms;
    format!("{prompt} prompt tokens, {tokens} generated: the first after {first:.1} ms{rate}; ended by {why}")
}

/// What is full where a sequence of so many tokens has no room for another one.
fn full(llm: &Llm, tokens: u32) -> String {
    match llm.plan().plan().limits.max_seq_len {
        longest if longest == tokens => format!("the plan's longest sequence, {longest} tokens (--max-seq-len)"),
        _ => format!("the KV cache, which has room for {tokens} tokens (--kv-cache)"),
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
