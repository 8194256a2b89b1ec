//! `smelt compile`

use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use smelt::{Compilation, CompileReport, Driver, Error, Gate, Gated};

use super::mixed::{MixedArgs, Requested};
use crate::args::{CacheArgs, CompileArgs};
use crate::choice::{Choice, WithChoice};
use crate::emit::{EmitArgs, compile};
use crate::failure::Failure;
use crate::inputs::{open, read_text};
use crate::model::checkpoint;
use crate::output::{bytes, check_place, print, print_json, reads};

/// Compiles a Hugging Face checkpoint into a plan.
#[derive(Debug, Args)]
pub struct Compile {
    /// Checkpoint directory: config.json, safetensors, tokenizer.json.
    dir: PathBuf,
    /// Plan file to write.
    #[arg(short, long, value_name = "FILE.plan", required_unless_present = "dry_run")]
    output: Option<PathBuf>,
    /// Compiles without writing the plan.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    gate: GateArgs,
    #[command(flatten)]
    emit: EmitArgs,
    #[command(flatten)]
    cache: CacheArgs,
    #[command(flatten)]
    compile: CompileArgs,
    #[command(flatten)]
    mixed: MixedArgs,
    /// Prints the report as JSON.
    #[arg(long)]
    json: bool,
}

/// Accuracy that the plan must reach.
#[derive(Clone, Debug, Args)]
pub struct GateArgs {
    /// Accuracy gate, comma-separated; the plan is written only if it holds: perplexity<+N% (increase over the
    /// checkpoint's own precision), perplexity<N, kl<N (nats, to the checkpoint's own precision), top1>N% (agreement of
    /// the most likely token).
    #[arg(long, value_name = "BOUNDS", requires = "gate_text", conflicts_with = "dry_run")]
    gate: Option<Gate>,
    /// Text that --gate is measured on.
    #[arg(long, value_name = "FILE", requires = "gate")]
    gate_text: Option<PathBuf>,
}

impl Compile {
    pub fn run(self, driver: &Driver) -> Result<(), Failure> {
        let start = Instant::now();
        let output = self.output.filter(|_| !self.dry_run);
        let driver = self.cache.driver(driver);
        let dir = checkpoint(&self.dir)?;
        self.gate.gate_text.iter().chain(self.mixed.text()).for_each(|text| reads(text));
        let options = self.compile.options_but_mixed()?;
        let outputs: Vec<PathBuf> = output.iter().chain(self.mixed.outputs()).cloned().collect();
        outputs.iter().try_for_each(|path| check_place(path))?;
        self.emit.prepare_folder(&outputs)?;
        self.emit.check(&driver.rewrites(&options.rewrites)?)?;
        // a plan needs NVRTC in any case; texts that do not are written first
        if output.is_some() && !self.emit.without_code() || self.emit.needs_code() {
            driver.check_compiler(&options.target)?;
        }
        let source = open(&dir, &options, self.json)?;
        let requested = Requested { precision: self.compile.precision, options };
        let (options, mixed) = self.mixed.options(&driver, &source, requested, &self.cache, self.json)?;
        let mut failed = None;
        let report = match (&self.gate.gate, &self.gate.gate_text, &output) {
            (Some(gate), Some(text), Some(output)) => {
                let gated = Gated { driver: &driver, gate, text: &read_text("--gate-text", text)? };
                compile(&self.emit, self.json, |texts, progress| {
                    let report = gated.compile(&source, output, &options, texts, progress);
                    if let Err(Error::Gate(failure)) = &report {
                        failed = Some(failure.clone());
                    }
                    report
                })
            }
            (_, _, output) => compile(&self.emit, self.json, |texts, progress| {
                let compilation = Compilation::new(&driver, &source, &options, progress)?.observed(texts);
                match output {
                    Some(output) => compilation.write(output),
                    None if self.emit.needs_code() => Ok(compilation.lowered()?.build()?.report()),
                    None => Ok(compilation.lowered()?.report()),
                }
            }),
        };
        if let Some(failure) = failed.filter(|_| self.json) {
            print_json(
                &serde_json::json!({ "schema_version": 1, "gate": failure.report, "worst_layers": failure.layers }),
            )?;
        }
        let mut report = report?;
        report.total_ms = start.elapsed().as_secs_f64() * 1e3;
        match self.json {
            true => print_json(&WithChoice { report: &report, mixed: mixed.as_ref().map(Choice::of) }),
            false if self.emit.to_stdout() => Ok(()),
            false => print(&table(&report, output.as_deref())),
        }
    }
}

/// The report as text.
pub fn table(report: &CompileReport, output: Option<&Path>) -> String {
    let file = match (output, report.plan_bytes) {
        (Some(path), Some(size)) => format!("{} ({})", path.display(), bytes(size)),
        _ => "not written (dry run)".to_owned(),
    };
    let target = match &report.target_reason {
        Some(reason) => format!("{} ({reason})", report.target),
        None => report.target.clone(),
    };
    let needed = bytes(report.memory_bytes);
    let memory = match &report.device_memory {
        Some(device) if report.memory_bytes > device.bytes => {
            format!("{needed}: MORE than the {} of {}", bytes(device.bytes), device.device)
        }
        Some(device) => format!("{needed} of {} ({})", bytes(device.bytes), device.device),
        None => needed,
    };
    let rows = [
        ("plan", file),
        ("target", target),
        ("model", format!("{}, {} parameters", report.architecture, report.parameters)),
        ("weights", bytes(report.weight_bytes)),
        ("KV cache", format!("{}, {} per token", bytes(report.kv_bytes), bytes(report.kv_bytes_per_token))),
        ("workspace", bytes(report.workspace_bytes)),
        ("memory", memory),
        ("programs", report.programs.join(", ")),
        ("kernels", report.kernels.to_string()),
        ("passes", format!("{:.1} ms", report.passes.iter().map(|pass| pass.ms).sum::<f64>())),
        ("total", format!("{:.2} s", report.total_ms / 1e3)),
    ];
    let gate = report.gate.iter().flat_map(|gate| &gate.bounds).map(|bound| ("gate", bound.to_string()));
    rows.into_iter().chain(gate).map(|(name, value)| format!("{name:<10} {value}\n")).collect()
}
