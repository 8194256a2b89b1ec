//! The accuracy gate: a plan is kept only if it predicts a text well enough, compared with a plan of the same
//! checkpoint at the checkpoint's own precision.

mod bound;
mod failure;

use std::path::Path;

use plan::partial::{self, PartialFolder};

pub use bound::{Bound, Gate, Measured};
pub use failure::{GateFailure, GateReport};

use crate::eval::{Comparison, EvalRequest, LayerError, Passage, WindowOptions, compare, compare_layers};
use crate::progress::Part;
use crate::{
    Compilation, CompileOptions, CompileReport, Driver, Error, Llm, LoadOptions, Observer, Progress, RunOptions,
    Source, TargetChoice,
};

/// Maximum number of layers in the message of a failure.
const WORST_LAYERS: usize = 5;
/// Maximum number of tokens used to find them.
const LAYER_TOKENS: usize = 4096;

/// Compiles plans that must pass a gate.
#[derive(Clone, Copy, Debug)]
pub struct Gated<'a> {
    /// The driver that compiles and runs them.
    pub driver: &'a Driver,
    /// The bounds.
    pub gate: &'a Gate,
    /// The text to measure on.
    pub text: &'a str,
}

impl Gated<'_> {
    /// Compiles as [`Compilation::write`] does, and keeps the plan only if it passes.
    pub fn compile(
        &self,
        source: &Source,
        out: &Path,
        options: &CompileOptions,
        observer: &mut dyn Observer,
        progress: &mut dyn Progress,
    ) -> Result<CompileReport, Error> {
        let target = self.driver.target(&options.target, progress)?.target.name().to_owned();
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
        let mut report = Compilation::new(self.driver, source, options, progress)?.observed(observer).write(&plan)?;
        let mut part = Part { name: "reference", progress };
        Compilation::new(self.driver, source, &options.reference(), &mut part)?.write(&reference)?;
        let measured = self.measure(&reference, &plan, &mut Part { name: "gate", progress })?;
        if !measured.bounds.iter().all(|bound| bound.holds) {
            drop(scratch);
            let part = &mut Part { name: "worst layers", progress };
            let layers = self.worst_layers(source, options, part).unwrap_or_else(|error| {
                progress.note(&format!("the worst layers could not be found: {error}"));
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
        progress.phase("comparing with the reference");
        let passage = Passage::new(&plan, self.text)?;
        let windows = WindowOptions::default().resolve(&plan, &passage)?;
        let found = compare(&mut reference, &mut plan, &passage, windows)?;
        let bounds = self.gate.measure(&found);
        let Comparison { reference, plan, kl, top1, .. } = found;
        Ok(GateReport { plan, reference, kl, top1, bounds })
    }

    fn worst_layers(
        &self,
        source: &Source,
        options: &CompileOptions,
        progress: &mut dyn Progress,
    ) -> Result<Vec<LayerError>, Error> {
        // a token has at least one byte
        let end = self.text.floor_char_boundary(LAYER_TOKENS);
        let text = &self.text[..end];
        let request = EvalRequest { text, options, windows: WindowOptions::default() };
        let found = compare_layers(self.driver, source, &request, progress)?;
        let mut layers = found.layers();
        layers.retain(|layer| layer.growth > 0.0);
        layers.sort_by(|a, b| b.growth.total_cmp(&a.growth));
        layers.truncate(WORST_LAYERS);
        Ok(layers)
    }
}
