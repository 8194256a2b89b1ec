//! `// test: pipeline [STAGE]`: the graph after the standard pipeline up to a stage, `fused` where none is named.

use ir::Stage;
use passes::{Numerics, pipeline};

use super::{pass, verify};
use crate::{Case, Command, Outcome, SeededWeights, run_passes};

pub struct Pipeline;

impl Command for Pipeline {
    fn name(&self) -> &'static str {
        "pipeline"
    }

    fn run(&self, case: &Case) -> Result<Outcome, String> {
        let stage = if case.args.is_empty() { Stage::Fused } else { verify::stage(case)? };
        let graph = case.graph()?;
        let weights = SeededWeights::of(&graph, case.dummy_weights);
        let (after, _) = run_passes(&pipeline::standard().until(stage), &graph, &weights)?;
        pass::same_meaning(case, &graph, &after, Numerics::Rounding)?;
        Ok(Outcome::Text(ir::text::print(&after)))
    }
}
