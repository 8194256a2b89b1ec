//! `// test: verify STAGE`: the errors of `// error: …` comments are found on their lines, and no others. The parser stops
//! at its first error: the rest is then read without that line, as long as errors are expected there.

use std::collections::BTreeSet;

use ir::text::Parsed;
use ir::{Diagnostic, Stage};

use crate::{Case, Command, ExpectedError, Outcome, Suite};

pub struct Verify;

impl Command for Verify {
    fn name(&self) -> &'static str {
        "verify"
    }

    fn run(&self, suite: &Suite, case: &Case) -> Result<Outcome, String> {
        let stage = stage(case)?;
        let mut missing = case.expected_errors();
        let mut surprises = Vec::new();
        for (lines, message) in found(suite, case, stage) {
            let announced = missing.iter().position(|error| lines.contains(&error.line) && error.message == message);
            match announced {
                Some(index) => drop(missing.remove(index)),
                None => surprises.push(format!("line {lines:?}: unexpected error: {message}")),
            }
        }
        let missing = missing.into_iter();
        let missing = missing.map(|ExpectedError { line, message }| format!("line {line}: no such error: {message}"));
        surprises.extend(missing);
        match surprises.is_empty() {
            true => Ok(Outcome::Passed),
            false => Err(surprises.join("\n")),
        }
    }
}

/// The stage of a case.
pub(super) fn stage(case: &Case) -> Result<Stage, String> {
    let name = case.args.first().map_or("", String::as_str);
    let names = Stage::ALL.map(Stage::name).join(", ");
    Stage::ALL
        .into_iter()
        .find(|stage| stage.name() == name)
        .ok_or_else(|| format!("expected a stage of {names}, found `{name}`"))
}

/// Messages, each with the possible lines.
fn found(suite: &Suite, case: &Case, stage: Stage) -> Vec<(BTreeSet<usize>, String)> {
    let last = case.expected_errors().last().map_or(0, |error| error.line);
    let (mut text, mut errors) = (case.text.clone(), Vec::new());
    let parsed = loop {
        match ir::text::parse(&text, suite.driver.ops()) {
            Ok(parsed) => break parsed,
            Err(error) => {
                errors.push((BTreeSet::from([error.line]), error.message));
                if error.line >= last {
                    return errors;
                }
                let others = text.lines().zip(1..).map(|(line, number)| if number == error.line { "" } else { line });
                text = others.collect::<Vec<_>>().join("\n");
            }
        }
    };
    let found = ir::verify(&parsed.graph, stage).err().unwrap_or_default();
    errors.extend(found.into_iter().map(|diagnostic| (lines(case, &parsed, &diagnostic), diagnostic.message)));
    errors
}

/// The line of the op that computes the value, of `graph` if it is an input; also that of `return`, if an output has
/// the name.
fn lines(case: &Case, parsed: &Parsed, diagnostic: &Diagnostic) -> BTreeSet<usize> {
    let graph = &parsed.graph;
    let line_of = |word: &str| case.text.lines().position(|line| line.trim_start().starts_with(word)).map(|at| at + 1);
    let value = graph.find(&diagnostic.value);
    let op = value.and_then(|value| parsed.lines.get(&value.op).copied());
    let input = value.filter(|value| graph.inputs().contains(value)).and_then(|_| line_of("graph "));
    let output = graph.outputs().iter().any(|output| output.name == diagnostic.value);
    op.into_iter().chain(input).chain(line_of("return ").filter(|_| output)).collect()
}
