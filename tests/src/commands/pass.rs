//! `// test: pass NAMES…`: the effect of passes on a graph, as a diff. The graph means the same before and after, as
//! far as the passes' numerics promise, and a second run changes nothing. A graph that the passes leave alone differs
//! by an edit from one that they change.

use std::sync::Arc;

use ir::{DerivedWeights, Graph, OpSet, WeightSource};
use passes::{Changed, Numerics};

use crate::{
    Case, Command, FiresWith, Outcome, Scenario, SeededWeights, Suite, Tolerance, compare, interpret, run_passes_over,
};

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

/// The effect of passes on a case, as a diff. Where they change nothing, or with an edit nothing more, the case proves
/// that this is for the reason that it shows.
pub(super) fn difference_of(suite: &Suite, case: &Case, passes: Vec<Arc<dyn passes::Pass>>) -> Result<Outcome, String> {
    let numerics = passes.iter().map(|pass| pass.numerics()).max().unwrap_or(Numerics::Exact);
    let pipeline = passes::Pipeline::of(passes);
    let change_with = |edit| case.edited(edit).and_then(|case| change(suite, &case, &pipeline, numerics));
    let Some(text) = change(suite, case, &pipeline, numerics)? else {
        return match &case.fires_with {
            Some(FiresWith::Nothing) => Ok(Outcome::Text("(no change)\n".to_owned())),
            Some(FiresWith::Edit(edit)) => {
                match change_with(edit).map_err(|error| format!("with its edit: {error}"))? {
                    Some(_) => Ok(Outcome::Text("(no change)\n".to_owned())),
                    None => Err("nothing changes, with the edit of `fires-with` either".to_owned()),
                }
            }
            None => {
                Err("nothing changes: expected `// fires-with: s/OLD/NEW/`, an edit that makes the passes fire, so \
                         that the case shows why they do not"
                    .to_owned())
            }
        };
    };
    if case.fires_with.is_some() {
        return Err("the passes fire, with no need for the edit of `fires-with`".to_owned());
    }
    for (name, edit) in &case.near_misses {
        if let Some(text) = change_with(edit).map_err(|error| format!("near miss `{name}`: {error}"))? {
            return Err(format!("near miss `{name}`: the passes fire:\n{text}"));
        }
    }
    Ok(Outcome::Text(text))
}

/// What passes change, as a diff; checked.
fn change(
    suite: &Suite,
    case: &Case,
    pipeline: &passes::Pipeline,
    numerics: Numerics,
) -> Result<Option<String>, String> {
    let graph = suite.graph(case)?;
    let seeded = SeededWeights::of(&graph, case.dummy_weights);
    let weights = DerivedWeights::over(&seeded);
    let (after, reports) = run_passes_over(pipeline, &graph, &weights)?;

    let text = difference(&graph, &after);
    let changed = reports.iter().any(|report| report.changed == Changed::Yes);
    if changed != text.is_some() {
        return Err(format!("the passes report changed = {changed}, the text says {}", text.is_some()));
    }
    if let Some(again) = difference(&after, &run_passes_over(pipeline, &after, &weights)?.0) {
        return Err(format!("a second run changes the graph again:\n{again}"));
    }
    same_meaning(suite, case, &graph, &after, &weights, numerics)?;
    Ok(text)
}

/// Evaluates both graphs on the seeded inputs of the case. If they differ by design, the second must have values; what
/// is quantized is compared with what nothing quantizes, the KV cache included.
pub(super) fn same_meaning(
    suite: &Suite,
    case: &Case,
    before: &Graph,
    after: &Graph,
    weights: &dyn WeightSource,
    numerics: Numerics,
) -> Result<(), String> {
    let scenario = Scenario::new(&case.name, &case.sizes, before)?;
    let found = interpret(after, weights, &scenario)?;
    let expected = match numerics {
        Numerics::Different => return Ok(()),
        Numerics::Quantizing { .. } => interpret(&with_float_cache(before, suite.driver.ops())?, weights, &scenario)?,
        Numerics::Exact | Numerics::Rounding => interpret(before, weights, &scenario)?,
    };
    compare(before, &expected, &found, Tolerance::of(numerics, before))
}

/// The graph with KV caches of f32.
fn with_float_cache(graph: &Graph, ops: &OpSet) -> Result<Graph, String> {
    let text: Vec<String> = ir::text::print(graph).lines().map(float_cache).collect();
    let parsed = ir::text::parse(&text.join("\n"), ops).map_err(|error| error.to_string())?;
    Ok(parsed.graph)
}

/// `kv 0 : i8 {…}` with f32, and any other line as it is.
fn float_cache(line: &str) -> String {
    match (line.trim_start().starts_with("kv "), line.split_once(" : "), line.split_once(" {")) {
        (true, Some((group, _)), Some((_, shape))) => format!("{group} : f32 {{{shape}"),
        _ => line.to_owned(),
    }
}

/// The whole text as a diff, or nothing if it is unchanged.
fn difference(before: &Graph, after: &Graph) -> Option<String> {
    let (before, after) = (ir::text::print(before), ir::text::print(after));
    let diff = similar::TextDiff::from_lines(&before, &after);
    let text = diff.unified_diff().context_radius(before.lines().count()).to_string();
    (before != after).then_some(text)
}
