//! `smelt compile`

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use smelt::{CompileReport, Driver, Dumps, Error, Gate, Gated, PassTime, Progress, Unit, WantedPasses};

use super::eval::read_text;
use super::mixed::{Choice, MixedArgs};
use crate::args::{CacheArgs, CompileArgs};
use crate::failure::Failure;
use crate::output::{
    bytes, check_folder, check_place, make_folder, print, print_error, print_json, reads, reads_model, write_file,
};
use crate::progress::Stderr;

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

/// Texts to write besides the plan.
#[derive(Clone, Debug, Default, Args)]
pub struct EmitArgs {
    /// Intermediate texts to write, comma-separated: ir (imported and final), ir-after-all, ir-after-change (after
    /// passes that changed something), ir-after=PASS, passes (statistics and times), kernels (choices with reasons),
    /// plan, cuda, ptx, cubin, sass-report (registers and shared memory of each kernel).
    #[arg(long, value_delimiter = ',', value_name = "WHAT")]
    emit: Vec<Emit>,
    /// Directory for --emit and repro.ir; without it, texts go to stdout.
    #[arg(long, value_name = "DIR")]
    dump_dir: Option<PathBuf>,
}

/// An intermediate text of a compilation.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Emit {
    /// The imported graph and the final one.
    Ir,
    /// The graph after each pass.
    IrAfterAll,
    /// The graph after each pass that changed something.
    IrAfterChange,
    /// The graph after a pass.
    IrAfter(String),
    /// What each pass did.
    Passes,
    /// The kernel of each op.
    Kernels,
    /// The plan.
    Plan,
    /// CUDA C of each kernel, without includes.
    Cuda,
    /// PTX of each kernel.
    Ptx,
    /// Machine code of each kernel: requires --dump-dir.
    Cubin,
    /// Registers and shared memory of each kernel.
    SassReport,
}

impl std::str::FromStr for Emit {
    type Err = String;

    fn from_str(text: &str) -> Result<Emit, String> {
        Ok(match text {
            "ir" => Emit::Ir,
            "ir-after-all" => Emit::IrAfterAll,
            "ir-after-change" => Emit::IrAfterChange,
            "passes" => Emit::Passes,
            "kernels" => Emit::Kernels,
            "plan" => Emit::Plan,
            "cuda" => Emit::Cuda,
            "ptx" => Emit::Ptx,
            "cubin" => Emit::Cubin,
            "sass-report" => Emit::SassReport,
            _ => match text.strip_prefix("ir-after=") {
                Some(pass) if !pass.is_empty() => Emit::IrAfter(pass.to_owned()),
                _ => {
                    return Err(
                        "expected ir, ir-after-all, ir-after-change, ir-after=PASS, passes, kernels, plan, cuda, \
                                ptx, cubin or sass-report"
                            .to_owned(),
                    );
                }
            },
        })
    }
}

impl EmitArgs {
    /// Whether any of these is requested.
    fn wants(&self, what: &[Emit]) -> bool {
        self.emit.iter().any(|emit| what.contains(emit))
    }

    /// Whether any text other than those of passes is requested.
    pub fn beyond_passes(&self) -> bool {
        let of_passes = |emit: &Emit| {
            matches!(emit, Emit::Ir | Emit::IrAfterAll | Emit::IrAfterChange | Emit::IrAfter(_) | Emit::Passes)
        };
        !self.emit.iter().all(of_passes)
    }

    /// Creates the directory, unless one of its texts would replace an input or another output.
    pub fn prepare_folder(&self, outputs: &[PathBuf]) -> Result<(), Failure> {
        let Some(folder) = &self.dump_dir else { return Ok(()) };
        check_folder(folder, outputs, |name| self.writes(name))?;
        make_folder(folder)
    }

    /// Whether a file of this name may be among the texts.
    fn writes(&self, name: &str) -> bool {
        let of_pass = || name.ends_with(".ir") && name.starts_with(|c: char| c.is_ascii_digit()) && name.contains('-');
        match name {
            "imported.ir" | "graph.ir" => self.wants(&[Emit::Ir]),
            "passes.txt" => self.wants(&[Emit::Passes]),
            "kernels.txt" => self.wants(&[Emit::Kernels]),
            "plan.txt" => self.wants(&[Emit::Plan]),
            "sass-report.txt" => self.wants(&[Emit::SassReport]),
            _ if name.ends_with(".cu") => self.wants(&[Emit::Cuda]),
            _ if name.ends_with(".ptx") => self.wants(&[Emit::Ptx]),
            _ if name.ends_with(".cubin") => self.wants(&[Emit::Cubin]),
            _ => of_pass() && !matches!(self.wanted_passes(), WantedPasses::None),
        }
    }

    /// The directory for reproducers.
    pub fn folder(&self) -> Option<&Path> {
        self.dump_dir.as_deref()
    }

    /// The passes after which the graph is to be written.
    pub fn wanted_passes(&self) -> WantedPasses {
        let named = self.emit.iter().filter_map(|emit| match emit {
            Emit::IrAfter(pass) => Some(pass.clone()),
            _ => None,
        });
        let named: Vec<String> = named.collect();
        match self.wants(&[Emit::IrAfterAll]) {
            true => WantedPasses::All,
            false if self.wants(&[Emit::IrAfterChange]) => WantedPasses::Changed,
            false if !named.is_empty() => WantedPasses::Named(named),
            false => WantedPasses::None,
        }
    }
}

impl Compile {
    pub fn run(self, driver: &Driver) -> Result<(), Failure> {
        let output = self.output.filter(|_| !self.dry_run);
        let (driver, dir) = (self.cache.driver(driver), &self.dir);
        reads_model(dir);
        self.gate.gate_text.iter().chain(self.mixed.text()).for_each(|text| reads(text));
        let options = self.compile.options_but_mixed()?;
        let outputs: Vec<PathBuf> = output.iter().chain(self.mixed.outputs()).cloned().collect();
        outputs.iter().try_for_each(|path| check_place(path))?;
        self.emit.prepare_folder(&outputs)?;
        let (options, mixed) = self.mixed.options(&driver, dir, (self.compile.precision, options), &self.cache)?;
        let mut failed = None;
        let report = match (&self.gate.gate, &self.gate.gate_text, &output) {
            (Some(gate), Some(text), Some(output)) => {
                let gated = Gated { driver: &driver, gate, text: &read_text(text)? };
                compile(&self.emit, |dumps, progress| {
                    let report = gated.compile(dir, output, &options, dumps, progress);
                    if let Err(Error::Gate(failure)) = &report {
                        failed = Some(failure.clone());
                    }
                    report
                })
            }
            _ => {
                compile(&self.emit, |dumps, progress| driver.compile(dir, output.as_deref(), &options, dumps, progress))
            }
        };
        if let Some(failure) = failed.filter(|_| self.json) {
            print_json(&serde_json::json!({ "gate": failure.report, "worst_layers": failure.layers }))?;
        }
        let report = report?;
        let to_stdout = !self.emit.emit.is_empty() && self.emit.dump_dir.is_none();
        match self.json {
            true => print_json(&WithChoice { report: &report, mixed: mixed.as_ref().map(Choice::of) }),
            false if to_stdout => Ok(()),
            false => print(&table(&report, output.as_deref())),
        }
    }
}

/// A report, and the formats that were chosen before.
#[derive(Serialize)]
pub struct WithChoice<'a, T> {
    #[serde(flatten)]
    pub report: &'a T,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mixed: Option<Choice>,
}

/// Compiles with progress on stderr and writes the requested texts.
pub fn compile(
    emit: &EmitArgs,
    run: impl FnOnce(Option<&mut Dumps>, &mut dyn Progress) -> Result<CompileReport, Error>,
) -> Result<CompileReport, Failure> {
    let mut progress = Stderr::new(false);
    if emit.wants(&[Emit::Cubin]) && emit.dump_dir.is_none() {
        return Err(Failure::usage("--emit cubin writes binary files: expected a directory with --dump-dir"));
    }
    let mut dumps = Dumps {
        wanted_passes: emit.wanted_passes(),
        code: emit.wants(&[Emit::Ptx, Emit::Cubin, Emit::SassReport]),
        ..Dumps::default()
    };
    let wanted = (!emit.emit.is_empty()).then_some(&mut dumps);
    let report = run(wanted, &mut progress);
    progress.finish();
    // the texts before a failure are what shows its cause
    let written = write_texts(emit, &dumps, report.as_ref().map_or(&[], |report| &report.passes));
    let report = report.map_err(|error| with_repro(error, emit.dump_dir.as_deref()))?;
    written?;
    let of_kernels = [Emit::Cuda, Emit::Ptx, Emit::Cubin, Emit::SassReport];
    if emit.wants(&of_kernels) && dumps.units.is_empty() {
        print_error(&format!("note: kernels of the target `{}` have no CUDA C to emit", report.target));
    }
    Ok(report)
}

/// Writes the graph on which a pass failed.
pub fn with_repro(error: Error, folder: Option<&Path>) -> Failure {
    let (failure, command) = match &error {
        Error::Pass(failure) => (failure, "smelt opt".to_owned()),
        Error::Rule(failure) => (failure, format!("smelt opt --rewrites FILE --pass {}", failure.pass)),
        _ => return error.into(),
    };
    let folder = folder.unwrap_or(Path::new("."));
    let path = folder.join("repro.ir");
    let help = match make_folder(folder).and_then(|()| write_file(&path, failure.repro.as_bytes())) {
        Ok(()) => format!("wrote {}: `{command}` on it reproduces the failure", path.display()),
        Err(failure) => format!("repro.ir could not be written: {failure}"),
    };
    Failure::from(error).help(help)
}

/// Writes the requested texts.
pub fn write_texts(emit: &EmitArgs, dumps: &Dumps, passes: &[PassTime]) -> Result<(), Failure> {
    let mut texts: Vec<(String, &str)> = Vec::new();
    if emit.emit.contains(&Emit::Ir) {
        texts.push(("imported.ir".to_owned(), &dumps.imported));
        texts.push(("graph.ir".to_owned(), &dumps.graph));
    }
    for (index, pass, text) in &dumps.after_passes {
        texts.push((format!("{index:02}-{pass}.ir"), text));
    }
    for wanted in emit.emit.iter().filter_map(|emit| if let Emit::IrAfter(pass) = emit { Some(pass) } else { None }) {
        if !dumps.after_passes.iter().any(|(_, pass, _)| pass == wanted) {
            print_error(&format!("note: pass `{wanted}` did not run"));
        }
    }
    let ran = !passes.is_empty();
    let passes = pass_table(passes);
    if emit.wants(&[Emit::Passes]) && ran {
        texts.push(("passes.txt".to_owned(), &passes));
    }
    if emit.emit.contains(&Emit::Kernels) {
        texts.push(("kernels.txt".to_owned(), &dumps.kernels));
    }
    if emit.emit.contains(&Emit::Plan) {
        texts.push(("plan.txt".to_owned(), &dumps.plan));
    }
    let report = sass_report(&dumps.units);
    if emit.emit.contains(&Emit::SassReport) {
        texts.push(("sass-report.txt".to_owned(), &report));
    }
    for unit in &dumps.units {
        if emit.emit.contains(&Emit::Cuda) {
            texts.push((format!("{}.cu", unit.name), &unit.source));
        }
        if emit.emit.contains(&Emit::Ptx) {
            texts.push((format!("{}.ptx", unit.name), &unit.ptx));
        }
    }
    texts.retain(|(_, text)| !text.is_empty());
    let Some(folder) = &emit.dump_dir else {
        return texts.into_iter().try_for_each(|(name, text)| print(&format!("// {name}\n{text}")));
    };
    make_folder(folder)?;
    if emit.emit.contains(&Emit::Cubin) {
        let cubins = dumps.units.iter();
        cubins.clone().try_for_each(|unit| write_file(&folder.join(format!("{}.cubin", unit.name)), &unit.cubin))?;
    }
    texts.into_iter().try_for_each(|(name, text)| write_file(&folder.join(name), text.as_bytes()))
}

/// What each pass did, in the order in which they ran.
fn pass_table(passes: &[PassTime]) -> String {
    let width = passes.iter().map(|pass| pass.name.len()).max().unwrap_or(0).max(28);
    let head = format!(
        "{:<6} {:<width$} {:>7} {:>10} {:>9} {:>9}\n",
        "bisect", "pass", "changed", "ops before", "ops after", "ms"
    );
    let row = |pass: &PassTime| {
        let changed = if pass.changed { "yes" } else { "no" };
        let bisect = pass.bisect.map_or_else(String::new, |number| number.to_string());
        let PassTime { name, ops_before, ops_after, ms, .. } = pass;
        format!("{bisect:>6} {name:<width$} {changed:>7} {ops_before:>10} {ops_after:>9} {ms:>9.3}\n")
    };
    passes.iter().fold(head, |text, pass| text + &row(pass))
}

/// Resource usage of each kernel. Spills and stack frames are not in it: they fail the compilation.
fn sass_report(units: &[Unit]) -> String {
    let head = format!(
        "{:<28} {:>7} {:>9} {:>13} {:>14} {:>9}  {}\n",
        "kernel", "threads", "registers", "static shared", "dynamic shared", "code", "instance"
    );
    let row = |unit: &Unit| {
        // as `Body::text` of codegen writes it
        let instance = unit.source.lines().find_map(|line| line.strip_prefix("using Body = "));
        format!(
            "{:<28} {:>7} {:>9} {:>13} {:>14} {:>9}  {}\n",
            unit.name,
            unit.threads,
            unit.usage.registers,
            unit.usage.static_shared_bytes,
            unit.shared_bytes,
            bytes(unit.cubin.len() as u64),
            instance.unwrap_or_default().trim_end_matches(';').replace("smelt::", "")
        )
    };
    units.iter().fold(head, |text, unit| text + &row(unit))
}

/// The report as text.
pub fn table(report: &CompileReport, output: Option<&Path>) -> String {
    let file = match (output, report.plan_bytes) {
        (Some(path), Some(size)) => format!("{} ({})", path.display(), bytes(size)),
        _ => "not written (dry run)".to_owned(),
    };
    let rows = [
        ("plan", file),
        ("target", report.target.clone()),
        ("model", format!("{}, {} parameters", report.architecture, report.parameters)),
        ("weights", bytes(report.weight_bytes)),
        ("KV cache", format!("{}, {} per token", bytes(report.kv_bytes), bytes(report.kv_bytes_per_token))),
        ("workspace", bytes(report.workspace_bytes)),
        ("programs", report.programs.join(", ")),
        ("kernels", report.kernels.to_string()),
        ("passes", format!("{:.1} ms", report.passes.iter().map(|pass| pass.ms).sum::<f64>())),
        ("total", format!("{:.2} s", report.total_ms / 1e3)),
    ];
    let gate = report.gate.iter().flat_map(|gate| &gate.bounds).map(|bound| ("gate", bound.to_string()));
    rows.into_iter().chain(gate).map(|(name, value)| format!("{name:<10} {value}\n")).collect()
}
