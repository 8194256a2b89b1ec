//! `smelt bench`

mod profile;

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use serde::Serialize;
use smelt::plans::Limits;
use smelt::{Driver, GenerationParams, Llm, LoadOptions, NewToken, Plan, PlanCache, Prompt, RunOptions};

use super::generate::{build_identity, plan_in};
use crate::args::{CacheArgs, CompileArgs, parse_threads};
use crate::failure::Failure;
use crate::output::{print, print_json, reads_model};
use crate::progress::Stderr;

/// Measures a model: time to the first token, tokens per second.
#[derive(Debug, Args)]
pub struct Bench {
    /// A plan, or the folder of a checkpoint.
    #[arg(value_name = "DIR|FILE.plan")]
    model: PathBuf,
    /// Sequences, all at once.
    #[arg(long, value_name = "N", default_value_t = 1)]
    batch: usize,
    /// Tokens of each prompt, which are arbitrary ones.
    #[arg(long, value_name = "N", default_value_t = 512)]
    prompt_len: usize,
    /// Tokens to generate for each prompt.
    #[arg(long, value_name = "N", default_value_t = 128)]
    tokens: u32,
    /// Runs that are measured, behind one that is not; the median counts.
    #[arg(long, value_name = "N", default_value_t = 5)]
    repeat: usize,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
    /// Times each launch of a step that reads a prompt and of one that generates, and prints them by layer. Into the folder
    /// go profile.json, which `inspect --profile` shows, trace.json for Perfetto, and roofline.svg.
    #[arg(long, value_name = "FOLDER")]
    profile: Option<PathBuf>,
    /// Threads on a CPU [default: all].
    #[arg(long, value_name = "N", value_parser = parse_threads)]
    threads: Option<usize>,
    #[command(flatten)]
    cache: CacheArgs,
    #[command(flatten)]
    compile: CompileArgs,
}

/// What was measured. Times in milliseconds.
#[derive(Serialize)]
struct Report {
    schema_version: u32,
    target: String,
    batch: usize,
    prompt_len: usize,
    tokens: u32,
    /// From the plan file to the first possible step.
    load_ms: f64,
    /// Until every sequence has its first token.
    ttft_ms: f64,
    /// Tokens per second of all sequences, counted from there on.
    decode_tokens_per_s: f64,
    /// Tokens per second of all sequences, counted from the start.
    output_tokens_per_s: f64,
    /// `[ttft_ms, decode_tokens_per_s]` of each run.
    runs: Vec<[f64; 2]>,
}

impl Bench {
    pub fn run(self, driver: &Driver) -> Result<(), Failure> {
        if self.batch == 0 || self.prompt_len == 0 || self.repeat == 0 || self.tokens == 0 {
            return Err(Failure::usage("--batch, --prompt-len, --tokens and --repeat must be at least 1"));
        }
        if let Some(folder) = &self.profile {
            reads_model(&plan_in(&self.model));
            profile::prepare(folder)?;
        }
        let options = LoadOptions {
            compile: self.compile.options()?,
            cache: self.cache.folder().map(|folder| PlanCache::new(folder, build_identity())),
            run: RunOptions { threads: self.threads, ..RunOptions::default() },
        };
        let mut progress = Stderr::new(self.json);
        let llm = Llm::load_with(&self.cache.driver(driver), &plan_in(&self.model), &options, &mut progress);
        progress.finish();
        let mut llm = llm?;
        self.fits(llm.plan().plan())?;
        let mut load_ms = 0.0;
        let mut runs = Vec::new();
        let mut totals = Vec::new();
        for run in 0..=self.repeat {
            let measured = self.measure(&mut llm)?;
            load_ms = measured.load_ms;
            // the first run warms up
            if run > 0 {
                runs.push([measured.ttft_ms, measured.decode]);
                totals.push(measured.output);
            }
        }
        let report = Report {
            schema_version: 1,
            target: llm.plan().plan().target.clone(),
            batch: self.batch,
            prompt_len: self.prompt_len,
            tokens: self.tokens,
            load_ms,
            ttft_ms: median(runs.iter().map(|run| run[0]).collect()),
            decode_tokens_per_s: median(runs.iter().map(|run| run[1]).collect()),
            output_tokens_per_s: median(totals),
            runs,
        };
        let profiled = self.profiled(driver, &mut llm)?;
        if self.json { print_json(&report) } else { print(&(report.table() + &profiled)) }
    }

    /// Profiles where that is asked for.
    fn profiled(&self, driver: &Driver, llm: &mut Llm) -> Result<String, Failure> {
        let Some(folder) = &self.profile else { return Ok(String::new()) };
        let mut progress = Stderr::new(self.json);
        let run = RunOptions { threads: self.threads, ..RunOptions::default() };
        let ceilings = self.cache.driver(driver).ceilings(&llm.plan().plan().target, run, &mut progress);
        progress.finish();
        let load = profile::Load { batch_size: self.batch, input_len: self.prompt_len, output_len: self.tokens };
        Ok(format!("\n{}", profile::run(llm, load, &ceilings, folder)?))
    }

    /// Refuses what the plan has no room for at once, before any prompt is made.
    fn fits(&self, plan: &Plan) -> Result<(), Failure> {
        let Limits { max_batch_size, max_input_len, max_seq_len, .. } = plan.limits;
        let refuse = |asked: String, allowed: String, option: &str| {
            Err(Failure::usage(format!("{asked}: the plan has room for {allowed} (compile with a larger {option})")))
        };
        if self.batch > max_batch_size as usize {
            return refuse(format!("--batch {}", self.batch), format!("{max_batch_size} at once"), "--max-batch-size");
        }
        if self.prompt_len > max_input_len as usize {
            let asked = format!("--prompt-len {}", self.prompt_len);
            return refuse(asked, format!("prompts of {max_input_len} tokens"), "--max-input-len");
        }
        // neither is above 2^32 here
        let tokens = self.prompt_len as u64 + u64::from(self.tokens);
        if tokens > u64::from(max_seq_len) {
            let asked = format!("--prompt-len {} and --tokens {} are {tokens} tokens", self.prompt_len, self.tokens);
            return refuse(asked, format!("{max_seq_len} per sequence"), "--max-seq-len");
        }
        for group in &plan.kv {
            let needed = tokens.div_ceil(u64::from(group.block_tokens)) * self.batch as u64;
            if needed > u64::from(group.blocks) {
                let asked = format!("{} sequences of {tokens} tokens take {needed} KV blocks", self.batch);
                return refuse(asked, format!("{} of {} tokens", group.blocks, group.block_tokens), "--kv-cache");
            }
        }
        Ok(())
    }

    fn measure(&self, llm: &mut Llm) -> Result<Measured, Failure> {
        let vocab = llm.plan().plan().model.vocab_size as usize;
        // arbitrary ids, another text for each sequence
        let prompt =
            |index: usize| (0..self.prompt_len).map(move |at| ((index * 1009 + at * 7919 + 17) % vocab) as u32);
        let prompts: Vec<Prompt> = (0..self.batch).map(|index| Prompt::Tokens(prompt(index).collect())).collect();
        let params = GenerationParams { max_tokens: self.tokens, ignore_eos: true, logits: false };
        let start = Instant::now();
        let mut times: Vec<Vec<f64>> = vec![Vec::new(); self.batch];
        let (_, timings) = llm.generate_with(&prompts, &params, &mut |token: NewToken| {
            times[token.prompt].push(start.elapsed().as_secs_f64());
        })?;
        let first = times.iter().filter_map(|times| times.first()).copied().fold(0.0, f64::max);
        let end = times.iter().filter_map(|times| times.last()).copied().fold(0.0, f64::max);
        let later = times.iter().flatten().filter(|time| **time > first).count();
        let all: usize = times.iter().map(Vec::len).sum();
        Ok(Measured {
            load_ms: timings.load_ms,
            ttft_ms: first * 1e3,
            decode: if later > 0 { later as f64 / (end - first) } else { 0.0 },
            output: all as f64 / end,
        })
    }
}

/// One run.
struct Measured {
    load_ms: f64,
    ttft_ms: f64,
    decode: f64,
    output: f64,
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

impl Report {
    fn table(&self) -> String {
        let rows = [
            ("load", format!("{} x {} tokens on {}", self.batch, self.prompt_len, self.target)),
            ("start", format!("{:.0} ms from plan to first step", self.load_ms)),
            ("TTFT", format!("{:.2} ms", self.ttft_ms)),
            ("decode", format!("{:.1} tokens/s", self.decode_tokens_per_s)),
            ("whole run", format!("{:.1} tokens/s", self.output_tokens_per_s)),
        ];
        rows.into_iter().map(|(name, value)| format!("{name:<10} {value}\n")).collect()
    }
}
