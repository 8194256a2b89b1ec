//! Plans on a device over the steps of a scenario.

use std::sync::Arc;

use ir::{Graph, HostData, HostTensor};
use plan::{Bindings, Executor, InputData, Plan, PlanFile, PortData, ProgramKind};

use crate::inputs::symbol_value;
use crate::{Scenario, StepOutputs, StepValues};

/// Runs the steps of a scenario.
pub fn execute(
    executor: &dyn Executor,
    graph: &Graph,
    file: Arc<PlanFile>,
    scenario: &Scenario,
) -> Result<Vec<StepOutputs>, String> {
    let mut session = executor.load(Arc::clone(&file)).map_err(|error| error.to_string())?;
    let mut outputs = Vec::new();
    for (index, step) in scenario.steps.iter().enumerate() {
        let error = |error: plan::ExecError| format!("{}, step {index}: {error}", executor.target());
        let inputs: Vec<_> = step.inputs.iter().map(|(name, tensor)| (name.as_str(), input(tensor))).collect();
        let bindings = Bindings { symbols: &step.symbols, inputs: &inputs };
        let id = session.submit(program(file.plan(), step)?, &bindings).map_err(error)?;
        let mut step_outputs = StepOutputs::new();
        for output in graph.outputs() {
            step_outputs.push(match session.read(id, &output.name).map_err(error)? {
                PortData::F32(values) => HostData::F32(values),
                PortData::I32(values) => HostData::I32(values),
            });
        }
        outputs.push(step_outputs);
    }
    Ok(outputs)
}

/// The values of an input in an executor's form.
fn input(tensor: &HostTensor) -> InputData<'_> {
    match &tensor.data {
        HostData::I32(values) => InputData::Values(values),
        HostData::F32(values) => InputData::Floats(values),
    }
}

/// The program of a plan that runs a step.
pub(crate) fn program(plan: &Plan, step: &StepValues) -> Result<usize, String> {
    let batch = symbol_value(&step.symbols, "B");
    let fits = |program: &plan::Program| {
        let size = program.symbols.iter().find(|decl| decl.symbol.name() == "B").map(|decl| decl.max);
        program.kind == step.kind && (program.kind == ProgramKind::Mixed || size == batch)
    };
    plan.programs.iter().position(fits).ok_or_else(|| format!("the plan has no {:?} program for {batch:?}", step.kind))
}
