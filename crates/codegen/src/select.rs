//! Kernel selection: for each op of each program the first kernel of the catalog that takes it, with the reasons of
//! those that did not.

use std::collections::HashMap;
use std::fmt::Write;

use ir::{Graph, OpId};
use plan::{Param, Scalar};

use crate::tuning::{Candidates, Codes, Timed, print_timed};
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
    /// Where timings decided: all candidates, the fastest first.
    pub timed: Vec<Timed>,
    /// Why it runs slower than it should, where no other kernel takes the op.
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

/// Chooses a kernel for every op that a step runs: constants are computed when the plan is written. Returns all ops
/// that no kernel takes, each with the reasons.
pub fn select(graph: &Graph, catalog: &Catalog, programs: &[ProgramShape]) -> Result<Selection, Vec<String>> {
    let mut chosen = Vec::new();
    let mut problems = Vec::new();
    let mut codes = Codes::default();
    for program in programs {
        let mut choices = HashMap::new();
        for op in graph.ops().filter(|id| !graph.is_constant(graph.result(*id))) {
            let site = Site { graph, op, program };
            match choose(&site, catalog) {
                Ok(choice) => drop(choices.insert(op, by_timings(choice, &site, catalog, &mut codes))),
                // programs mostly fail alike
                Err(problem) if problems.contains(&problem) => {}
                Err(problem) => problems.push(problem),
            }
        }
        chosen.push(Chosen { program: program.name.clone(), choices });
    }
    if problems.is_empty() { Ok(Selection { programs: chosen }) } else { Err(problems) }
}

/// The fastest of all candidates, where timings know them; otherwise the heuristic's choice.
fn by_timings(choice: Choice, site: &Site<'_>, catalog: &Catalog, codes: &mut Codes) -> Choice {
    let timings = catalog.timings();
    if timings.ops.is_empty() || choice.slow.is_some() {
        return choice;
    }
    let mut candidates = Candidates::of(site, catalog, &choice.call, codes);
    let Some((fastest, timed)) = timings.decide(&candidates) else { return choice };
    let candidate = candidates.list.swap_remove(fastest);
    Choice { kernel: candidate.kernel, call: candidate.call, timed, ..choice }
}

fn choose(site: &Site<'_>, catalog: &Catalog) -> Result<Choice, String> {
    let mut refused: Vec<Candidate> = Vec::new();
    let mut last = None;
    for kernel in catalog.iter() {
        match kernel.call(site) {
            Ok(call) => match catalog.refused(&call) {
                None => return Ok(Choice { kernel: kernel.name(), call, refused, timed: Vec::new(), slow: None }),
                Some(reason) => {
                    last = last.or_else(|| Some((refused.len(), call, reason.to_owned())));
                    let reason = format!("would run slowly: {reason}");
                    refused.push(Candidate { kernel: kernel.name(), reason });
                }
            },
            Err(Refusal::OtherOp) => {}
            Err(Refusal::Because(reason)) => refused.push(Candidate { kernel: kernel.name(), reason }),
        }
    }
    // all that take it are slow: the preferred one then
    if let Some((index, call, reason)) = last {
        let kernel = refused.remove(index).kernel;
        return Ok(Choice { kernel, call, refused, timed: Vec::new(), slow: Some(reason) });
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

    /// What should not have been chosen, but there was nothing else.
    pub fn warnings(&self, graph: &Graph) -> Vec<String> {
        let mut warnings = Vec::new();
        for (id, choice) in self.programs.iter().flat_map(|chosen| &chosen.choices) {
            if let Some(reason) = &choice.slow {
                let (kernel, op) = (configured(choice.kernel, &choice.call), graph.op(*id).mnemonic());
                warnings.push(format!("kernel {kernel} runs slowly: {reason}; no other kernel takes its `{op}`"));
            }
        }
        warnings.sort_unstable();
        warnings.dedup();
        warnings
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

/// A kernel with its parameters, as texts show it: `linear_skinny {n = 6144, warps = 8}`.
pub(crate) fn configured(kernel: &str, call: &Call) -> String {
    let params: Vec<String> = call.params.iter().map(param_text).collect();
    format!("{kernel} {{{}}}", params.join(", "))
}

/// A parameter, as texts show it.
pub(crate) fn param_text(param: &Param) -> String {
    match &param.value {
        Scalar::Int(value) => format!("{} = {value}", param.name),
        Scalar::Float(value) => format!("{} = {value:?}", param.name),
        Scalar::Text(value) => format!("{} = {value}", param.name),
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
    for candidate in &choice.refused {
        let _ = writeln!(out, "  not {}: {}", candidate.kernel, candidate.reason);
    }
}

#[cfg(test)]
mod tests {
    use ir::TensorType;
    use ir::ops::Silu;
    use plan::{DType, Limits};

    use super::*;
    use crate::cuda::flatten;
    use crate::{DeviceCall, Kernel};

    /// Takes every op, with its name as its unit.
    #[derive(Debug)]
    struct Any(&'static str);

    impl Kernel for Any {
        fn name(&self) -> &'static str {
            self.0
        }

        fn call(&self, _: &Site<'_>) -> Result<Call, Refusal> {
            let unit = self.0.to_owned();
            let device = DeviceCall { unit, threads: 32, shared_bytes: 0, maps: Vec::new(), scalars: Vec::new() };
            Ok(Call { device: Some(device), ..Call::grid(1.into()) })
        }
    }

    #[test]
    fn slow_kernels_are_taken_where_all_are() {
        let mut graph = Graph::new("g", Vec::new(), Vec::new());
        let x = graph.add_input("x", TensorType::new(DType::F32, [8u64]));
        let silu = graph.add(ir::Op::new(Silu {}), &[x], &["y"]).expect("well typed");
        let limits =
            Limits { max_batch_size: 1, max_input_len: 1, max_seq_len: 1, max_num_tokens: 1, max_logit_rows: 1 };
        let programs = ProgramShape::all(&graph, &limits);
        let mut catalog = Catalog::new(vec![Box::new(Any("fast")), Box::new(Any("plain"))]);
        let chosen = |catalog: &Catalog| {
            let selection = select(&graph, catalog, &programs).expect("a kernel");
            let choice = selection.program(0).get(silu).expect("chosen");
            (choice.kernel, selection.warnings(&graph))
        };
        assert_eq!(chosen(&catalog), ("fast", Vec::new()));
        assert!(catalog.refuse(flatten("fast"), "it spills".to_owned()));
        assert_eq!(chosen(&catalog), ("plain", Vec::new()));
        assert!(catalog.refuse(flatten("plain"), "it spills more".to_owned()));
        let warning = "kernel fast {} runs slowly: it spills; no other kernel takes its `silu`";
        assert_eq!(chosen(&catalog), ("fast", vec![warning.to_owned()]));
    }
}
