//! `// test: select TARGET`: the kernel of each op after the standard pipeline, or why there is none.

use std::fmt::Write;

use super::{fused, target};
use crate::{Case, Command, Outcome, limits};
use codegen::ProgramShape;

pub struct Select;

impl Command for Select {
    fn name(&self) -> &'static str {
        "select"
    }

    fn run(&self, case: &Case) -> Result<Outcome, String> {
        let target = match target(case) {
            Ok(target) => target,
            Err(skipped) => return Ok(skipped),
        };
        let (graph, _) = fused(case)?;
        let programs = ProgramShape::all(&graph, &limits(&graph));
        let text = match codegen::select(&graph, &target.catalog(), &programs) {
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
