//! Kernel selection: the first kernel of the catalog that takes an op, with the reasons of those that did not.

use std::collections::HashMap;
use std::fmt::Write;

use ir::{Graph, OpId};
use plan::Scalar;

use crate::{Call, Catalog, Refusal};

/// The kernels chosen for a graph.
#[derive(Clone, Debug)]
pub struct Selection {
    choices: HashMap<OpId, Choice>,
}

/// The kernel chosen for an op.
#[derive(Clone, Debug)]
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
pub fn select(graph: &Graph, catalog: &Catalog) -> Result<Selection, Vec<String>> {
    let mut choices = HashMap::new();
    let mut problems = Vec::new();
    for id in graph.ops().filter(|id| !graph.is_constant(graph.result(*id))) {
        let mut refused = Vec::new();
        let chosen = catalog.iter().find_map(|kernel| match kernel.call(graph, id) {
            Ok(call) => Some((kernel.name(), call)),
            Err(Refusal::OtherOp) => None,
            Err(Refusal::Because(reason)) => {
                refused.push(Candidate { kernel: kernel.name(), reason });
                None
            }
        });
        match chosen {
            Some((kernel, call)) => drop(choices.insert(id, Choice { kernel, call, refused })),
            None => problems.push(problem(graph, id, &refused)),
        }
    }
    if problems.is_empty() { Ok(Selection { choices }) } else { Err(problems) }
}

fn problem(graph: &Graph, id: OpId, refused: &[Candidate]) -> String {
    let mut text = format!("no kernel for `{}` (`%{}`)", graph.op(id).mnemonic(), graph.value_name(graph.result(id)));
    for candidate in refused {
        // Writing to a String cannot fail.
        let _ = write!(text, "; `{}`: {}", candidate.kernel, candidate.reason);
    }
    text
}

impl Selection {
    /// The kernel of an op that a step runs.
    pub fn get(&self, id: OpId) -> Option<&Choice> {
        self.choices.get(&id)
    }

    /// A line for each op, in program order.
    pub fn print(&self, graph: &Graph) -> String {
        let mut out = String::new();
        for id in graph.ops() {
            let Some(choice) = self.get(id) else { continue };
            let params: Vec<String> = choice
                .call
                .params
                .iter()
                .map(|param| match &param.value {
                    Scalar::Int(value) => format!("{} = {value}", param.name),
                    Scalar::Float(value) => format!("{} = {value:?}", param.name),
                    Scalar::Text(value) => format!("{} = {value}", param.name),
                })
                .collect();
            // Writing to a String cannot fail.
            let _ = writeln!(
                out,
                "%{} = {} : {} {{{}}} grid {}",
                graph.value_name(graph.result(id)),
                graph.op(id).mnemonic(),
                choice.kernel,
                params.join(", "),
                choice.call.grid
            );
            for candidate in &choice.refused {
                let _ = writeln!(out, "  not {}: {}", candidate.kernel, candidate.reason);
            }
        }
        out
    }
}
