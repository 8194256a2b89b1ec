//! `// test: eval`: the interpreter gives the same values before and after the standard pipeline.

use passes::{Numerics, pipeline};

use super::pass;
use crate::{Case, Command, Outcome, SeededWeights, run_passes};

pub struct Eval;

impl Command for Eval {
    fn name(&self) -> &'static str {
        "eval"
    }

    fn run(&self, case: &Case) -> Result<Outcome, String> {
        let graph = case.graph()?;
        let weights = SeededWeights::of(&graph, case.dummy_weights);
        let (after, _) = run_passes(&pipeline::standard(), &graph, &weights)?;
        pass::same_meaning(case, &graph, &after, Numerics::Rounding)?;
        Ok(Outcome::Passed)
    }
}
