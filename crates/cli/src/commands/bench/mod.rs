//! `smelt bench`

mod compare;
mod profile;
mod report;
mod runs;
mod stats;

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Args, ValueEnum};
use smelt::plans::{
    Arithmetic, Cost, Limits, Machine, ProgramKind, Symbol, SymbolValues, context, step_cost, upper_bounds,
};
use smelt::{Ceilings, Driver, Error, Llm, Plan, PlanFile, Program, Progress, Step};

use self::compare::{Baseline, Limit};
use self::report::{Report, Row};
use self::runs::{FullBatch, Run, Workload};
use self::stats::{Quantiles, median};
use crate::args::{parse_count, parse_limit};
use crate::failure::Failure;
use crate::load::{LoadArgs, load};
use crate::model::plan_or_checkpoint;
use crate::output::{check_place, print, print_json, reads_model, write_file};
use crate::progress::Stderr;

/// Measures a model: time to first token, time per output token, tokens per second.
///
/// Each run has prompts of new random tokens, all sequences start at once, and each generates all of its tokens. Figures
/// are compared with the device's peak bandwidth and arithmetic rate, measured beforehand.
#[derive(Debug, Args)]
pub struct Bench {
    /// A plan, or the folder of a checkpoint.
    #[arg(value_name = "DIR|FILE.plan", required_unless_present = "engine_dir")]
    model: Option<PathBuf>,
    /// Same, under trtllm-bench's name.
    #[arg(long, value_name = "DIR|FILE.plan", conflicts_with = "model")]
    engine_dir: Option<PathBuf>,
    /// Batch sizes to measure, one after another.
    #[arg(long, value_name = "N", num_args = 1.., value_delimiter = ',', default_values_t = [1], aliases = ["batch", "batch-size"], value_parser = parse_count::<u32>)]
    batch_sizes: Vec<u32>,
    /// Tokens of each prompt.
    #[arg(long, value_name = "N", default_value_t = 512, alias = "prompt-len", value_parser = parse_count::<u32>)]
    input_len: u32,
    /// Tokens to generate for each prompt.
    #[arg(long, value_name = "N", default_value_t = 128, alias = "tokens", value_parser = parse_count::<u32>)]
    output_len: u32,
    /// Measured runs of each batch size. A 99th percentile takes at least 100.
    #[arg(long, value_name = "N", default_value_t = 10, alias = "repeat", value_parser = parse_count::<u32>)]
    num_runs: u32,
    /// Warm-up runs, which are not measured.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = parse_limit::<u32>)]
    warmup_runs: u32,
    /// Ceilings that results are compared with: measured on this device beforehand, or from a table.
    #[arg(long, value_enum, value_name = "WHICH", default_value = "measured")]
    ceilings: CeilingChoice,
    /// Seed of the prompts.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Writes a report as JSON, with all samples; without a file, prints it instead of the table.
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "-")]
    json: Option<PathBuf>,
    /// Prints the table as CSV.
    #[arg(long, conflicts_with = "markdown")]
    csv: bool,
    /// Prints the table as Markdown.
    #[arg(long)]
    markdown: bool,
    /// An older report, to compare with.
    #[arg(long, value_name = "OLD.json")]
    compare: Option<PathBuf>,
    /// Exits with code 8 if a figure exceeds a limit, such as tpot_p50>+3% or tokens_per_s<-3%, and the samples
    /// of both reports differ by more than chance (rank sum test, p < 0.01); may be given several times.
    #[arg(long, value_name = "LIMIT", requires = "compare", value_delimiter = ',')]
    fail_if: Vec<Limit>,
    /// Times each launch of a prefill step and of a decode step, at the first batch size, and prints the times by
    /// layer. Writes profile.json (for inspect --profile), trace.json (for Perfetto) and roofline.svg to the folder.
    #[arg(long, value_name = "FOLDER")]
    profile: Option<PathBuf>,
    /// Waits after each step: for tests of --fail-if.
    #[arg(long, value_name = "MICROSECONDS", hide = true, default_value_t = 0)]
    pause: u32,
    #[command(flatten)]
    load: LoadArgs,
}

/// Where ceilings come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum CeilingChoice {
    Measured,
    Table,
}

/// Most sequences of one batch size over all runs: each leaves two numbers until the end.
const MAX_SEQUENCES: u64 = 1 << 22;

/// What a decode step costs beside its layers: embedding, lm_head, sampling, and what the host does between two steps.
const STEP_SECONDS: f64 = 25e-6;

impl Bench {
    pub fn run(self, driver: &Driver) -> Result<(), Failure> {
        let model = self.model.as_ref().or(self.engine_dir.as_ref());
        let model = model.ok_or_else(|| Failure::usage("expected a plan or the folder of a checkpoint"))?;
        let model = plan_or_checkpoint(model)?;
        let stdout = self.json.as_deref() == Some(Path::new("-"));
        if stdout && (self.csv || self.markdown) {
            return Err(Failure::usage("--json without a file prints JSON: expected neither --csv nor --markdown"));
        }
        let sizes = self.batch_sizes();
        let largest = sizes.iter().copied().max().unwrap_or(1);
        let sequences = largest as u64 * u64::from(self.num_runs);
        if sequences > MAX_SEQUENCES {
            let asked = format!("{} runs of {largest} sequences", self.num_runs);
            return Err(Failure::usage(format!("{asked}: expected at most {MAX_SEQUENCES} sequences in all")));
        }
        let baseline = self.compare.as_deref().map(Baseline::read).transpose()?;
        let file = self.json.as_deref().filter(|_| !stdout);
        file.map_or(Ok(()), check_report_place)?;
        if let Some(folder) = &self.profile {
            reads_model(&model);
            profile::prepare(folder)?;
        }

        let (driver, mut options) = (self.load.driver(driver), self.load.options(&model)?);
        options.engine.prefix_cache = false;
        let run = options.run;
        let mut progress = Stderr::new(stdout);
        let llm = load(&driver, &model, &options, &mut progress);
        let mut llm = llm.inspect_err(|_| progress.finish())?;
        sizes.iter().try_for_each(|batch| self.fits(llm.plan().plan(), *batch)).inspect_err(|_| progress.finish())?;
        let target = llm.plan().plan().target.clone();
        let mut report = self.empty_report(&llm, driver.executor(&target, run).map_err(Error::from)?.device());
        if let Some(baseline) = &baseline {
            let shapes = sizes.iter().map(|batch| [*batch, self.input_len as usize, self.output_len as usize]);
            let checked = baseline.check(&report, &shapes.collect::<Vec<_>>(), &self.fail_if);
            checked.inspect_err(|_| progress.finish())?;
        }
        let ceilings = match self.ceilings {
            CeilingChoice::Measured => driver.ceilings(&target, run, &mut progress),
            CeilingChoice::Table => Ceilings::of_table(&target),
        };
        report.ceilings = report::Ceilings::of(&ceilings);
        let watch = Watch::start(&target);
        let measured = self.measure(&mut llm, &sizes, &ceilings, &mut progress);
        let profiled = self.profile.as_ref().filter(|_| measured.is_ok()).map(|folder| {
            progress.phase("profile");
            profile::run(&mut llm, &self.workload(sizes[0]), &ceilings, folder)
        });
        progress.finish();
        watch.finish(&mut report.device);
        report.load_ms = llm.load_ms();
        report.results = measured?;
        let profiled = profiled.transpose()?.map(|table| format!("\n{table}")).unwrap_or_default();
        if let Some(baseline) = &baseline {
            report.comparison = baseline.changes(&report.results, &self.fail_if);
        }
        if let Some(file) = file {
            let text = report::json(&report).map_err(|error| Failure::bad_input(error.to_string()))?;
            write_file(file, text.as_bytes())?;
        }
        match () {
            () if stdout => print_json(&report)?,
            () if self.csv => print(&report.csv())?,
            () if self.markdown => print(&report.markdown())?,
            () => print(&(report.table() + &compare::table(&report.comparison) + &profiled))?,
        }
        compare::gate(&report.comparison)
    }

    /// The batch sizes, each once.
    fn batch_sizes(&self) -> Vec<usize> {
        let mut sizes: Vec<usize> = Vec::new();
        for size in &self.batch_sizes {
            if !sizes.contains(&(*size as usize)) {
                sizes.push(*size as usize);
            }
        }
        sizes
    }

    /// Refuses what the plan has no room for, before any prompt is made.
    fn fits(&self, plan: &Plan, batch: usize) -> Result<(), Failure> {
        let Limits { max_batch_size, max_input_len, max_seq_len, .. } = plan.limits;
        let Bench { input_len, output_len, .. } = *self;
        let refuse = |asked: String, allowed: String, option: &str| {
            Err(Failure::usage(format!("{asked}: the plan has room for {allowed} (compile with a larger {option})")))
        };
        if batch > max_batch_size as usize {
            let allowed = format!("{max_batch_size} at once");
            return refuse(format!("--batch-sizes {batch}"), allowed, "--max-batch-size");
        }
        if input_len > max_input_len {
            let asked = format!("--input-len {input_len}");
            return refuse(asked, format!("prompts of {max_input_len} tokens"), "--max-input-len");
        }
        let tokens = u64::from(input_len) + u64::from(output_len);
        if tokens > u64::from(max_seq_len) {
            let asked = format!("--input-len {input_len} and --output-len {output_len} are {tokens} tokens");
            return refuse(asked, format!("{max_seq_len} per sequence"), "--max-seq-len");
        }
        for group in &plan.kv {
            let needed = tokens.div_ceil(u64::from(group.block_tokens)) * batch as u64;
            if needed > u64::from(group.blocks) {
                return Err(Failure::from(Error::DoesNotFit(format!(
                    "{batch} sequences of {tokens} tokens take {needed} KV blocks: the plan has room for {} of {} tokens \
                     (compile with a larger --kv-cache)",
                    group.blocks, group.block_tokens
                ))));
            }
        }
        Ok(())
    }

    /// What is measured at a batch size.
    fn workload(&self, batch: usize) -> Workload {
        Workload {
            batch,
            input_len: self.input_len as usize,
            output_len: self.output_len,
            seed: self.seed,
            pause: Duration::from_micros(self.pause.into()),
        }
    }

    /// Runs each batch size.
    fn measure(
        &self,
        llm: &mut Llm,
        sizes: &[usize],
        ceilings: &Ceilings,
        progress: &mut Stderr,
    ) -> Result<Vec<Row>, Failure> {
        let each = u64::from(self.warmup_runs) + u64::from(self.num_runs);
        let mut rows = Vec::new();
        for (place, batch) in sizes.iter().enumerate() {
            progress.phase(&format!("batch {batch}"));
            let workload = self.workload(*batch);
            let mut runs = Vec::new();
            for index in 0..each {
                progress.items(index, each);
                // no two runs of a report have the same prompts
                let run = workload.run(llm, place as u64 * each + index)?;
                if index >= u64::from(self.warmup_runs) {
                    runs.push(run);
                }
            }
            progress.items(each, each);
            rows.push(row(&workload, &runs, llm.plan(), &ceilings.machine(&llm.plan().plan().target)));
        }
        Ok(rows)
    }

    /// All of a report that is known before the first run.
    fn empty_report(&self, llm: &Llm, device: String) -> Report {
        let (file, plan) = (llm.plan(), llm.plan().plan());
        let config = plan.config.iter().map(|(key, value)| (key.clone(), value.as_str().into()));
        let revision = Some(env!("SMELT_REVISION").to_owned()).filter(|revision| !revision.is_empty());
        Report {
            schema_version: report::SCHEMA_VERSION,
            program: report::Program { version: env!("CARGO_PKG_VERSION").to_owned(), revision },
            command: std::env::args_os().skip(1).map(|arg| arg.to_string_lossy().into_owned()).collect(),
            unix_time: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
            device: report::Device {
                name: device,
                target: plan.target.clone(),
                threads: (plan.target == "cpu").then(|| self.load.threads().unwrap_or_else(all_threads)),
                driver: None,
                sm_mhz: None,
                memory_mhz: None,
                power_w: None,
                temperature_c: None,
            },
            model: report::Model {
                architecture: plan.model.architecture.clone(),
                parameters: plan.model.parameters,
                layers: layers(plan),
                weight_bytes: plan.weights.iter().filter_map(|weight| weight.bytes()).sum(),
            },
            plan: report::PlanId {
                blake3: file.hash().iter().map(|byte| format!("{byte:02x}")).collect(),
                config: config.collect(),
            },
            ceilings: report::Ceilings::default(),
            seed: self.seed,
            num_runs: self.num_runs as usize,
            warmup_runs: self.warmup_runs as usize,
            load_ms: 0.0,
            results: Vec::new(),
            comparison: Vec::new(),
        }
    }
}

fn all_threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn layers(plan: &Plan) -> u32 {
    plan.kv.iter().map(|group| group.layers).sum()
}

/// Names the file of a report: a new one, or one that an earlier report is replaced in.
fn check_report_place(file: &Path) -> Result<(), Failure> {
    check_place(file)?;
    let is_report = |text: String| {
        let value = serde_json::from_str::<serde_json::Value>(&text).ok()?;
        (value.get("schema_version").is_some() && value.get("results").is_some()).then_some(())
    };
    let length = std::fs::metadata(file).map_or(0, |metadata| metadata.len());
    let replaced = || smelt::plans::input::read_text(file, smelt::plans::input::TEXT_BYTES).ok().and_then(is_report);
    match length == 0 || replaced().is_some() {
        true => Ok(()),
        false => Err(Failure::usage(format!(
            "--json {}: is there already and is no report: expected another name (without a file, --json comes last)",
            file.display()
        ))),
    }
}

/// The clocks of a GPU while it is measured.
struct Watch(Option<smelt::DeviceMonitor>);

impl Watch {
    fn start(target: &str) -> Watch {
        let uuid = || {
            let driver = smelt::cuda_driver().ok()?;
            let index = driver.device_for_plans().ok()?;
            Some(driver.devices.get(index as usize)?.uuid.clone())
        };
        let uuid = target.starts_with("sm_").then(uuid).flatten();
        Watch(uuid.and_then(|uuid| smelt::DeviceMonitor::start(&uuid)))
    }

    fn finish(self, device: &mut report::Device) {
        let Some(clocks) = self.0.map(smelt::DeviceMonitor::finish) else { return };
        let range = |range: Option<smelt::ClockRange>| range.map(|range| [range.min, range.max]);
        device.driver = clocks.driver_version;
        device.sm_mhz = range(clocks.sm_mhz);
        device.memory_mhz = range(clocks.memory_mhz);
        device.power_w = range(clocks.power_w);
        device.temperature_c = range(clocks.temperature_c);
    }
}

/// The figures of a batch size.
fn row(workload: &Workload, runs: &[Run], file: &PlanFile, machine: &Machine) -> Row {
    let ms = |seconds: f64| rounded(seconds * 1e3);
    let rate = |run: &Run| rounded(run.tokens as f64 / run.seconds);
    let decode = |full: &FullBatch| rounded((workload.batch * full.steps) as f64 / full.seconds);
    let samples = report::Samples {
        ttft_ms: runs.iter().map(|run| ms(run.last_first())).collect(),
        ttft_first_ms: runs.iter().map(|run| ms(run.first_first())).collect(),
        tpot_ms: runs.iter().filter_map(Run::mean_per_token).map(ms).collect(),
        tokens_per_s: runs.iter().map(rate).collect(),
        decode_tokens_per_s: runs.iter().filter_map(|run| run.full.as_ref()).map(decode).collect(),
    };
    let quantiles = |samples: &[f64]| Quantiles::of(samples.iter().copied());
    let of_requests = |times: fn(&Run) -> &[f64]| Quantiles::of(runs.iter().flat_map(times).map(|time| ms(*time)));
    let ttft_ms = quantiles(&samples.ttft_ms).expect("there is a run of a sequence");
    let full = runs.iter().filter_map(|run| run.full.as_ref());
    let step = median(full.clone().map(|full| full.seconds / full.steps as f64));
    let context = median(full.clone().map(|full| workload.input_len as f64 + full.generated));
    let cost = context.and_then(|context| decode_cost(file.plan(), workload.batch, context));
    let read = cost.zip(step).map(|(cost, step)| cost.read as f64 / step);
    let beyond = cost.zip(step).map(|(cost, step)| {
        let rest = step - cost.read as f64 / machine.bytes_per_second - STEP_SECONDS;
        rest / f64::from(layers(file.plan()).max(1)) * 1e6
    });
    // the tokens that others have before the last prompt is done
    let before = full.map(|full| full.before).min().unwrap_or(workload.batch).saturating_sub(workload.batch);
    let prompts = prompt_arithmetic(file.plan(), workload, before, machine);
    let first = ttft_ms.p50 / 1e3;
    Row {
        batch_size: workload.batch,
        input_len: workload.input_len,
        output_len: workload.output_len,
        ttft_first_ms: quantiles(&samples.ttft_first_ms).expect("there is a run of a sequence"),
        tpot_ms: quantiles(&samples.tpot_ms),
        requests: report::Requests {
            ttft_ms: of_requests(|run| &run.first).expect("there is a run of a sequence"),
            tpot_ms: of_requests(|run| &run.per_token),
        },
        tokens_per_s: rounded(
            runs.iter().map(|run| run.tokens as f64).sum::<f64>() / runs.iter().map(|run| run.seconds).sum::<f64>(),
        ),
        decode_tokens_per_s: median(samples.decode_tokens_per_s.iter().copied()),
        context,
        read_gb_per_s: read.map(|read| rounded(read / 1e9)),
        read_ceiling_percent: read.map(|read| rounded(read / machine.bytes_per_second * 100.0)),
        tflops: prompts.map(|(flops, _)| rounded(flops / first / 1e12)),
        compute_ceiling_percent: prompts.map(|(_, seconds)| rounded(seconds / first * 100.0)),
        us_per_layer_beyond_bytes: beyond.map(rounded),
        ttft_ms,
        samples,
    }
}

/// Six digits are more than a clock gives.
fn rounded(value: f64) -> f64 {
    format!("{value:.5e}").parse().unwrap_or(value)
}

/// The work of a decode step over sequences with so many tokens on average.
fn decode_cost(plan: &Plan, batch: usize, context: f64) -> Option<Cost> {
    let places = |program: &Program| upper_bounds(&program.symbols).get(&Symbol::new("B")?).copied();
    let programs = plan.programs.iter().filter(|program| program.kind == ProgramKind::Decode);
    let fitting = programs.filter_map(|program| Some((places(program)?, program)));
    let (_, program) = fitting.filter(|(places, _)| *places >= batch as u64).min_by_key(|(places, _)| *places)?;
    let total = (context * batch as f64).round() as u64;
    let (each, more) = (total / batch as u64, (total % batch as u64) as usize);
    let contexts: Vec<u64> = (0..batch).map(|index| each + u64::from(index < more)).collect();
    step_cost(program, &upper_bounds(&program.symbols), &contexts).ok()
}

/// The arithmetic until all prompts are read, in operations and in seconds at the machine's rates. `before` are tokens
/// that were generated meanwhile.
fn prompt_arithmetic(plan: &Plan, workload: &Workload, before: usize, machine: &Machine) -> Option<(f64, f64)> {
    let program = plan.programs.iter().rfind(|program| program.kind == ProgramKind::Mixed)?;
    let (batch, before) = (workload.batch as u64, before as u64);
    let mut values: SymbolValues = upper_bounds(&program.symbols);
    let sizes = [("T", batch * workload.input_len as u64 + before), ("B", batch), ("R", batch + before)];
    values.extend(sizes.into_iter().filter_map(|(name, size)| Some((Symbol::new(name)?, size))));
    // a token of a prompt looks back at half of it on average
    values.insert(context(), (workload.input_len as u64).div_ceil(2));
    let launches = program.steps.iter().map(|Step::Launch(launch)| launch);
    launches
        .map(|launch| {
            let flops = launch.work.eval(&values).ok()?.flops as f64;
            Some((flops, flops / machine.rate(Arithmetic::of(plan, program, launch))))
        })
        .try_fold((0.0, 0.0), |(flops, seconds), launch| launch.map(|(more, time)| (flops + more, seconds + time)))
}
