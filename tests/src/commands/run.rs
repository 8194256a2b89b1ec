//! `// test: run TARGET`: an executor, on the plan of a graph, gives what the interpreter gives on the graph before any
//! pass.

use std::sync::Arc;

use passes::Numerics;

use super::target;
use crate::{Case, Command, Outcome, Scenario, SeededWeights, Tolerance, compare, compile, execute, interpret};

pub struct Run;

impl Command for Run {
    fn name(&self) -> &'static str {
        "run"
    }

    fn run(&self, case: &Case) -> Result<Outcome, String> {
        let target = match target(case) {
            Ok(target) => target,
            Err(skipped) => return Ok(skipped),
        };
        let graph = case.graph()?;
        let weights = SeededWeights::of(&graph, case.dummy_weights);
        let scenario = Scenario::new(&case.name, &case.sizes, &graph)?;
        let compiled = compile(&graph, target, &weights, scenario.kv_blocks)?;
        let found = execute(&graph, Arc::clone(&compiled.file), &scenario)?;
        let expected = interpret(&graph, &weights, &scenario)?;
        compare(&graph, &expected, &found, Tolerance::of(Numerics::Rounding, &graph))?;
        Ok(Outcome::Passed)
    }
}
