//! The bound on the arena that a user may set.

use std::fmt::Write;

use plan::{Plan, Program, Step};

use crate::Error;

/// Bytes of the largest arena of any program.
pub(crate) fn workspace(plan: &Plan) -> u64 {
    plan.programs.iter().map(|program| program.arena_bytes).max().unwrap_or(0)
}

/// Checks the bound, or says what would be needed and what needs it.
pub(crate) fn check_workspace(plan: &Plan, bound: Option<u64>) -> Result<(), Error> {
    let needed = workspace(plan);
    let Some(bound) = bound.filter(|bound| *bound < needed) else { return Ok(()) };
    let mut text =
        format!("--workspace-size {bound} is too small, {needed} bytes are needed; arena of each program:\n");
    // Writing to a String cannot fail.
    for program in &plan.programs {
        let _ = writeln!(text, "{:>12}  {}", program.arena_bytes, program.name);
    }
    if let Some(program) = plan.programs.iter().find(|program| program.arena_bytes == needed) {
        write_fullest_step(&mut text, program);
    }
    text.push_str("(a smaller --max-num-tokens or --max-batch-size needs less)");
    Err(Error::DoesNotFit(text))
}

fn write_fullest_step(text: &mut String, program: &Program) {
    let step = program.fullest_step().step;
    let site = program.steps.get(step as usize).map_or("", |Step::Launch(launch)| &launch.site);
    let _ = writeln!(text, "live in the fullest step of {}, `{site}`:", program.name);
    for buffer in program.alive(step) {
        let shape: Vec<String> = buffer.shape.iter().map(ToString::to_string).collect();
        let _ = writeln!(text, "{:>12}  {} : {}[{}]", buffer.bytes, buffer.name, buffer.dtype, shape.join(", "));
    }
}
