//! `// test: pass NAMES…`: the effect of passes on a graph, as a diff. The graph means the same before and after, as
//! far as the passes' numerics promise, and a second run changes nothing.

use std::sync::Arc;

use ir::{DerivedWeights, Graph, WeightSource};
use passes::{Changed, Numerics};

use crate::{Case, Command, Outcome, Scenario, SeededWeights, Suite, Tolerance, compare, interpret, run_passes_over};

pub struct Pass;

impl Command for Pass {
    fn name(&self) -> &'static str {
        "pass"
    }

    fn run(&self, suite: &Suite, case: &Case) -> Result<Outcome, String> {
        let known = suite.driver.passes();
        let find = |name: &String| known.find(name).ok_or_else(|| format!("unknown pass `{name}`"));
        let passes = case.args.iter().map(find).collect::<Result<Vec<_>, _>>()?;
        if passes.is_empty() {
            return Err("expected names of passes after `// test: pass`".to_owned());
        }
        difference_of(suite, case, passes)
    }
}

/// The effect of passes on a case, as a diff.
pub(super) fn difference_of(suite: &Suite, case: &Case, passes: Vec<Arc<dyn passes::Pass>>) -> Result<Outcome, String> {
    let numerics = passes.iter().map(|pass| pass.numerics()).max().unwrap_or(Numerics::Exact);
    let pipeline = passes::Pipeline::of(passes);
    let graph = suite.graph(case)?;
    let seeded = SeededWeights::of(&graph, case.dummy_weights);
    let weights = DerivedWeights::over(&seeded);
    let (after, reports) = run_passes_over(&pipeline, &graph, &weights)?;

    let text = difference(&graph, &after);
    let changed = reports.iter().any(|report| report.changed == Changed::Yes);
    if changed != text.is_some() {
        return Err(format!("the passes report changed = {changed}, the text says {}", text.is_some()));
    }
    if let Some(again) = difference(&after, &run_passes_over(&pipeline, &after, &weights)?.0) {
        return Err(format!("a second run changes the graph again:\n{again}"));
    }
    same_meaning(case, &graph, &after, &weights, numerics)?;
    Ok(Outcome::Text(text.unwrap_or_else(|| "(no change)\n".to_owned())))
}

/// Evaluates both graphs on the seeded inputs of the case. If they differ by design, the second must have values.
pub(super) fn same_meaning(
    case: &Case,
    before: &Graph,
    after: &Graph,
    weights: &dyn WeightSource,
    numerics: Numerics,
) -> Result<(), String> {
    let scenario = Scenario::new(&case.name, &case.sizes, before)?;
    let expected = interpret(before, weights, &scenario)?;
    let found = interpret(after, weights, &scenario)?;
    match numerics {
        Numerics::Different => Ok(()),
        _ => compare(before, &expected, &found, Tolerance::of(numerics, before)),
    }
}

/// The whole text as a diff, or nothing if it is unchanged.
fn difference(before: &Graph, after: &Graph) -> Option<String> {
    let (before, after) = (ir::text::print(before), ir::text::print(after));
    let diff = similar::TextDiff::from_lines(&before, &after);
    let text = diff.unified_diff().context_radius(before.lines().count()).to_string();
    (before != after).then_some(text)
}
