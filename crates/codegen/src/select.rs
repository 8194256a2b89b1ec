//! Kernel selection: for each op of each program the first kernel of the catalog that takes it, with the reasons of
//! those that did not.

use std::collections::HashMap;
use std::fmt::Write;

use ir::{Graph, OpId, expand};
use plan::Scalar;

use crate::{Call, Catalog, ProgramShape, Refusal, Site};

/// The kernels chosen for the programs of a graph.
#[derive(Clone, Debug)]
pub struct Selection {
    programs: Vec<Chosen>,
}

/// The kernels chosen for one program.
#[derive(Clone, Debug)]
pub struct Chosen {
    program: String,
    /// The graph, with the parts of the ops that no kernel took.
    graph: Graph,
    choices: HashMap<OpId, Choice>,
    /// What fell apart: the op as it is printed, and the kernels that did not take it.
    expanded: Vec<(String, Vec<Candidate>)>,
}

/// The kernel chosen for an op.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// Its name.
    pub kernel: &'static str,
    /// Its configuration.
    pub call: Call,
    /// Kernels for this op that were tried before it.
    pub refused: Vec<Candidate>,
}

/// A kernel that was not chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its name.
    pub kernel: &'static str,
    /// Why not.
    pub reason: String,
}

/// Chooses a kernel for every op that a step runs: constants are computed when the plan is written. An op that no
/// kernel of the target takes in some program is replaced there by its parts, as far as it has any. Returns all ops that
/// are left without a kernel, each with the reasons.
pub fn select(graph: &Graph, catalog: &Catalog, programs: &[ProgramShape]) -> Result<Selection, Vec<String>> {
    let mut chosen = Vec::new();
    let mut problems: Vec<String> = Vec::new();
    for program in programs {
        let mut choices = HashMap::new();
        let mut refusals: Vec<(OpId, String, Vec<Candidate>)> = Vec::new();
        let mut takes = |graph: &Graph, op: OpId| {
            if graph.is_constant(graph.result(op)) {
                return true;
            }
            match choose(&Site { graph, op, program }, catalog) {
                Ok(choice) => {
                    choices.insert(op, choice);
                    true
                }
                Err(refused) => {
                    refusals.push((op, describe(graph, op), refused));
                    false
                }
            }
        };
        let mut own = graph.clone();
        let parts = expand(&mut own, &mut takes);
        problems.extend(parts.err().map(|error| error.to_string()));
        let mut expanded = Vec::new();
        for (index, (op, text, refused)) in refusals.iter().enumerate() {
            // A number is free again once its op fell apart: only the last op that had it may still be there.
            let later = refusals[index + 1..].iter().any(|(other, ..)| other == op);
            if later || choices.contains_key(op) || !own.contains(*op) {
                expanded.push((text.clone(), refused.clone()));
                continue;
            }
            let problem = no_kernel(&own, *op, refused);
            // programs mostly fail alike
            if !problems.contains(&problem) {
                problems.push(problem);
            }
        }
        chosen.push(Chosen { program: program.name.clone(), graph: own, choices, expanded });
    }
    if problems.is_empty() { Ok(Selection { programs: chosen }) } else { Err(problems) }
}

/// The first kernel that takes an op, or why none does.
fn choose(site: &Site<'_>, catalog: &Catalog) -> Result<Choice, Vec<Candidate>> {
    let mut refused = Vec::new();
    for kernel in catalog.iter() {
        match kernel.call(site) {
            Ok(call) => match catalog.refused(&call) {
                None => return Ok(Choice { kernel: kernel.name(), call, refused }),
                Some(reason) => {
                    let reason = format!("would run slowly: {reason}");
                    refused.push(Candidate { kernel: kernel.name(), reason });
                }
            },
            Err(Refusal::OtherOp) => {}
            Err(Refusal::Because(reason)) => refused.push(Candidate { kernel: kernel.name(), reason }),
        }
    }
    Err(refused)
}

/// `%name = mnemonic`
fn describe(graph: &Graph, op: OpId) -> String {
    format!("%{} = {}", graph.value_name(graph.result(op)), graph.op(op).mnemonic())
}

fn no_kernel(graph: &Graph, op: OpId, refused: &[Candidate]) -> String {
    let mut text = format!("no kernel for `{}` (`%{}`)", graph.op(op).mnemonic(), graph.value_name(graph.result(op)));
    for candidate in refused {
        // Writing to a String cannot fail.
        let _ = write!(text, "; `{}`: {}", candidate.kernel, candidate.reason);
    }
    text
}

impl Chosen {
    /// The graph that the program runs.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// The kernel of an op that a step runs.
    pub fn get(&self, id: OpId) -> Option<&Choice> {
        self.choices.get(&id)
    }

    /// The ops that a step runs, in order.
    fn launches(&self) -> impl Iterator<Item = (OpId, &Choice)> {
        self.graph.ops().filter_map(|id| Some((id, self.get(id)?)))
    }

    /// A line for each op, in program order, and then those that fell apart.
    fn print(&self) -> String {
        let mut out = String::new();
        self.launches().for_each(|(id, choice)| print_choice(&mut out, &self.graph, id, choice));
        for (op, refused) in &self.expanded {
            // Writing to a String cannot fail.
            let _ = writeln!(out, "{op} : in parts");
            print_refused(&mut out, refused);
        }
        out
    }
}

impl Selection {
    /// The kernels of a program, by its place among the programs.
    pub fn program(&self, index: usize) -> &Chosen {
        &self.programs[index]
    }

    /// The kernels of each program. Programs that agree are printed once.
    pub fn print(&self) -> String {
        let mut groups: Vec<(Vec<&str>, String)> = Vec::new();
        for chosen in &self.programs {
            let text = chosen.print();
            match groups.iter_mut().find(|(_, first)| *first == text) {
                Some((names, _)) => names.push(&chosen.program),
                None => groups.push((vec![&chosen.program], text)),
            }
        }
        let alone = groups.len() == 1;
        let print = |(names, text): &(Vec<&str>, String)| match alone {
            true => text.clone(),
            false => format!("// {}\n{text}", names.join(", ")),
        };
        groups.iter().map(print).collect()
    }

    /// The units of all kernels, each once, under the programs that launch it.
    pub fn print_units(&self) -> String {
        let mut units: Vec<(&str, Vec<&str>)> = Vec::new();
        for chosen in &self.programs {
            let choices = chosen.launches();
            for unit in choices.filter_map(|(_, choice)| Some(choice.call.device.as_ref()?.unit.as_str())) {
                match units.iter_mut().find(|(known, _)| *known == unit) {
                    Some((_, programs)) if programs.last() == Some(&chosen.program.as_str()) => {}
                    Some((_, programs)) => programs.push(&chosen.program),
                    None => units.push((unit, vec![&chosen.program])),
                }
            }
        }
        let print = |(unit, programs): &(&str, Vec<&str>)| format!("// {}\n{unit}", programs.join(", "));
        units.iter().map(print).collect::<Vec<_>>().join("\n")
    }
}

fn print_choice(out: &mut String, graph: &Graph, id: OpId, choice: &Choice) {
    let params = choice.call.params.iter().map(|param| match &param.value {
        Scalar::Int(value) => format!("{} = {value}", param.name),
        Scalar::Float(value) => format!("{} = {value:?}", param.name),
        Scalar::Text(value) => format!("{} = {value}", param.name),
    });
    // Writing to a String cannot fail.
    let _ = writeln!(
        out,
        "%{} = {} : {} {{{}}} grid {}",
        graph.value_name(graph.result(id)),
        graph.op(id).mnemonic(),
        choice.kernel,
        params.collect::<Vec<_>>().join(", "),
        choice.call.grid
    );
    print_refused(out, &choice.refused);
}

fn print_refused(out: &mut String, refused: &[Candidate]) {
    for candidate in refused {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "  not {}: {}", candidate.kernel, candidate.reason);
    }
}
