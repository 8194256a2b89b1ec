//! `// test: run cpu`: an executor, on the plan of a graph, agrees with the interpreter on the graph before any pass.
//! `run_device` runs the same cases on a GPU, if there is one.

use std::sync::Arc;

use codegen::Target;
use passes::Numerics;
use plan::Executor;

use super::target;
use crate::{
    Case, Command, Outcome, Scenario, SeededWeights, Suite, Tolerance, compare, compile_with, device, execute,
    interpret,
};

/// Block size of the KV cache of GPU kernels.
const DEVICE_BLOCK_TOKENS: u32 = 64;

pub struct Run;

impl Command for Run {
    fn name(&self) -> &'static str {
        "run"
    }

    fn run(&self, suite: &Suite, case: &Case) -> Result<Outcome, String> {
        let target = match target(case) {
            Ok(target) => target,
            Err(skipped) => return Ok(skipped),
        };
        let executor = suite.driver.cpu_executor(Some(2)).map_err(|error| error.to_string())?;
        check(suite, case, target, &executor)
    }
}

pub struct RunDevice;

impl Command for RunDevice {
    fn name(&self) -> &'static str {
        "run_device"
    }

    fn takes(&self, _: &Suite, case: &Case) -> bool {
        case.command == "run" || case.command == self.name()
    }

    fn run(&self, suite: &Suite, case: &Case) -> Result<Outcome, String> {
        match device::available() {
            Ok(()) => check(suite, &case.with_block_tokens(DEVICE_BLOCK_TOKENS), Target::Sm90a, &device::executor()?),
            Err(reason) => Ok(Outcome::Skipped(reason)),
        }
    }
}

fn check(suite: &Suite, case: &Case, target: Target, executor: &dyn Executor) -> Result<Outcome, String> {
    let graph = suite.graph(case)?;
    let weights = SeededWeights::of(&graph, case.dummy_weights);
    let scenario = Scenario::new(&case.name, &case.sizes, &graph)?;
    let compiled = compile_with(&suite.driver, &graph, target, &weights, scenario.kv_blocks)?;
    let found = execute(executor, &graph, Arc::clone(&compiled.file), &scenario)?;
    // a pass that declares a change of semantics is not compared
    let meant = if suite.numerics(&compiled.passes).on_purpose() { &compiled.graph } else { &graph };
    let expected = interpret(meant, &weights, &scenario)?;
    compare(&graph, &expected, &found, Tolerance::of(Numerics::Rounding, &graph))?;
    Ok(Outcome::Passed)
}
