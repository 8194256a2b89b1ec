//! The gate: a plan is kept only where it foretells a text as well as it must, measured against a plan of the same
//! checkpoint at the checkpoint's own precision.

mod bound;

use std::fmt;
use std::path::Path;

use plan::partial::{self, PartialFolder};
use serde::Serialize;

pub use bound::{Bound, Gate, Measured};

use crate::eval::{Comparison, LayerError, Passage, Score, WindowOptions, compare, compare_layers};
use crate::{
    CompileOptions, CompileReport, Driver, Dumps, Error, Llm, LoadOptions, Progress, RunOptions, TargetChoice,
};

/// Layers that the message of a failure names.
const WORST_LAYERS: usize = 5;
/// Tokens that they are looked for with, at most.
const LAYER_TOKENS: usize = 4096;

/// Compiles plans that must pass a gate.
#[derive(Clone, Copy, Debug)]
pub struct Gated<'a> {
    /// What compiles and runs them.
    pub driver: &'a Driver,
    /// What is asked of them.
    pub gate: &'a Gate,
    /// The text to measure with.
    pub text: &'a str,
}

/// What a gate measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GateReport {
    /// What the text costs the plan.
    pub plan: Score,
    /// What it costs the plan at the checkpoint's own precision.
    pub reference: Score,
    /// `KL(reference || plan)` in nats, the mean over all positions.
    pub kl: f64,
    /// Share of positions at which both find the same token most likely.
    pub top1: f64,
    /// The bounds, and how far the plan is from each.
    pub bounds: Vec<Measured>,
}

/// Why a plan was not kept.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GateFailure {
    /// What was measured.
    pub report: GateReport,
    /// The layers that add most to the error, the worst first.
    pub layers: Vec<LayerError>,
}

impl Gated<'_> {
    /// Compiles as [`Driver::compile`] does, and keeps the plan only where it passes.
    pub fn compile(
        &self,
        dir: &Path,
        out: &Path,
        options: &CompileOptions,
        dumps: Option<&mut Dumps>,
        progress: &mut dyn Progress,
    ) -> Result<CompileReport, Error> {
        let target = self.driver.target(&options.target, progress)?.name().to_owned();
        // before anything is compiled that cannot be run
        self.driver.executor(&target, RunOptions::default()).map_err(|error| match error {
            plan::ExecError::NoDevice(reason) => Error::NoDevice(format!("a gate runs the plan: {reason}")),
            error => error.into(),
        })?;
        let options = &CompileOptions { target: TargetChoice::Named(target), ..options.clone() };
        let io = |error| Error::Io { path: out.to_owned(), error };
        let place = partial::place(out).map_err(io)?;
        let scratch = PartialFolder::create_in(partial::folder_of(&place)).map_err(io)?;
        let [plan, reference] = ["new.plan", "reference.plan"].map(|name| scratch.path().join(name));
        let mut report = self.driver.compile(dir, Some(&plan), options, dumps, progress)?;
        self.driver.compile(dir, Some(&reference), &options.reference(), None, progress)?;
        let measured = self.measure(&reference, &plan, progress)?;
        if !measured.bounds.iter().all(|bound| bound.holds) {
            drop(scratch);
            let layers = self.worst_layers(dir, options, progress).unwrap_or_else(|error| {
                progress.note(&format!("the worst layers are not known: {error}"));
                Vec::new()
            });
            return Err(Error::Gate(Box::new(GateFailure { report: measured, layers })));
        }
        partial::replace(&plan, &place).map_err(io)?;
        report.gate = Some(measured);
        Ok(report)
    }

    fn measure(&self, reference: &Path, plan: &Path, progress: &mut dyn Progress) -> Result<GateReport, Error> {
        let mut load = |path| Llm::load_with(self.driver, path, &LoadOptions::default(), progress);
        let (mut reference, mut plan) = (load(reference)?, load(plan)?);
        progress.phase("measure against the reference");
        let passage = Passage::new(&plan, self.text)?;
        let windows = WindowOptions::default().resolve(&plan, &passage)?;
        let found = compare(&mut reference, &mut plan, &passage, windows)?;
        let bounds = self.gate.measure(&found);
        let Comparison { reference, plan, kl, top1, .. } = found;
        Ok(GateReport { plan, reference, kl, top1, bounds })
    }

    fn worst_layers(
        &self,
        dir: &Path,
        options: &CompileOptions,
        progress: &mut dyn Progress,
    ) -> Result<Vec<LayerError>, Error> {
        // a token has a byte at least
        let end = self.text.floor_char_boundary(LAYER_TOKENS);
        let text = &self.text[..end];
        let found = compare_layers(self.driver, dir, text, (options, WindowOptions::default()), progress)?;
        let mut layers = found.layers();
        layers.retain(|layer| layer.growth > 0.0);
        layers.sort_by(|a, b| b.growth.total_cmp(&a.growth));
        layers.truncate(WORST_LAYERS);
        Ok(layers)
    }
}

impl fmt::Display for GateFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "the plan fails its gate and was not written")?;
        for bound in &self.report.bounds {
            write!(f, "\n{bound}")?;
        }
        if !self.layers.is_empty() {
            write!(f, "\n\nerror of the residual stream and the logits, where it grows most:")?;
        }
        for layer in &self.layers {
            write!(f, "\n{:<16} +{:.4} %, to {:.4} %", layer.layer, layer.growth * 100.0, layer.error * 100.0)?;
        }
        Ok(())
    }
}

impl std::error::Error for GateFailure {}
