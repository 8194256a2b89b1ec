//! Comparison by layer: a plan and its reference are compiled with the residual stream of each layer as outputs, and
//! run side by side.

use std::borrow::Cow;

use ir::{Graph, Value};
use passes::{Changed, Pass, PassContext, PassError, Slot};

use super::comparison::LOGITS;
use super::{Comparison, EvalRequest, LayerError, Passage, compare};
use crate::{CompileOptions, Driver, Error, Llm, LoadOptions, Progress, Source, TargetChoice};

impl Comparison {
    /// The layers, in order, of plans that output the residual stream after each; then the logits.
    pub fn layers(&self) -> Vec<LayerError> {
        let mut before = 0.0;
        let layer = |value: &super::ValueError| {
            let growth = value.error - std::mem::replace(&mut before, value.error);
            let layer = value.name.strip_suffix(SUM).unwrap_or(&value.name).to_owned();
            LayerError { layer, error: value.error, cosine: value.cosine, growth }
        };
        self.values.iter().filter(|value| is_sum(&value.name) || value.name == LOGITS).map(layer).collect()
    }
}

/// Compiles a checkpoint twice, with the options and as a reference, and compares layer by layer over a text.
pub fn compare_layers(
    driver: &Driver,
    source: &Source,
    request: &EvalRequest<'_>,
    progress: &mut dyn Progress,
) -> Result<Comparison, Error> {
    let driver = driver.clone().pass(Slot::AfterImport, MarkSums);
    let target = driver.target(&request.options.target, progress)?.target.name().to_owned();
    let options = CompileOptions { target: TargetChoice::Named(target), ..request.compile_options() };
    let mut load =
        |compile| Llm::compile(&driver, source, &LoadOptions { compile, ..LoadOptions::default() }, progress);
    let mut reference = load(options.reference())?;
    let mut plan = load(options)?;
    let passage = Passage::new(&plan, request.text)?;
    let windows = request.windows.resolve(&plan, &passage)?;
    progress.phase("comparing layers");
    compare(&mut reference, &mut plan, &passage, windows)
}

/// Names of the residual stream's sums: `layers.3.mlp.sum`.
const SUM: &str = ".sum";

fn is_sum(name: &str) -> bool {
    name.starts_with("layers.") && name.ends_with(SUM)
}

/// Makes each sum of the residual stream an output.
#[derive(Clone, Copy, Debug)]
struct MarkSums;

impl Pass for MarkSums {
    fn name(&self) -> Cow<'static, str> {
        "mark-sums".into()
    }

    fn run(&self, graph: &mut Graph, _: &PassContext<'_>) -> Result<Changed, PassError> {
        let values: Vec<Value> = graph.ops().flat_map(|id| graph.results(id)).collect();
        let named = values.into_iter().map(|value| (graph.value_name(value).to_owned(), value));
        let sums: Vec<(String, Value)> = named.filter(|(name, _)| is_sum(name)).collect();
        for (name, value) in &sums {
            graph.add_output(name, *value);
        }
        Ok((!sums.is_empty()).into())
    }
}
