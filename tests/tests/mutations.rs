//! Damaged texts of graphs and of rules: parsers, and passes on those that still parse, may refuse but not panic. The
//! damage is the same in every run. Damaged plan files are in `plans.rs` and `hostile.rs`.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use ir::{OpSet, Stage, text, verify};
use passes::pipeline;
use tests::{Random, Scenario, SeededWeights, cases, interpret, run_passes};

/// Words for mutations, besides the text's own.
const WORDS: [&str; 28] = [
    "%",
    "@",
    "\"",
    "{",
    "}",
    "(",
    ")",
    "[",
    "]",
    "<",
    ">",
    ",",
    ":",
    "=",
    "..",
    "//",
    "-1",
    "0",
    "4294967296",
    "1e999",
    "max(",
    "i32",
    "effect",
    "$n",
    "_",
    "=>",
    "%y",
    "é",
];

/// A text with some of its words removed, duplicated, swapped or replaced.
fn mutated(text: &str, random: &mut Random) -> String {
    let mut words: Vec<&str> = text.split_inclusive([' ', '\n', ',', '(', ')', '[', ']']).collect();
    for _ in 0..1 + random.below(3) {
        let at = random.below(words.len() as u64) as usize;
        match random.below(5) {
            0 => drop(words.remove(at)),
            1 => words.insert(at, words[at]),
            2 => {
                let other = random.below(words.len() as u64) as usize;
                words.swap(at, other);
            }
            3 => words[at] = WORDS[random.below(WORDS.len() as u64) as usize],
            _ => {
                let other = random.below(words.len() as u64) as usize;
                words[at] = words[other];
            }
        }
        if words.is_empty() {
            break;
        }
    }
    words.concat()
}

/// Parses a text, and processes it as far as possible.
fn read(text: &str) -> Result<(), String> {
    let Ok(parsed) = text::parse(text, &OpSet::standard()) else { return Ok(()) };
    let graph = parsed.graph;
    let printed = text::print(&graph);
    let again = text::parse(&printed, &OpSet::standard()).map_err(|error| format!("does not parse again: {error}"))?;
    if text::print(&again.graph) != printed {
        return Err("does not print as it was parsed".to_owned());
    }
    if verify(&graph, Stage::Imported).is_err() {
        return Ok(());
    }
    // the interpreter is slow: for graphs as large as models' layers, only the text is tested
    let elements = |value| graph.tensor(value).and_then(ir::TensorType::const_shape).map_or(0, |s| s.iter().product());
    let constants = graph.ops().flat_map(|id| graph.results(id)).filter(|value| graph.is_constant(*value));
    if constants.map(elements).sum::<u64>() > 1 << 20 {
        return Ok(());
    }
    // a legal graph has a value, unless an index is out of bounds; passes preserve that
    let weights = SeededWeights::of(&graph, false);
    let Ok(scenario) = Scenario::new("damaged text", &BTreeMap::new(), &graph) else { return Ok(()) };
    let before = interpret(&graph, &weights, &scenario);
    let Ok((after, _)) = run_passes(&pipeline::standard(), &graph, &weights) else { return Ok(()) };
    match (before, interpret(&after, &weights, &scenario)) {
        (Ok(_), Err(reason)) => Err(format!("has a value before the passes, but not after: {reason}")),
        _ => Ok(()),
    }
}

#[test]
fn damaged_text_is_refused_or_read() {
    let cases = cases().unwrap();
    for case in &cases {
        // one stream per case: added cases do not affect the others
        let mut random = Random::named(&format!("damaged {}", case.name));
        for _ in 0..40 {
            let text = mutated(&case.text, &mut random);
            let outcome = catch_unwind(AssertUnwindSafe(|| read(&text)));
            match outcome {
                Ok(Ok(())) => {}
                Ok(Err(reason)) => panic!("{}: {reason}\n{text}", case.name),
                Err(_) => panic!("{}: panics on\n{text}", case.name),
            }
        }
    }
}

/// Parses rules, and runs valid ones on a graph.
fn read_rules(text: &str, graph: &ir::Graph) -> Result<(), String> {
    let Ok(rules) = passes::rules::parse(text, &OpSet::standard()) else { return Ok(()) };
    let passes = rules.into_iter().map(|rule| -> Arc<dyn passes::Pass> { Arc::new(rule) });
    let pipeline = passes::Pipeline::of(passes.collect());
    let weights = SeededWeights::of(graph, false);
    // a rule may fail, with its name, but must not leave an invalid graph
    match run_passes(&pipeline, graph, &weights) {
        Ok((after, _)) => verify(&after, Stage::Imported).map(drop).map_err(|found| found[0].to_string()),
        Err(reason) if reason.contains("rule `") => Ok(()),
        Err(reason) => Err(reason),
    }
}

#[test]
fn damaged_rules_are_refused_or_run() {
    let mut random = Random::named("damaged rules");
    for case in cases().unwrap().iter().filter(|case| case.command == "rules") {
        let rules = std::fs::read_to_string(case.path.with_file_name(&case.args[0])).unwrap();
        let graph = case.graph().unwrap();
        for _ in 0..100 {
            let text = mutated(&rules, &mut random);
            match catch_unwind(AssertUnwindSafe(|| read_rules(&text, &graph))) {
                Ok(Ok(())) => {}
                Ok(Err(reason)) => panic!("{}: {reason}\n{text}", case.name),
                Err(_) => panic!("{}: panics on\n{text}", case.name),
            }
        }
    }
}
