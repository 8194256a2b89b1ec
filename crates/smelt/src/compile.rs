//! A checkpoint to a plan file.

use std::path::Path;
use std::time::Instant;

use codegen::cuda::{Built, Usage};
use codegen::{CodegenError, Lowered, PlanSpec, ProgramShape, Target, lower, lower_and_build, select};
use frontend::{Checkpoint, KvCache};
use ir::{DerivedWeights, Graph, Stage};
use passes::{Changed, Observer, PassManager, PassOptions, PassReport};
use plan::Plan;
use plan::input::Stamp;
use serde::Serialize;

use crate::cache::CACHE_KEY;
use crate::precision::{self, Calibrated};
use crate::settings::Settings;
use crate::timing::Selecting;
use crate::workspace::{check_workspace, workspace};
use crate::{CompileOptions, Driver, Error, Format, GateReport, WeightsChoice};

/// Receives the progress of a compilation.
pub trait Progress {
    /// A phase begins.
    fn phase(&mut self, name: &str);
    /// Bytes of weights written, and their total.
    fn weights(&mut self, written: u64, total: u64);
    /// Equal pieces of work done, and their total.
    fn items(&mut self, _: u64, _: u64) {}
    /// Something that the user may not expect.
    fn note(&mut self, _: &str) {}
    /// Something in the input, or in the output, that may not be what the user wants. If a checkpoint is opened more
    /// than once, warnings may repeat.
    fn warning(&mut self, text: &str) {
        self.note(text);
    }
}

/// Ignores progress.
#[derive(Debug)]
pub struct Quiet;

impl Progress for Quiet {
    fn phase(&mut self, _: &str) {}
    fn weights(&mut self, _: u64, _: u64) {}
}

/// Report of a compilation. Sizes are in bytes, times in milliseconds.
#[derive(Clone, Debug, Serialize)]
pub struct CompileReport {
    /// Version of this report's fields.
    pub schema_version: u32,
    /// Target of the plan.
    pub target: String,
    /// Architecture of the model.
    pub architecture: String,
    /// Scalar weights of the checkpoint.
    pub parameters: u64,
    /// The effective configuration.
    pub config: Vec<(String, String)>,
    /// Size of the plan file; `None` on a dry run.
    pub plan_bytes: Option<u64>,
    /// Weights once loaded.
    pub weight_bytes: u64,
    /// Weights stored in the file; the others are generated when the plan is loaded.
    pub stored_weight_bytes: u64,
    /// KV cache per token.
    pub kv_bytes_per_token: u64,
    /// KV cache.
    pub kv_bytes: u64,
    /// The largest arena of any program.
    pub workspace_bytes: u64,
    /// Names of the programs.
    pub programs: Vec<String>,
    /// Distinct kernels.
    pub kernels: usize,
    /// Passes in the order in which they ran.
    pub passes: Vec<PassTime>,
    /// Time of the whole compilation.
    pub total_ms: f64,
    /// What a gate measured, if there is one.
    pub gate: Option<GateReport>,
    /// Warnings of the importer, missing timings, and slow fallback kernels.
    pub warnings: Vec<String>,
}

/// Statistics of one pass.
#[derive(Clone, Debug, Serialize)]
pub struct PassTime {
    /// Its number, from 1, among those that `bisect_limit` counts; `None` if it is required.
    pub bisect: Option<usize>,
    /// Its name.
    pub name: String,
    /// Whether it changed the graph.
    pub changed: bool,
    /// Ops and inputs before.
    pub ops_before: usize,
    /// Ops and inputs after.
    pub ops_after: usize,
    /// Duration in milliseconds.
    pub ms: f64,
}

impl From<&PassReport> for PassTime {
    fn from(report: &PassReport) -> PassTime {
        PassTime {
            bisect: report.bisect,
            name: report.name.clone(),
            changed: report.changed == Changed::Yes,
            ops_before: report.ops_before,
            ops_after: report.ops_after,
            ms: report.time.as_secs_f64() * 1e3,
        }
    }
}

/// Intermediate texts of a compilation.
#[derive(Clone, Debug, Default)]
pub struct Dumps {
    /// The graph as it was imported.
    pub imported: String,
    /// The graph after each pass that `wanted_passes` names.
    pub after_passes: Vec<(usize, String, String)>,
    /// Passes whose graphs are wanted.
    pub wanted_passes: WantedPasses,
    /// The graph from which the plan was made.
    pub graph: String,
    /// The kernel of each op.
    pub kernels: String,
    /// The plan.
    pub plan: String,
    /// The kernels' code: sources for any GPU plan, machine code if it was compiled.
    pub units: Vec<Unit>,
    /// Whether kernels are to be compiled even if no plan is written.
    pub code: bool,
}

/// Passes whose graphs are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum WantedPasses {
    /// Of none.
    #[default]
    None,
    /// Of all.
    All,
    /// Of those that changed something.
    Changed,
    /// Of those of these names.
    Named(Vec<String>),
}

/// The code of one kernel of a plan.
#[derive(Clone, Debug)]
pub struct Unit {
    /// Its index and name in the plan, such as `k3-linear_skinny`.
    pub name: String,
    /// CUDA C, without includes.
    pub source: String,
    /// PTX; empty if it was not compiled.
    pub ptx: String,
    /// Machine code; empty if it was not compiled.
    pub cubin: Vec<u8>,
    /// Its resource usage.
    pub usage: Usage,
    /// Threads per block.
    pub threads: u32,
    /// Bytes of dynamic shared memory per block.
    pub shared_bytes: u32,
}

/// The units of a plan, with their compiled code.
fn units(plan: &Plan, built: Vec<Built>) -> Vec<Unit> {
    let mut built = built.into_iter();
    let kernels = plan.kernels.iter().enumerate().filter_map(|(index, kernel)| {
        let Built { cubin, ptx, usage, .. } = built.next().unwrap_or_default();
        let code = kernel.code.as_ref()?;
        let (name, source) = (format!("k{index}-{}", kernel.name), code.source.clone());
        Some(Unit { name, source, ptx, cubin, usage, threads: code.threads, shared_bytes: code.shared_bytes })
    });
    kernels.collect()
}

impl Dumps {
    /// Keeps the texts of kernel selection.
    fn show(&mut self, graph: &Graph, lowered: &Lowered) {
        self.graph = ir::text::print(graph);
        self.kernels = lowered.selection.print();
        self.plan = plan::dump(&lowered.plan);
    }
}

impl Observer for Dumps {
    fn after_pass(&mut self, report: &PassReport, graph: &Graph) {
        let wanted = match &self.wanted_passes {
            WantedPasses::None => false,
            WantedPasses::All => true,
            WantedPasses::Changed => report.changed == Changed::Yes,
            WantedPasses::Named(names) => names.contains(&report.name),
        };
        if wanted {
            self.after_passes.push((report.index, report.name.clone(), ir::text::print(graph)));
        }
    }
}

impl Driver {
    /// Compiles the checkpoint in `dir` to a plan file, or up to there on a dry run. Fills `dumps` if given.
    pub fn compile(
        &self,
        dir: &Path,
        out: Option<&Path>,
        options: &CompileOptions,
        mut dumps: Option<&mut Dumps>,
        progress: &mut dyn Progress,
    ) -> Result<CompileReport, Error> {
        let start = Instant::now();
        let mut stamps = texts(options);
        let driver = self.rewrites(&options.rewrites)?;
        driver.check_pass_names(&options.disabled_passes, dumps.as_deref())?;
        progress.phase("reading checkpoint");
        let checkpoint = open(dir, options, progress)?;
        let options = &with_format_of_dummies(&checkpoint, options)?;
        let settings = resolve(self.target(&options.target, progress)?, &checkpoint, options)?;
        settings.note.iter().for_each(|note| progress.note(note));
        settings.warning.iter().for_each(|warning| progress.warning(warning));
        let mut graph = checkpoint.graph(&settings.import)?;
        if let Some(dumps) = &mut dumps {
            dumps.imported = ir::text::print(&graph);
        }

        progress.phase("running passes");
        let manager = PassManager::new(PassOptions {
            disabled: options.disabled_passes.clone(),
            bisect_limit: options.bisect_limit,
        });
        let calibrated = Calibrated::open(&options.precision, &checkpoint)?;
        let weights = DerivedWeights::over(&checkpoint);
        let context = Calibrated::context(calibrated.as_ref(), &weights);
        let mut nobody = passes::Silent;
        let observer: &mut dyn Observer = match &mut dumps {
            Some(dumps) => &mut **dumps,
            None => &mut nobody,
        };
        let formats = precision::passes(&graph, &options.precision, &checkpoint, calibrated.as_ref())?;
        let formats_file = precision::file(&graph, &options.precision)?;
        let pipeline = precision::quantizing(driver.pipeline(), formats);
        let passes = manager.run(&pipeline, &mut graph, &context, observer);
        let passes = passes.map_err(|failure| driver.pass_failed(failure))?;

        progress.phase("selecting kernels");
        let verified = ir::verify(&graph, Stage::Fused)
            .map_err(|found| CodegenError::Graph(found.first().map_or_else(String::new, ToString::to_string)))?;
        let mut spec = PlanSpec {
            target: settings.target.name().to_owned(),
            model: model(&checkpoint),
            limits: settings.limits.clone(),
            kv_blocks: settings.kv_blocks,
            files: checkpoint.files().into_iter().chain(formats_file).collect(),
            config: self.effective(&settings, options),
            inputs: inputs(&checkpoint, options, calibrated.as_ref()),
        };
        let mut catalog = self.catalog(settings.target);
        let mut warnings = checkpoint.warnings().to_vec();
        warnings.extend(settings.warning.clone());
        if let Some(timing) = &options.timing {
            let programs = ProgramShape::all(&graph, &settings.limits);
            let selection = select(&graph, &catalog, &programs);
            let selection =
                selection.map_err(|problems| CodegenError::NoKernel { target: spec.target.clone(), problems })?;
            let wanted =
                Selecting { target: settings.target, catalog: &catalog, selection: &selection, programs: &programs };
            let decided = self.timings(timing, &wanted, progress)?;
            spec.inputs.push(decided.input);
            spec.inputs.sort_by(|a, b| a.name.cmp(&b.name));
            decided.warning.iter().for_each(|warning| progress.warning(warning));
            stamps.extend(decided.stamp);
            warnings.extend(decided.warning);
            catalog = catalog.timed(decided.timings);
        }
        let wants_code = dumps.as_ref().is_some_and(|dumps| dumps.code);
        let mut lowered = lower(verified, &catalog, spec.clone(), &weights)?;
        if let Some(dumps) = &mut dumps {
            dumps.show(&graph, &lowered);
        }
        // before kernels are compiled, which takes a hundred times as long and adds buffers only if fused ops are slow
        check_workspace(&lowered.plan, options.workspace_bytes)?;
        let mut built = Vec::new();
        if settings.target.is_gpu() && (out.is_some() || wants_code) {
            progress.phase("compiling kernels");
            (lowered, built) = lower_and_build(verified, &mut catalog, &spec, &weights, &self.compiler()?)?;
            check_workspace(&lowered.plan, options.workspace_bytes)?;
        }
        if let Some(dumps) = dumps {
            dumps.units = units(&lowered.plan, built);
            dumps.show(&graph, &lowered);
        }
        for warning in lowered.selection.warnings() {
            progress.warning(&warning);
            warnings.push(warning);
        }
        let mut report = report(&lowered.plan, &passes, warnings);
        report.stored_weight_bytes = lowered.stored_bytes();
        if let Some(out) = out {
            progress.phase("writing plan");
            let total = lowered.stored_bytes();
            let unchanged = || {
                checkpoint.check_unchanged()?;
                calibrated.iter().try_for_each(Calibrated::check_unchanged)?;
                stamps.iter().try_for_each(Stamp::check)
            };
            let progress = &mut |written| progress.weights(written, total);
            let bytes = lowered.write(out, &weights, progress, &unchanged)?;
            report.plan_bytes = Some(bytes);
        }
        report.total_ms = start.elapsed().as_secs_f64() * 1e3;
        Ok(report)
    }

    /// The configuration of a plan: everything that decided it, and the key of a cached plan.
    fn effective(&self, settings: &Settings, options: &CompileOptions) -> Vec<(String, String)> {
        let mut config = settings.effective(options);
        config.extend(self.cache_key().map(|key| (CACHE_KEY.to_owned(), key.to_owned())));
        config.sort_unstable();
        config
    }

    /// Names of passes to disable, or to show, must be known.
    pub(crate) fn check_pass_names(&self, disabled: &[String], dumps: Option<&Dumps>) -> Result<(), Error> {
        if let Some(WantedPasses::Named(names)) = dumps.map(|dumps| &dumps.wanted_passes) {
            names.iter().try_for_each(|name| self.pass_named(name).map(drop))?;
        }
        for name in disabled {
            if self.pass_named(name)?.required() {
                return Err(Error::Usage(format!(
                    "pass `{name}` is required, by later stages or by the options: it cannot be disabled"
                )));
            }
        }
        Ok(())
    }
}

/// Fingerprints of all files that a plan is made from, sorted by name.
fn inputs(checkpoint: &Checkpoint, options: &CompileOptions, calibrated: Option<&Calibrated>) -> Vec<plan::Input> {
    let mut inputs = checkpoint.inputs();
    let rules = options.rewrites.iter().map(|file| (&file.path, &file.text));
    let map = options.precision.map.iter().map(|map| (&map.path, &map.text));
    inputs.extend(rules.chain(map).map(|(path, text)| file_input(path, text.as_bytes())));
    inputs.extend(calibrated.into_iter().flat_map(Calibrated::inputs));
    inputs.sort_by(|a, b| a.name.cmp(&b.name));
    inputs
}

/// The stamps of files whose texts are in the options, if they exist: a caller may have the texts from elsewhere.
fn texts(options: &CompileOptions) -> Vec<Stamp> {
    let rules = options.rewrites.iter().map(|file| &file.path);
    let map = options.precision.map.iter().map(|map| &map.path);
    rules.chain(map).filter_map(|path| Stamp::of(path).ok()).collect()
}

/// The fingerprint of a file with these contents.
pub(crate) fn file_input(path: &Path, contents: &[u8]) -> plan::Input {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    plan::Input { name, bytes: contents.len() as u64, hash: *blake3::hash(contents).as_bytes() }
}

/// Opens the checkpoint as the options say, and passes on the importer's warnings.
pub(crate) fn open(dir: &Path, options: &CompileOptions, progress: &mut dyn Progress) -> Result<Checkpoint, Error> {
    let checkpoint = match options.weights {
        WeightsChoice::Checkpoint => Checkpoint::open_without(dir, &options.ignored_tensors)?,
        WeightsChoice::Dummy if !options.ignored_tensors.is_empty() => {
            let reason = "dummy weights are only those of the model, there is nothing to ignore";
            return Err(Error::Usage(format!("--ignore-tensors with --weights dummy: {reason}")));
        }
        WeightsChoice::Dummy => Checkpoint::open_dummy(dir)?,
    };
    let cache = match (&options.precision.kv, &options.precision.calibration) {
        (Some(kv), Some(_)) if kv.is_code() => KvCache::Calibrated,
        (Some(kv), None) if kv.is_code() => KvCache::Codes,
        _ => KvCache::Numbers,
    };
    let checkpoint = checkpoint.with_cache(cache);
    if options.precision.linears.is_some() {
        refuse_codes(dir, &checkpoint, "expected no --precision or --precision-map")?;
    }
    checkpoint.warnings().iter().for_each(|warning| progress.warning(warning));
    Ok(checkpoint)
}

/// The options with the format of dummy weights, if the configuration is that of a quantized checkpoint and no option
/// names a format.
fn with_format_of_dummies(checkpoint: &Checkpoint, options: &CompileOptions) -> Result<CompileOptions, Error> {
    let mut options = options.clone();
    let open = options.dtype.is_none() && options.precision.linears.is_none() && options.precision.map.is_none();
    if let Some(format) = checkpoint.format_of_dummies().filter(|_| open) {
        options.precision.linears = Some(format.parse::<Format>().map_err(Error::Unsupported)?);
    }
    Ok(options)
}

/// Refuses a quantized checkpoint if unquantized weights are needed.
pub(crate) fn refuse_codes(dir: &Path, checkpoint: &Checkpoint, expected: &str) -> Result<(), Error> {
    match checkpoint.quantized_by() {
        Some(method) => Err(Error::Usage(format!("{}: is already quantized by {method}, {expected}", dir.display()))),
        None => Ok(()),
    }
}

pub(crate) fn resolve(target: Target, checkpoint: &Checkpoint, options: &CompileOptions) -> Result<Settings, Error> {
    // An embedding table may be padded past its tokenizer: ids without a text are never sampled.
    let files = checkpoint.files();
    let tokenizer = files.iter().find(|file| file.name == "tokenizer.json");
    let sampled_ids = match tokenizer {
        Some(file) => Some(text::Tokenizer::from_bytes(&file.bytes)?.vocab_size() as u32),
        None => None,
    };
    Settings::resolve(target, options, checkpoint.config(), checkpoint.dtype(), sampled_ids)
}

pub(crate) fn model(checkpoint: &Checkpoint) -> plan::Model {
    let config = checkpoint.config();
    plan::Model {
        architecture: config.architecture.clone(),
        vocab_size: config.vocab_size,
        parameters: config.parameters(),
        bos: config.bos,
        eos: config.eos.clone(),
    }
}

fn report(plan: &Plan, passes: &[PassReport], warnings: Vec<String>) -> CompileReport {
    CompileReport {
        schema_version: 1,
        target: plan.target.clone(),
        architecture: plan.model.architecture.clone(),
        parameters: plan.model.parameters,
        config: plan.config.clone(),
        plan_bytes: None,
        weight_bytes: plan.weights.iter().filter_map(plan::Weight::bytes).sum(),
        stored_weight_bytes: 0,
        kv_bytes_per_token: plan.kv.iter().map(plan::KvGroup::bytes_per_token).sum(),
        kv_bytes: plan.kv.iter().map(plan::KvGroup::pool_bytes).sum(),
        workspace_bytes: workspace(plan),
        programs: plan.programs.iter().map(|program| program.name.clone()).collect(),
        kernels: plan.kernels.len(),
        passes: passes.iter().map(PassTime::from).collect(),
        total_ms: 0.0,
        gate: None,
        warnings,
    }
}
