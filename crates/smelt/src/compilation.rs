//! A checkpoint to a plan, in stages. Each runs once, hands its result on, and can be stopped at and looked at:
//!
//! ```text
//! new -> import -> optimize -> select -> tune -> lower -> build -> write
//! ```

use std::path::Path;
use std::time::Instant;

use codegen::{CodegenError, Lowered, PlanSpec, Selected, Selection};
use frontend::ImportOptions;
use ir::{DerivedWeights, Graph, Stage, WeightSource};
use passes::{PassManager, PassOptions, Pipeline};
use plan::input::{Changed, Stamp};
use plan::{Plan, TextFile};

use crate::cache::CACHE_KEY;
use crate::observer::{ObservedPasses, Observer};
use crate::precision::{self, Calibrated, Formats};
use crate::settings::{Settings, check_workspace};
use crate::source::{stamps, text_inputs};
use crate::{CompileOptions, CompileReport, Driver, Error, Format, PassTime, Progress, Source, Unit};

/// A compilation that has come to a stage `S`.
///
/// ```
/// # std::env::set_current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../..")).unwrap();
/// use smelt::{Compilation, CompileOptions, Driver, Quiet, Source, TargetChoice};
///
/// let options = CompileOptions { target: TargetChoice::Named("cpu".into()), ..CompileOptions::default() };
/// // opened once, for as many compilations as there are
/// let source = Source::open("models/demo", &options)?;
/// let mut progress = Quiet;
/// let compilation = Compilation::new(&Driver::new(), &source, &options, &mut progress)?;
///
/// // the graph in the order of the Hugging Face implementation; its passes; the kernels of its programs
/// let imported = compilation.import()?;
/// let ops = imported.graph().ops().count();
/// let optimized = imported.optimize()?;
/// assert!(optimized.graph().ops().count() < ops);
/// let selected = optimized.select()?;
/// assert!(selected.selection().print().contains("fused_linear"));
///
/// // a plan without its weights, which a dry run stops at
/// let lowered = selected.tune()?.lower()?;
/// assert_eq!(lowered.plan().target, "cpu");
///
/// // machine code, if the target is a GPU, and the file
/// let folder = tempfile::tempdir().unwrap();
/// let report = lowered.build()?.write(&folder.path().join("demo.plan"))?;
/// assert!(report.plan_bytes > Some(0));
/// # Ok::<(), smelt::Error>(())
/// ```
pub struct Compilation<'a, S> {
    pub(crate) job: Job<'a>,
    pub(crate) stage: S,
}

/// The stage of a compilation whose options are complete.
#[derive(Debug)]
pub struct Resolved;

/// The stage of a compilation that has imported its graph.
#[derive(Debug)]
pub struct Imported {
    pub(crate) graph: Graph,
}

/// The stage of a compilation whose passes have run.
#[derive(Debug)]
pub struct Optimized {
    pub(crate) graph: Graph,
}

/// The stage of a compilation that is ready to be written.
#[derive(Debug)]
pub struct Built {
    lowered: Lowered,
    units: Vec<Unit>,
}

/// What the stages share, and what they leave for later ones.
pub(crate) struct Job<'a> {
    start: Instant,
    driver: Driver,
    options: CompileOptions,
    settings: Settings,
    target_reason: Option<String>,
    cache_key: Option<String>,
    pub inputs: Inputs<'a>,
    /// The checkpoint's weights, and those that passes compute.
    pub weights: DerivedWeights<'a>,
    /// The table of formats.
    formats: Option<TextFile>,
    passes: Vec<PassTime>,
    pub warnings: Vec<String>,
    pub progress: &'a mut dyn Progress,
    observer: Option<&'a mut dyn Observer>,
}

/// The files that a plan is made from.
pub(crate) struct Inputs<'a> {
    source: &'a Source,
    calibrated: Option<Calibrated>,
    /// Those whose texts are in the options, and a timing cache.
    stamps: Vec<Stamp>,
    /// Only a part of the model is compiled: its plan is for this process, and does not say what it is made from.
    partial: bool,
}

impl<'a> Compilation<'a, Resolved> {
    /// A compilation of a checkpoint. Weights are those that the source was opened with, whatever the options name.
    pub fn new(
        driver: &Driver,
        source: &'a Source,
        options: &CompileOptions,
        progress: &'a mut dyn Progress,
    ) -> Result<Compilation<'a, Resolved>, Error> {
        let (start, stamps) = (Instant::now(), stamps(options));
        let driver = driver.rewrites(&options.rewrites)?;
        driver.check_disabled(&options.disabled_passes)?;
        let options = source.options(options)?;
        let warnings = source.warn(&options, progress);
        let chosen = driver.chosen_target(&options.target)?;
        if let Some(note) = chosen.note() {
            progress.note(&note);
        }
        let settings = source.settings(chosen.target, &options)?;
        let job = Job {
            start,
            driver,
            options,
            settings,
            target_reason: Some(chosen.reason).filter(|reason| !reason.is_empty()),
            cache_key: None,
            inputs: Inputs { source, calibrated: None, stamps, partial: false },
            weights: DerivedWeights::over(&source.checkpoint),
            formats: None,
            passes: Vec::new(),
            warnings,
            progress,
            observer: None,
        };
        Ok(Compilation { job, stage: Resolved })
    }

    /// The same, with an observer of its stages.
    pub fn observed(mut self, observer: &'a mut dyn Observer) -> Compilation<'a, Resolved> {
        self.job.observer = Some(observer);
        self
    }

    /// The same, for a plan that is cached under a key.
    pub(crate) fn keyed(mut self, key: &str) -> Compilation<'a, Resolved> {
        self.job.cache_key = Some(key.to_owned());
        self
    }

    /// Builds the model's graph.
    pub fn import(mut self) -> Result<Compilation<'a, Imported>, Error> {
        let Job { inputs, options, settings, warnings, progress, .. } = &mut self.job;
        settings.note.iter().for_each(|note| progress.note(note));
        settings.warning.iter().for_each(|warning| progress.warning(warning));
        warnings.extend(settings.warning.clone());
        settings.import.sampled_ids = inputs.source.sampled_ids()?;
        let open = options.dtype.is_none() && options.precision.linears.is_none() && options.precision.map.is_none();
        // dummy weights have the format of the configuration, unless an option names one
        if let Some(format) = inputs.source.checkpoint.format_of_dummies().filter(|_| open) {
            options.precision.linears = Some(format.parse::<Format>().map_err(Error::Unsupported)?);
        }
        self.import_unsampled()
    }

    /// Builds the graph of a model whose logits are not sampled.
    pub(crate) fn import_unsampled(mut self) -> Result<Compilation<'a, Imported>, Error> {
        let graph = self.job.inputs.source.checkpoint.graph(&self.job.settings.import)?;
        self.job.tell(|observer| observer.imported(&graph));
        Ok(Compilation { job: self.job, stage: Imported { graph } })
    }

    /// Takes a part of the model's graph instead, for a plan that only this process reads.
    pub(crate) fn part(mut self, graph: Graph) -> Compilation<'a, Imported> {
        self.job.inputs.partial = true;
        Compilation { job: self.job, stage: Imported { graph } }
    }

    /// Runs all stages up to [`Compilation::lower`].
    pub fn lowered(self) -> Result<Compilation<'a, Lowered>, Error> {
        self.import()?.lowered()
    }

    /// Runs all stages.
    pub fn write(self, out: &Path) -> Result<CompileReport, Error> {
        self.lowered()?.build()?.write(out)
    }
}

impl<'a> Compilation<'a, Imported> {
    /// The graph, in the order of the Hugging Face implementation.
    pub fn graph(&self) -> &Graph {
        &self.stage.graph
    }

    /// The formats of its linear layers.
    pub(crate) fn formats(&self) -> Result<Formats, Error> {
        Formats::of(&self.stage.graph, &self.job.options.precision)
    }

    /// Runs the passes.
    pub fn optimize(self) -> Result<Compilation<'a, Optimized>, Error> {
        let pipeline = self.job.driver.pipeline();
        self.run(pipeline)
    }

    /// Runs the passes up to a stage.
    pub(crate) fn optimize_until(self, stage: Stage) -> Result<Compilation<'a, Optimized>, Error> {
        let pipeline = self.job.driver.pipeline().until(stage);
        self.run(pipeline)
    }

    fn run(self, pipeline: Pipeline) -> Result<Compilation<'a, Optimized>, Error> {
        let Compilation { mut job, stage: Imported { mut graph } } = self;
        let Job { driver, options, inputs, weights, progress, observer, .. } = &mut job;
        progress.phase("running passes");
        let checkpoint = &inputs.source.checkpoint;
        let calibrated = Calibrated::open(&options.precision, checkpoint)?;
        let formats = Formats::of(&graph, &options.precision)?;
        let quantizing = formats.passes(&graph, &options.precision, checkpoint, calibrated.as_ref())?;
        let pipeline = precision::quantizing(pipeline, quantizing);
        let manager = PassManager::new(PassOptions {
            disabled: options.disabled_passes.clone(),
            bisect_limit: options.bisect_limit,
        });
        let context = Calibrated::context(calibrated.as_ref(), weights);
        let ran = manager.run(&pipeline, &mut graph, &context, &mut ObservedPasses(observer.as_deref_mut()));
        let passes = ran.map_err(|failure| driver.pass_failed(failure))?.iter().map(PassTime::from).collect();
        inputs.calibrated = calibrated;
        (job.formats, job.passes) = (formats.file(), passes);
        Ok(Compilation { job, stage: Optimized { graph } })
    }

    /// Runs all stages up to [`Compilation::lower`].
    pub(crate) fn lowered(self) -> Result<Compilation<'a, Lowered>, Error> {
        self.optimize()?.select()?.tune()?.lower()
    }
}

impl<'a> Compilation<'a, Optimized> {
    /// The graph after the passes.
    pub fn graph(&self) -> &Graph {
        &self.stage.graph
    }

    /// The weights of the graph: those of the checkpoint, and those that passes computed.
    pub fn weights(&self) -> &dyn WeightSource {
        &self.job.weights
    }

    /// Selects kernels for the graph's programs, by heuristics.
    pub fn select(mut self) -> Result<Compilation<'a, Selected>, Error> {
        self.job.progress.phase("selecting kernels");
        let graph = &self.stage.graph;
        let verified = ir::verify(graph, Stage::Fused)
            .map_err(|found| CodegenError::Graph(found.first().map_or_else(String::new, ToString::to_string)))?;
        let catalog = self.job.driver.catalog(self.job.settings.target);
        let selected = Selected::new(verified, catalog, self.job.spec())?;
        self.job.tell(|observer| observer.selected(graph, selected.selection()));
        Ok(Compilation { job: self.job, stage: selected })
    }
}

impl<'a> Compilation<'a, Selected> {
    /// The kernels of each program.
    pub fn selection(&self) -> &Selection {
        self.stage.selection()
    }

    /// Lets a timing cache decide, if the options name one: it is read, or missing timings are measured.
    pub fn tune(mut self) -> Result<Compilation<'a, Selected>, Error> {
        let Job { driver, options, settings, progress, .. } = &mut self.job;
        let Some(timing) = &options.timing else { return Ok(self) };
        let decided = driver.timings(timing, settings.target, &self.stage, *progress)?;
        decided.warning.iter().for_each(|warning| progress.warning(warning));
        self.job.inputs.stamps.extend(decided.stamp);
        self.job.warnings.extend(decided.warning);
        self.stage.tune(decided.timings, decided.input);
        Ok(self)
    }

    /// Lowers the programs to a plan.
    pub fn lower(self) -> Result<Compilation<'a, Lowered>, Error> {
        let Compilation { mut job, stage } = self;
        let lowered = stage.lower(&job.weights)?;
        job.tell(|observer| observer.lowered(&lowered));
        // before kernels are compiled, which takes a hundred times as long and adds buffers only if fused ops are slow
        check_workspace(&lowered.plan, job.options.workspace_bytes)?;
        Ok(Compilation { job, stage: lowered })
    }
}

impl<'a> Compilation<'a, Lowered> {
    /// The plan, without its weights and its machine code.
    pub fn plan(&self) -> &Plan {
        &self.stage.plan
    }

    /// The report of a compilation that ends here.
    pub fn report(self) -> CompileReport {
        self.job.report(&self.stage)
    }

    /// Compiles the kernels of a GPU plan.
    pub fn build(self) -> Result<Compilation<'a, Built>, Error> {
        let Compilation { mut job, stage: mut lowered } = self;
        let mut units = Vec::new();
        if job.settings.target.is_gpu() {
            job.progress.phase("compiling kernels");
            let built;
            (lowered, built) = lowered.build(&job.weights, &job.driver.compiler()?)?;
            check_workspace(&lowered.plan, job.options.workspace_bytes)?;
            units = Unit::built(&lowered.plan, built);
            job.tell(|observer| observer.built(&lowered, &units));
        }
        for warning in lowered.selection().warnings() {
            job.progress.warning(&warning);
            job.warnings.push(warning);
        }
        Ok(Compilation { job, stage: Built { lowered, units } })
    }
}

impl Compilation<'_, Built> {
    /// The code of the kernels.
    pub fn units(&self) -> &[Unit] {
        &self.stage.units
    }

    /// The report of a compilation that ends here.
    pub fn report(self) -> CompileReport {
        self.job.report(&self.stage.lowered)
    }

    /// Computes the weights and writes the plan, unless inputs have changed meanwhile.
    pub fn write(self, out: &Path) -> Result<CompileReport, Error> {
        let Compilation { job, stage: Built { lowered, .. } } = self;
        let mut report = job.report(&lowered);
        let Job { start, inputs, weights, progress, .. } = job;
        progress.phase("writing plan");
        let total = lowered.stored_bytes();
        let written = &mut |written| progress.weights(written, total);
        report.plan_bytes = Some(lowered.write(out, &weights, written, &|| inputs.check_unchanged())?);
        report.total_ms = start.elapsed().as_secs_f64() * 1e3;
        Ok(report)
    }
}

impl Job<'_> {
    fn tell(&mut self, event: impl FnOnce(&mut dyn Observer)) {
        if let Some(observer) = self.observer.as_deref_mut() {
            event(observer);
        }
    }

    /// How the graph is built.
    pub fn import_options(&self) -> &ImportOptions {
        &self.settings.import
    }

    /// The contents of the plan besides its programs.
    fn spec(&self) -> PlanSpec {
        let Settings { target, limits, kv_blocks, .. } = &self.settings;
        let mut spec = PlanSpec {
            target: target.name().to_owned(),
            model: self.inputs.source.model(),
            limits: limits.clone(),
            kv_blocks: *kv_blocks,
            files: Vec::new(),
            config: Vec::new(),
            inputs: Vec::new(),
        };
        if !self.inputs.partial {
            let files = self.inputs.source.checkpoint.files();
            spec.files = files.into_iter().chain(self.formats.clone()).collect();
            spec.config = self.config();
            spec.inputs = self.inputs.fingerprints(&self.options);
        }
        spec
    }

    /// Everything that decides a plan, and the key of a cached one.
    fn config(&self) -> Vec<(String, String)> {
        let mut config = self.settings.effective(&self.options);
        config.extend(self.cache_key.iter().map(|key| (CACHE_KEY.to_owned(), key.clone())));
        config.sort_unstable();
        config
    }

    fn report(&self, lowered: &Lowered) -> CompileReport {
        let mut report = CompileReport::of(lowered, self.passes.clone(), self.warnings.clone());
        report.total_ms = self.start.elapsed().as_secs_f64() * 1e3;
        report.target_reason.clone_from(&self.target_reason);
        report.device_memory = self.driver.device_memory(self.settings.target);
        report
    }
}

impl Inputs<'_> {
    /// Fingerprints of all files, sorted by name.
    fn fingerprints(&self, options: &CompileOptions) -> Vec<plan::Input> {
        let mut inputs = self.source.checkpoint.inputs();
        inputs.extend(text_inputs(options));
        inputs.extend(self.calibrated.iter().flat_map(Calibrated::inputs));
        inputs.sort_by(|a, b| a.name.cmp(&b.name));
        inputs
    }

    /// Whether all files are as they were read. For a part, the caller checks the checkpoint once, at the end.
    pub fn check_unchanged(&self) -> Result<(), Changed> {
        if self.partial {
            return Ok(());
        }
        self.source.checkpoint.check_unchanged()?;
        self.calibrated.iter().try_for_each(Calibrated::check_unchanged)?;
        self.stamps.iter().try_for_each(Stamp::check)
    }
}

impl Driver {
    /// Compiles the checkpoint in `dir` to a plan file: all stages of a [`Compilation`].
    pub fn compile(
        &self,
        dir: &Path,
        out: &Path,
        options: &CompileOptions,
        progress: &mut dyn Progress,
    ) -> Result<CompileReport, Error> {
        progress.phase("reading checkpoint");
        Compilation::new(self, &Source::open(dir, options)?, options, progress)?.write(out)
    }

    /// The same without compiling kernels, computing weights and writing the plan.
    pub fn dry_run(
        &self,
        dir: &Path,
        options: &CompileOptions,
        progress: &mut dyn Progress,
    ) -> Result<CompileReport, Error> {
        progress.phase("reading checkpoint");
        Ok(Compilation::new(self, &Source::open(dir, options)?, options, progress)?.lowered()?.report())
    }
}

impl<S: std::fmt::Debug> std::fmt::Debug for Compilation<'_, S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Compilation")
            .field("source", self.job.inputs.source)
            .field("stage", &self.stage)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use codegen::{Call, Kernel, Refusal, Site};

    use super::*;
    use crate::{Quiet, TargetChoice, TimingMode, TimingOptions};

    /// Supports no op, and writes down what it is offered.
    #[derive(Clone, Debug, Default)]
    struct Offered(Arc<Mutex<Vec<String>>>);

    impl Kernel for Offered {
        fn name(&self) -> &'static str {
            "offered"
        }

        fn call(&self, site: &Site<'_>) -> Result<Call, Refusal> {
            // an op that is expanded may give its name to one of its parts
            self.0.lock().unwrap().push(format!("{} {:?}", site.program.name, site.op));
            Err(Refusal::OtherOp)
        }

        fn candidates(&self, _: &Site<'_>) -> Result<Vec<Call>, Refusal> {
            Err(Refusal::OtherOp)
        }
    }

    /// Writes down what happens.
    #[derive(Default)]
    struct Events(Vec<&'static str>);

    impl Observer for Events {
        fn imported(&mut self, _: &Graph) {
            self.0.push("imported");
        }

        fn after_pass(&mut self, _: &PassTime, _: &Graph) {
            self.0.push("pass");
        }

        fn selected(&mut self, _: &Graph, _: &Selection) {
            self.0.push("selected");
        }

        fn lowered(&mut self, _: &Lowered) {
            self.0.push("lowered");
        }
    }

    #[test]
    fn kernels_are_selected_once_and_observers_see_each_stage() {
        let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/demo");
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("timings.json");
        std::fs::write(&file, "{\"schema_version\": 1, \"timings\": []}").unwrap();
        let options = CompileOptions {
            target: TargetChoice::Named("sm_90a".to_owned()),
            // timings need a selection as much as a plan does
            timing: Some(TimingOptions { file, mode: Some(TimingMode::Read), device: None }),
            ..CompileOptions::default()
        };
        let (offered, mut events, mut progress) = (Offered::default(), Events::default(), Quiet);
        let driver = Driver::new().cuda_kernel(offered.clone());
        let source = Source::open(demo, &options).unwrap();
        let compilation = Compilation::new(&driver, &source, &options, &mut progress).unwrap().observed(&mut events);
        assert!(!compilation.lowered().unwrap().plan().programs.is_empty());
        let mut sites = offered.0.lock().unwrap().clone();
        let count = sites.len();
        sites.sort();
        sites.dedup();
        assert!(count > 100 && sites.len() == count, "{count} ops were offered, {} of them different", sites.len());
        events.0.dedup();
        assert_eq!(events.0, ["imported", "pass", "selected", "lowered"]);
    }
}
