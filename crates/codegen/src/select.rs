//! Kernel selection: for each op of each program the first kernel of the catalog that takes it, with the reasons of
//! those that did not.

use std::collections::HashMap;
use std::fmt::Write;

use ir::{Graph, OpId};
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
    choices: HashMap<OpId, Choice>,
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

/// Chooses a kernel for every op that a step runs: constants are computed when the plan is written. Returns all ops
/// that no kernel takes, each with the reasons.
pub fn select(graph: &Graph, catalog: &Catalog, programs: &[ProgramShape]) -> Result<Selection, Vec<String>> {
    let mut chosen = Vec::new();
    let mut problems = Vec::new();
    for program in programs {
        let mut choices = HashMap::new();
        for op in graph.ops().filter(|id| !graph.is_constant(graph.result(*id))) {
            match choose(&Site { graph, op, program }, catalog) {
                Ok(choice) => drop(choices.insert(op, choice)),
                // programs mostly fail alike
                Err(problem) if problems.contains(&problem) => {}
                Err(problem) => problems.push(problem),
            }
        }
        chosen.push(Chosen { program: program.name.clone(), choices });
    }
    if problems.is_empty() { Ok(Selection { programs: chosen }) } else { Err(problems) }
}

fn choose(site: &Site<'_>, catalog: &Catalog) -> Result<Choice, String> {
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
    let (graph, op) = (site.graph, site.op);
    let mut text = format!("no kernel for `{}` (`%{}`)", graph.op(op).mnemonic(), graph.value_name(graph.result(op)));
    for candidate in refused {
        // Writing to a String cannot fail.
        let _ = write!(text, "; `{}`: {}", candidate.kernel, candidate.reason);
    }
    Err(text)
}

impl Chosen {
    /// The kernel of an op that a step runs.
    pub fn get(&self, id: OpId) -> Option<&Choice> {
        self.choices.get(&id)
    }
}

impl Selection {
    /// The kernels of a program, by its place among the programs.
    pub fn program(&self, index: usize) -> &Chosen {
        &self.programs[index]
    }

    /// A line for each op, in program order. Programs that agree are printed once.
    pub fn print(&self, graph: &Graph) -> String {
        let mut groups: Vec<(Vec<&str>, &Chosen)> = Vec::new();
        for chosen in &self.programs {
            match groups.iter_mut().find(|(_, first)| first.choices == chosen.choices) {
                Some((names, _)) => names.push(&chosen.program),
                None => groups.push((vec![&chosen.program], chosen)),
            }
        }
        let mut out = String::new();
        for (names, chosen) in &groups {
            if groups.len() > 1 {
                // Writing to a String cannot fail.
                let _ = writeln!(out, "// {}", names.join(", "));
            }
            graph.ops().filter_map(|id| Some((id, chosen.get(id)?))).for_each(|(id, choice)| {
                print_choice(&mut out, graph, id, choice);
            });
        }
        out
    }
}

impl Selection {
    /// The units of all kernels, each once, under the programs that launch it.
    pub fn print_units(&self, graph: &Graph) -> String {
        let mut units: Vec<(&str, Vec<&str>)> = Vec::new();
        for chosen in &self.programs {
            let choices = graph.ops().filter_map(|id| chosen.get(id));
            for unit in choices.filter_map(|choice| Some(choice.call.device.as_ref()?.unit.as_str())) {
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
    for candidate in &choice.refused {
        let _ = writeln!(out, "  not {}: {}", candidate.kernel, candidate.reason);
    }
}
