//! Kernel selection: for each op of each program the first kernel of the catalog that supports it, with the reasons of
//! those that do not.

use std::collections::HashMap;
use std::fmt::Write;

use ir::{Graph, OpId, expand};

use crate::kernel::configured;
use crate::tuning::{Candidates, CodeHashes, Timed, print_timed};
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
    /// The graph, with ops without a kernel expanded.
    graph: Graph,
    choices: HashMap<OpId, Choice>,
    /// The expanded ops as text, and the kernels that refused them.
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
    /// If timings decided: all candidates, the fastest first.
    pub timed: Vec<Timed>,
    /// Why it is slower than it should be, if no other kernel supports the op.
    pub slow: Option<String>,
}

/// A kernel that was not chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its name.
    pub kernel: &'static str,
    /// Why not.
    pub reason: String,
}

/// Selects a kernel for every op that a step runs: constants are computed when the plan is written. An op without a
/// kernel is expanded, if it is composite. Returns all ops that remain without a kernel, each with the reasons.
pub fn select(graph: &Graph, catalog: &Catalog, programs: &[ProgramShape]) -> Result<Selection, Vec<String>> {
    let mut chosen = Vec::new();
    let mut problems: Vec<String> = Vec::new();
    let mut hashes = CodeHashes::default();
    for program in programs {
        let mut choices = HashMap::new();
        let mut refusals: Vec<(OpId, String, Vec<Candidate>)> = Vec::new();
        let mut takes = |graph: &Graph, op: OpId| {
            if graph.is_constant(graph.result(op)) {
                return true;
            }
            match choose(&Site { graph, op, program }, catalog, &mut hashes) {
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
        for (op, text, refused) in refusals {
            if !own.contains(op) {
                expanded.push((text, refused));
                continue;
            }
            let problem = no_kernel(&own, op, &refused);
            // programs mostly have the same problems
            if !problems.contains(&problem) {
                problems.push(problem);
            }
        }
        chosen.push(Chosen { program: program.name.clone(), graph: own, choices, expanded });
    }
    if problems.is_empty() { Ok(Selection { programs: chosen }) } else { Err(problems) }
}

/// The kernel for an op: the fastest configuration of all, if timings are known, or else the first kernel that supports
/// it. If all of those are slow, a composite op is expanded, and any other gets the first of them.
fn choose(site: &Site<'_>, catalog: &Catalog, hashes: &mut CodeHashes) -> Result<Choice, Vec<Candidate>> {
    let mut refused = Vec::new();
    let mut slow = None;
    for kernel in catalog.iter() {
        match kernel.call(site) {
            Ok(call) => match catalog.refused(&call) {
                None => {
                    let mut choice = Choice { kernel: kernel.name(), call, refused, timed: Vec::new(), slow: None };
                    choice.decide(site, catalog, hashes);
                    return Ok(choice);
                }
                Some(reason) => {
                    slow = slow.or_else(|| Some((refused.len(), call, reason.to_owned())));
                    let reason = format!("would be slow: {reason}");
                    refused.push(Candidate { kernel: kernel.name(), reason });
                }
            },
            Err(Refusal::OtherOp) => {}
            Err(Refusal::Because(reason)) => refused.push(Candidate { kernel: kernel.name(), reason }),
        }
    }
    let (index, call, reason) = match slow {
        Some(slow) if site.graph.op(site.op).expand(site.graph, site.op).is_none() => slow,
        _ => return Err(refused),
    };
    let kernel = refused.remove(index).kernel;
    Ok(Choice { kernel, call, refused, timed: Vec::new(), slow: Some(reason) })
}

impl Choice {
    /// Takes the fastest of all candidates, if timings are known; otherwise the heuristic's choice stays.
    fn decide(&mut self, site: &Site<'_>, catalog: &Catalog, hashes: &mut CodeHashes) {
        let timings = catalog.timings();
        if timings.ops.is_empty() {
            return;
        }
        let mut candidates = Candidates::of(site, catalog, &self.call, hashes);
        let Some((fastest, timed)) = timings.decide(&candidates) else { return };
        let candidate = candidates.list.swap_remove(fastest);
        (self.kernel, self.call, self.timed) = (candidate.kernel, candidate.call, timed);
    }
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
    pub(crate) fn launches(&self) -> impl Iterator<Item = (OpId, &Choice)> {
        self.graph.ops().filter_map(|id| Some((id, self.get(id)?)))
    }

    /// One line per op, in program order, and then the expanded ones.
    fn print(&self) -> String {
        let mut out = String::new();
        self.launches().for_each(|(id, choice)| print_choice(&mut out, &self.graph, id, choice));
        for (op, refused) in &self.expanded {
            // Writing to a String cannot fail.
            let _ = writeln!(out, "{op} : expanded");
            print_refused(&mut out, refused);
        }
        out
    }
}

impl Selection {
    /// The kernels of a program, by its index.
    pub fn program(&self, index: usize) -> &Chosen {
        &self.programs[index]
    }

    /// Lets the timings of the catalog decide, after a selection without any.
    pub(crate) fn decide(&mut self, catalog: &Catalog, programs: &[ProgramShape]) {
        let mut hashes = CodeHashes::default();
        for (Chosen { graph, choices, .. }, program) in self.programs.iter_mut().zip(programs) {
            for (op, choice) in choices {
                choice.decide(&Site { graph, op: *op, program }, catalog, &mut hashes);
            }
        }
    }

    /// Warnings about slow kernels without an alternative.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        for chosen in &self.programs {
            for (id, choice) in chosen.launches() {
                let Some(reason) = &choice.slow else { continue };
                let (kernel, op) = (configured(choice.kernel, &choice.call), chosen.graph.op(id).mnemonic());
                warnings.push(format!("kernel {kernel} is slow: {reason}; no other kernel supports its `{op}`"));
            }
        }
        warnings.sort_unstable();
        warnings.dedup();
        warnings
    }

    /// The kernels of each program. Equal programs are printed once.
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
    // Writing to a String cannot fail.
    let _ = writeln!(
        out,
        "%{} = {} : {} grid {}",
        graph.value_name(graph.result(id)),
        graph.op(id).mnemonic(),
        configured(choice.kernel, &choice.call),
        choice.call.grid
    );
    if let Some(reason) = &choice.slow {
        let _ = writeln!(out, "  slow: {reason}");
    }
    if !choice.timed.is_empty() {
        let _ = writeln!(out, "  timed: {}", print_timed(&choice.timed));
    }
    print_refused(out, &choice.refused);
}

fn print_refused(out: &mut String, refused: &[Candidate]) {
    for candidate in refused {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "  not {}: {}", candidate.kernel, candidate.reason);
    }
}

#[cfg(test)]
mod tests {
    use plan::Limits;

    use super::*;
    use crate::cuda::flatten;
    use crate::{DeviceCall, Kernel};

    /// Supports every op, with its name as its unit.
    #[derive(Debug)]
    struct Any(&'static str);

    impl Kernel for Any {
        fn name(&self) -> &'static str {
            self.0
        }

        fn call(&self, _: &Site<'_>) -> Result<Call, Refusal> {
            let unit = self.0.to_owned();
            let device = DeviceCall {
                unit,
                headers: Vec::new(),
                threads: 32,
                shared_bytes: 0,
                maps: Vec::new(),
                scalars: Vec::new(),
            };
            Ok(Call { device: Some(device), ..Call::grid(1.into()) })
        }
    }

    /// A composite op, and one that is not.
    const GRAPH: &str = "\
graph @g<T in 1..1>(%x: f32[T, 8], %residual: f32[T, 8]) {
  %weight = constant @\"weight\" : f32[8, 8]
  %sum = fused_linear %x, %weight, %residual {epilogue = [add]} : f32[T, 8]
  %y = silu %sum : f32[T, 8]
  return %y
}
";

    #[test]
    fn slow_kernels_are_taken_where_all_are_and_nothing_falls_apart() {
        let graph = ir::text::parse(GRAPH, &ir::OpSet::standard()).expect("a graph").graph;
        let limits =
            Limits { max_batch_size: 1, max_input_len: 1, max_seq_len: 1, max_num_tokens: 1, max_logit_rows: 1 };
        let programs = ProgramShape::all(&graph, &limits);
        let mut catalog = Catalog::new(vec![Box::new(Any("fast")), Box::new(Any("plain"))]);
        let chosen = |catalog: &Catalog| {
            let selection = select(&graph, catalog, &programs).expect("kernels");
            let chosen = selection.program(0);
            let name = |(id, choice): (OpId, &Choice)| format!("{} {}", choice.kernel, chosen.graph.op(id).mnemonic());
            let launches: Vec<String> = chosen.launches().map(name).collect();
            (launches.join(", "), selection.warnings())
        };
        assert_eq!(chosen(&catalog), ("fast fused_linear, fast silu".to_owned(), Vec::new()));
        assert!(catalog.refuse(flatten("fast", &[]), "it spills".to_owned()));
        assert_eq!(chosen(&catalog), ("plain fused_linear, plain silu".to_owned(), Vec::new()));
        assert!(catalog.refuse(flatten("plain", &[]), "it spills more".to_owned()));
        let warning = |op| format!("kernel fast {{}} is slow: it spills; no other kernel supports its `{op}`");
        let warnings = ["add", "linear", "silu"].map(warning).to_vec();
        assert_eq!(chosen(&catalog), ("fast linear, fast add, fast silu".to_owned(), warnings));
    }
}
