//! `// test: plan TARGET`: the whole plan as text, read back from its file, or the error. The same graph gives the same
//! bytes. GPU plans are shown before they are written, which needs NVRTC: weights have no offsets yet.

use super::target;
use crate::{Case, Command, Outcome, Scenario, SeededWeights, Suite, compile_with, lower};

pub struct Plan;

impl Command for Plan {
    fn name(&self) -> &'static str {
        "plan"
    }

    fn run(&self, suite: &Suite, case: &Case) -> Result<Outcome, String> {
        let target = match target(case) {
            Ok(target) => target,
            Err(skipped) => return Ok(skipped),
        };
        let graph = suite.graph(case)?;
        let weights = SeededWeights::of(&graph, case.dummy_weights);
        if target.is_gpu() {
            let (graph, weights, _) = suite.fused(case)?;
            return Ok(Outcome::Text(plan::dump(&lower(&suite.driver, &graph, target, &weights, 1)?.plan)));
        }
        let kv_blocks = Scenario::new(&case.name, &case.sizes, &graph)?.kv_blocks;
        let first = match compile_with(&suite.driver, &graph, target, &weights, kv_blocks) {
            Ok(compiled) => compiled,
            Err(reason) => return Ok(Outcome::Text(format!("error: {reason}\n"))),
        };
        let second = compile_with(&suite.driver, &graph, target, &weights, kv_blocks)?;
        let bytes = [&first, &second].map(|compiled| std::fs::read(compiled.file.path()));
        let [Ok(first_bytes), Ok(second_bytes)] = bytes else { return Err("a plan file is gone".to_owned()) };
        match first_bytes == second_bytes {
            true => Ok(Outcome::Text(plan::dump(first.file.plan()))),
            false => Err("compiling twice gives two plans".to_owned()),
        }
    }
}
