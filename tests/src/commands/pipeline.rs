//! `// test: pipeline [STAGE]`: the graph after the pipeline up to a stage, `fused` by default.

use ir::Stage;

use super::{pass, verify};
use crate::{Case, Command, Outcome, SeededWeights, Suite, run_passes};

pub struct Pipeline;

impl Command for Pipeline {
    fn name(&self) -> &'static str {
        "pipeline"
    }

    fn run(&self, suite: &Suite, case: &Case) -> Result<Outcome, String> {
        let stage = if case.args.is_empty() { Stage::Fused } else { verify::stage(case)? };
        let graph = suite.graph(case)?;
        let weights = SeededWeights::of(&graph, case.dummy_weights);
        let (after, reports) = run_passes(&suite.driver.pipeline().until(stage), &graph, &weights)?;
        pass::same_meaning(suite, case, &graph, &after, &weights, suite.numerics(&reports))?;
        Ok(Outcome::Text(ir::text::print(&after)))
    }
}
