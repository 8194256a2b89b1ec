//! The interpreter over the steps of a scenario, and graphs after passes.

use ir::{DerivedWeights, Environment, Graph, HostData, KvState, WeightSource, evaluate};
use passes::{PassContext, PassManager, PassReport, Pipeline, Silent};

use crate::{Scenario, SeededActivations};

/// The outputs of one step, in order.
pub type StepOutputs = Vec<HostData>;

/// Evaluates a graph step by step, with one KV cache.
pub fn interpret(graph: &Graph, weights: &dyn WeightSource, scenario: &Scenario) -> Result<Vec<StepOutputs>, String> {
    let mut kv = KvState::new(graph.kv());
    let mut outputs = Vec::new();
    for (index, step) in scenario.steps.iter().enumerate() {
        let env = Environment { weights, symbols: step.symbols.clone(), inputs: step.inputs.clone() };
        let values = evaluate(graph, &env, &mut kv).map_err(|error| format!("interpreter, step {index}: {error}"))?;
        outputs.push(values.into_iter().map(|tensor| tensor.data).collect());
    }
    Ok(outputs)
}

/// The graph after a pipeline of passes without derived weights, and the statistics of each pass.
pub fn run_passes(
    pipeline: &Pipeline,
    graph: &Graph,
    weights: &dyn WeightSource,
) -> Result<(Graph, Vec<PassReport>), String> {
    run_passes_over(pipeline, graph, &DerivedWeights::over(weights))
}

/// The same with storage for derived weights. Activations are seeded.
pub fn run_passes_over(
    pipeline: &Pipeline,
    graph: &Graph,
    weights: &DerivedWeights<'_>,
) -> Result<(Graph, Vec<PassReport>), String> {
    let activations = SeededActivations::of(graph);
    let calibration = activations.calibration();
    let context = PassContext::new(weights).calibrated(&calibration, &activations);
    let mut graph = graph.clone();
    let reports = PassManager::default()
        .run(pipeline, &mut graph, &context, &mut Silent)
        .map_err(|failure| format!("{failure}\n{}", failure.repro))?;
    Ok((graph, reports))
}
