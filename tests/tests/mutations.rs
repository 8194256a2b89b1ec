//! Readers of text and of plan files on damaged input: they may refuse, they may not panic. The damage is the same in
//! every run.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use ir::{OpSet, Stage, text, verify};
use tests::{Random, Scenario, SeededWeights, cases, interpret};

/// What text is mutated with, beside its own words.
const WORDS: [&str; 24] = [
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
    "é",
];

/// A text with some of its words dropped, doubled, swapped or replaced.
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

/// Parses a text, and takes what parses as far as it goes.
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
    // a legal graph has a value, unless its sizes or indices do not fit each other
    let weights = SeededWeights::of(&graph, false);
    if let Ok(scenario) = Scenario::new("mutated", &BTreeMap::new(), &graph) {
        let before = interpret(&graph, &weights, &scenario);
        match tests::run_passes(&passes::pipeline::standard(), &graph, &weights) {
            Err(e) => {
                if !e.contains("joins values of a step") {
                    return Err(format!("PASS {e}"));
                }
            }
            Ok((after, _)) => {
                let after_v = interpret(&after, &weights, &scenario);
                match (&before, &after_v) {
                    (Ok(b), Ok(a)) => {
                        tests::compare(&graph, b, a, tests::Tolerance::of(passes::Numerics::Rounding, &graph))
                            .map_err(|e| format!("CMP {e}"))?
                    }
                    (Err(_), Err(_)) => {}
                    (Err(_), Ok(_)) => {}
                    (Ok(_), Err(e)) => return Err(format!("EVAL {e}")),
                }
                if let Ok(b) = &before
                    && graph.inputs().iter().all(|i| graph.tensor(*i).is_some_and(|t| t.dtype == ir::DType::I32))
                {
                    match tests::compile(&graph, codegen::Target::Cpu, &weights, scenario.kv_blocks) {
                        Err(e) => {
                            if !e.contains("no kernel") {
                                eprintln!("COMPILE {e}")
                            }
                        }
                        Ok(c) => match tests::execute(&graph, c.file.clone(), &scenario) {
                            Err(e) => return Err(format!("CPU {e}")),
                            Ok(f) => {
                                tests::compare(&graph, b, &f, tests::Tolerance::of(passes::Numerics::Rounding, &graph))
                                    .map_err(|e| format!("CPUCMP {e}"))?
                            }
                        },
                    }
                }
            }
        }
    }
    Ok(())
}

#[test]
fn damaged_text_is_refused_or_read() {
    let mut random = Random::named("damaged text");
    let cases = cases().unwrap();
    for case in &cases {
        for _ in 0..300 {
            let text = mutated(&case.text, &mut random);
            let outcome = catch_unwind(AssertUnwindSafe(|| read(&text)));
            match outcome {
                Ok(Ok(())) => {}
                Ok(Err(reason)) => eprintln!("FOUND {}: {reason}\n{text}", case.name),
                Err(_) => panic!("{}: panicked on\n{text}", case.name),
            }
        }
    }
}
