//! Random graphs keep their semantics: printed and parsed, through each pass alone, through the whole pipeline, and on
//! the CPU. `SMELT_GRAPHS=10000` tries that many instead of 500.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use ir::ops::Argmax;
use ir::{DerivedWeights, Graph, HostData, OpSet, Stage, Value, WeightSource, text};
use passes::{Changed, Numerics, PassList, Pipeline, pipeline};
use proptest::prelude::*;
use proptest::test_runner::{TestError, TestRunner};
use runtime::CpuExecutor;
use tests::{
    Piece, Scenario, SeededWeights, StepOutputs, Tolerance, compare, compile, execute, in_f32, interpret, random_graph,
    run_passes, run_passes_over,
};

/// Coverage of all graphs together.
#[derive(Default)]
struct Seen {
    /// Ops of some graph, before or after the pipeline.
    ops: BTreeSet<&'static str>,
    /// For each pass, the number of graphs that it changed alone, and in the pipeline.
    changed: BTreeMap<String, (u32, u32)>,
}

#[test]
fn random_graphs_keep_their_meaning() {
    let cases = std::env::var("SMELT_GRAPHS").map_or(500, |count| count.parse().expect("SMELT_GRAPHS is a number"));
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    let executor = CpuExecutor::new(Some(2)).expect("there is a CPU");
    let seen = RefCell::new(Seen::default());
    let inputs = (prop::collection::vec(any::<Piece>(), 1..14), any::<bool>());
    let result = TestRunner::new(config).run(&inputs, |(pieces, narrow)| {
        let graph = random_graph(&pieces, narrow);
        let checked = check(&graph, narrow, &executor, &mut seen.borrow_mut());
        checked.map_err(|reason| TestCaseError::fail(format!("{reason}\n{}", text::print(&graph))))
    });
    match result {
        Err(TestError::Fail(reason, pieces)) => panic!("{reason}\nmade of {pieces:?}"),
        other => other.expect("graphs can be made"),
    }

    let seen = seen.into_inner();
    let absent = OpSet::standard();
    let absent: Vec<&str> = absent.iter().map(|op| op.mnemonic).filter(|name| !seen.ops.contains(name)).collect();
    assert!(absent.is_empty(), "no graph had {absent:?}: they lack a piece in tests/src/graphs.rs");
    eprintln!("{cases} graphs; changed by each pass alone, and in the pipeline: {:?}", seen.changed);
    for pass in PassList::standard().iter() {
        let name = pass.name();
        if name == "scale-kv" {
            continue; // for quantized caches, which no graph here has: a rounded value could be quantized either way
        }
        let changed = seen.changed.get(name.as_ref()).copied().unwrap_or_default();
        assert!(changed.0 > 0, "no graph was changed by `{name}`: it lacks a piece in tests/src/graphs.rs");
    }
}

fn check(graph: &Graph, narrow: bool, executor: &CpuExecutor, seen: &mut Seen) -> Result<(), String> {
    ir::verify(graph, Stage::Imported).map_err(|found| format!("{found:?}"))?;
    let weights = SeededWeights::of(graph, false);
    let scenario = Scenario::new("random graph", &BTreeMap::new(), graph)?;
    let expected = interpret(graph, &weights, &scenario)?;
    let wide = in_f32(graph);
    let wide_weights = SeededWeights::of(&wide, false);
    let wide_expected = interpret(&wide, &wide_weights, &scenario)?;
    let wide_ranked = interpret(&ranked(&wide), &wide_weights, &scenario)?;
    let same = |after: &Graph, numerics: Numerics, weights: &dyn WeightSource| match numerics {
        Numerics::Exact => compare(graph, &expected, &interpret(after, weights, &scenario)?, Tolerance::Exact),
        Numerics::Rounding => {
            let found = interpret(&in_f32(after), &wide_weights, &scenario)?;
            close(&wide, &wide_expected, &wide_ranked, found, Tolerance::Relative(1e-3))
        }
        // the cases of the pass check the difference; here only that there is a value
        Numerics::Quantizing { .. } | Numerics::Different => interpret(after, weights, &scenario).map(drop),
    };

    let printed = text::print(graph);
    let parsed = text::parse(&printed, &OpSet::standard()).map_err(|error| error.to_string())?;
    if text::print(&parsed.graph) != printed {
        return Err("printing the parsed text gives another".to_owned());
    }
    same(&parsed.graph, Numerics::Exact, &weights)?;

    for pass in PassList::standard().iter() {
        let name = pass.name();
        let alone = Pipeline::of(vec![pass.clone()]);
        let made = DerivedWeights::over(&weights);
        let (after, reports) = run_passes_over(&alone, graph, &made)?;
        same(&after, pass.numerics(), &made).map_err(|reason| format!("`{name}`: {reason}"))?;
        let changed = text::print(&after) != printed;
        if changed != (reports[0].changed == Changed::Yes) {
            return Err(format!("`{name}` reports the opposite of changed = {changed}"));
        }
        if run_passes(&alone, &after, &weights)?.1[0].changed == Changed::Yes {
            return Err(format!("a second run of `{name}` changes the graph again"));
        }
        seen.changed.entry(name.into_owned()).or_default().0 += u32::from(changed);
    }

    let (after, reports) = run_passes(&pipeline::standard(), graph, &weights)?;
    same(&after, Numerics::Rounding, &weights).map_err(|reason| format!("the pipeline: {reason}"))?;
    for report in reports {
        seen.changed.entry(report.name).or_default().1 += u32::from(report.changed == Changed::Yes);
    }
    for graph in [graph, &after] {
        seen.ops.extend(graph.ops().map(|id| graph.op(id).mnemonic()));
    }

    if narrow {
        return Ok(()); // values of a step are f32 on the CPU
    }
    let compiled = compile(graph, codegen::Target::Cpu, &weights, scenario.kv_blocks)?;
    let found = execute(executor, graph, compiled.file.clone(), &scenario)?;
    let ranked = interpret(&ranked(graph), &weights, &scenario)?;
    close(graph, &expected, &ranked, found, tolerance(graph))
}

/// The allowed difference of the CPU from the interpreter: that of sums in another order, or of roundings in the cache.
fn tolerance(graph: &Graph) -> Tolerance {
    match Tolerance::of(Numerics::Rounding, graph) {
        Tolerance::Relative(rounding) => Tolerance::Relative(rounding.max(1e-3)),
        other => other,
    }
}

/// The graph with the operands of its `argmax` outputs as additional outputs.
fn ranked(graph: &Graph) -> Graph {
    let mut ranked = graph.clone();
    for output in graph.outputs() {
        if let Some(values) = ranked_by(graph, output.value) {
            ranked.add_output(&format!("{}.ranked", output.name), values);
        }
    }
    ranked
}

/// The operand of this value's op, if that is `argmax`.
fn ranked_by(graph: &Graph, value: Value) -> Option<Value> {
    let (op, _) = graph.producer::<Argmax>(value)?;
    Some(graph.operands(op)[0])
}

/// Compares values that may have been summed in another order. Norms of norms amplify the difference, where a misplaced
/// value differs by 1; and of two elements that are equal within the tolerance, `argmax` may choose either:
/// `ranked_steps` are the outputs of [`ranked`].
fn close(
    graph: &Graph,
    expected: &[StepOutputs],
    ranked_steps: &[StepOutputs],
    mut found: Vec<StepOutputs>,
    tolerance: Tolerance,
) -> Result<(), String> {
    let Tolerance::Relative(relative) = tolerance else { return compare(graph, expected, &found, tolerance) };
    for ((expected, ranked), found) in expected.iter().zip(ranked_steps).zip(&mut found) {
        let mut ranked = ranked[expected.len()..].iter();
        for (index, output) in graph.outputs().iter().enumerate() {
            if ranked_by(graph, output.value).is_none() {
                continue;
            }
            let (HostData::I32(expected), HostData::I32(found)) = (&expected[index], &mut found[index]) else {
                return Err(format!("output `{}` has no indices", output.name));
            };
            let HostData::F32(values) = ranked.next().expect("each argmax has a ranked output") else {
                return Err(format!("`{}` ranks no f32 values", output.name));
            };
            let width = values.len() / expected.len().max(1);
            for ((expected, found), row) in expected.iter().zip(found).zip(values.chunks(width.max(1))) {
                let (most, other) = (row[*expected as usize], row.get(*found as usize));
                if other.is_some_and(|other| most - other <= relative * most.abs().max(1.0)) {
                    *found = *expected;
                }
            }
        }
    }
    compare(graph, expected, &found, tolerance)
}
