//! `// test: select TARGET`: the kernel of each op after the pipeline, or the error. Kernel descriptions must list the
//! ops they are selected for.

use std::fmt::Write;

use super::target;
use crate::{Case, Command, Outcome, Suite, limits};
use codegen::{Kernel, ProgramShape, Refusal, Site};

pub struct Select;

impl Command for Select {
    fn name(&self) -> &'static str {
        "select"
    }

    fn run(&self, suite: &Suite, case: &Case) -> Result<Outcome, String> {
        let target = match target(case) {
            Ok(target) => target,
            Err(skipped) => return Ok(skipped),
        };
        let (graph, ..) = suite.fused(case)?;
        let programs = ProgramShape::all(&graph, &limits(&graph));
        let catalog = suite.driver.catalog(target);
        for (op, program) in graph.ops().flat_map(|op| programs.iter().map(move |program| (op, program))) {
            let site = Site { graph: &graph, op, program };
            let mnemonic = graph.op(op).mnemonic();
            let dtypes: Vec<_> = graph.results(op).filter_map(|value| Some(graph.tensor(value)?.dtype)).collect();
            // ops with a formula are done by `map`
            let mnemonic = if graph.op(op).formula(&dtypes).is_some() { "map" } else { mnemonic };
            let silent = |kernel: &&dyn Kernel| {
                kernel.call(&site) != Err(Refusal::OtherOp) && !kernel.about().ops.contains(&mnemonic)
            };
            if let Some(kernel) = catalog.iter().find(silent) {
                return Err(format!("`{}` takes `{mnemonic}`, which it does not say in `about`", kernel.name()));
            }
        }
        let text = match codegen::select(&graph, &catalog, &programs) {
            Ok(selection) => selection.print(),
            Err(problems) => problems.iter().fold(String::new(), |mut text, problem| {
                // Writing to a String cannot fail.
                let _ = writeln!(text, "error: {problem}");
                text
            }),
        };
        Ok(Outcome::Text(text))
    }
}
