//! `// test: eval`: the interpreter gives the same values before and after the pipeline.

use super::pass;
use crate::{Case, Command, Outcome, Suite};

pub struct Eval;

impl Command for Eval {
    fn name(&self) -> &'static str {
        "eval"
    }

    fn run(&self, suite: &Suite, case: &Case) -> Result<Outcome, String> {
        let graph = suite.graph(case)?;
        let (after, weights, numerics) = suite.fused(case)?;
        pass::same_meaning(suite, case, &graph, &after, &weights, numerics)?;
        Ok(Outcome::Passed)
    }
}
