//! `// test: trace`: the launches of a prefill step and of a decode step on the CPU target, with all sizes filled in
//! and checked, and the number of launches per layer.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use codegen::Target;
use plan::{Bindings, Executor, Program, Step};
use runtime::TraceExecutor;

use crate::execute::program;
use crate::{Case, Command, Outcome, Scenario, SeededWeights, Suite, compile_with};

pub struct Trace;

impl Command for Trace {
    fn name(&self) -> &'static str {
        "trace"
    }

    fn run(&self, suite: &Suite, case: &Case) -> Result<Outcome, String> {
        let graph = suite.graph(case)?;
        let weights = SeededWeights::of(&graph, case.dummy_weights);
        let scenario = Scenario::new(&case.name, &case.sizes, &graph)?;
        let compiled = compile_with(&suite.driver, &graph, Target::Cpu, &weights, scenario.kv_blocks)?;
        let executor = TraceExecutor::new();
        let mut session = executor.load(Arc::clone(&compiled.file)).map_err(|error| error.to_string())?;
        let mut counts = String::new();
        // the first step mixes, the last one decodes
        for step in scenario.steps.first().into_iter().chain(scenario.steps.last()) {
            let index = program(compiled.file.plan(), step)?;
            let bindings = Bindings { symbols: &step.symbols, inputs: &[] };
            session.submit(index, &bindings).map_err(|error| error.to_string())?;
            counts.push_str(&launches(&compiled.file.plan().programs[index]));
        }
        Ok(Outcome::Text(format!("{}\n{counts}", executor.log())))
    }
}

/// Launches of a program, by the layer in their names.
fn launches(program: &Program) -> String {
    let mut layers: BTreeMap<&str, usize> = BTreeMap::new();
    for Step::Launch(launch) in &program.steps {
        let layer = launch.site.strip_prefix("layers.").and_then(|rest| rest.split('.').next());
        *layers.entry(layer.unwrap_or("")).or_default() += 1;
    }
    let mut text = format!("{}: {} launches", program.name, program.steps.len());
    for (layer, count) in layers.into_iter().filter(|(layer, _)| !layer.is_empty()) {
        // Writing to a String cannot fail.
        let _ = write!(text, ", {count} in layer {layer}");
    }
    text.push('\n');
    text
}
