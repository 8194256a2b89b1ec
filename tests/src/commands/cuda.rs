//! `// test: cuda TARGET`: the units of a graph's kernels, before their includes are flattened. `nvrtc` compiles the
//! units of the same cases, if NVRTC is available.

use super::target;
use crate::{Case, Command, Outcome, Suite, device, lower};

pub struct Cuda;

impl Command for Cuda {
    fn name(&self) -> &'static str {
        "cuda"
    }

    fn run(&self, suite: &Suite, case: &Case) -> Result<Outcome, String> {
        let target = match target(case) {
            Ok(target) => target,
            Err(skipped) => return Ok(skipped),
        };
        let (graph, weights, _) = suite.fused(case)?;
        let lowered = lower(&suite.driver, &graph, target, &weights, 1)?;
        Ok(Outcome::Text(lowered.selection().print_units()))
    }
}

pub struct Nvrtc;

impl Command for Nvrtc {
    fn name(&self) -> &'static str {
        "nvrtc"
    }

    fn takes(&self, _: &Suite, case: &Case) -> bool {
        case.command == "cuda"
    }

    fn run(&self, suite: &Suite, case: &Case) -> Result<Outcome, String> {
        let target = match target(case) {
            Ok(target) => target,
            Err(skipped) => return Ok(skipped),
        };
        let compiler = match device::compiler() {
            Ok(compiler) => compiler,
            Err(reason) => return Ok(Outcome::Skipped(reason)),
        };
        let (graph, weights, _) = suite.fused(case)?;
        let mut lowered = lower(&suite.driver, &graph, target, &weights, 1)?;
        let built = lowered.compile(&compiler).map_err(|error| error.to_string())?;
        match built.into_iter().find_map(|built| built.slow) {
            Some(reason) => Err(format!("a kernel would be slow: {reason}")),
            None => Ok(Outcome::Passed),
        }
    }
}
