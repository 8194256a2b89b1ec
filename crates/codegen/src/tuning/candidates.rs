//! The candidates for an op, and their keys in timings.

use std::collections::HashMap;

use ir::{AttrValue, Type};

use crate::cuda::Header;
use crate::kernel::configured;
use crate::{Call, Catalog, Site};

use super::timings::{Outcome, Timed, Timings};

/// All candidates for an op, the heuristic's choice first.
pub(crate) struct Candidates {
    /// The key of the op: equal keys perform alike on a device.
    pub op: String,
    /// At least two, or none: an op without a choice has no candidates. One if only the selected kernel is timed.
    pub list: Vec<Candidate>,
}

/// A kernel in a configuration.
pub(crate) struct Candidate {
    pub kernel: &'static str,
    pub call: Call,
    /// Kernel and configuration.
    pub text: String,
    /// A hash of its code.
    pub code: String,
}

/// Hashes of code by units and their own headers, shared by many ops.
#[derive(Debug, Default)]
pub(crate) struct CodeHashes {
    of_units: HashMap<(String, Vec<Header>), String>,
}

impl CodeHashes {
    /// Of the flattened unit; for kernels of the program itself, of its version.
    fn of(&mut self, call: &Call) -> String {
        let Some(device) = &call.device else { return env!("CARGO_PKG_VERSION").to_owned() };
        let hash = || blake3::hash(device.source().as_bytes()).to_hex()[..16].to_owned();
        self.of_units.entry((device.unit.clone(), device.headers.clone())).or_insert_with(hash).clone()
    }
}

impl Candidates {
    /// The candidates for an op whose heuristic's choice is `first`. All require the same weight layouts, so that no
    /// weight is stored twice for two programs.
    pub fn of(site: &Site<'_>, catalog: &Catalog, first: &Call, hashes: &mut CodeHashes) -> Candidates {
        let mut list: Vec<Candidate> = Vec::new();
        for kernel in catalog.iter() {
            for call in kernel.candidates(site).unwrap_or_default() {
                if call.layouts == first.layouts && catalog.refused(&call).is_none() {
                    let (kernel, text) = (kernel.name(), configured(kernel.name(), &call));
                    list.push(Candidate { kernel, text, code: String::new(), call });
                }
            }
        }
        list.sort_by_key(|candidate| candidate.call != *first);
        if list.len() < 2 {
            return Candidates { op: String::new(), list: Vec::new() };
        }
        list.iter_mut().for_each(|candidate| candidate.code = hashes.of(&candidate.call));
        Candidates { op: op_text(site), list }
    }

    /// Only the selected kernel.
    pub fn only(site: &Site<'_>, kernel: &'static str, call: &Call, hashes: &mut CodeHashes) -> Candidates {
        let call = call.clone();
        let (text, code) = (configured(kernel, &call), hashes.of(&call));
        Candidates { op: op_text(site), list: vec![Candidate { kernel, call, text, code }] }
    }
}

/// By how many percent another candidate must be faster than the heuristic's choice: less is noise, and would make
/// plans of two measurements differ needlessly.
const MARGIN_PERCENT: u64 = 2;

impl Timings {
    /// The outcomes of these candidates, in order, if all are known.
    pub(super) fn of(&self, candidates: &Candidates) -> Option<Vec<&Outcome>> {
        let outcomes = self.ops.get(&candidates.op)?;
        let known =
            |candidate: &Candidate| outcomes.get(&candidate.text).filter(|outcome| outcome.code == candidate.code);
        candidates.list.iter().map(known).collect()
    }

    /// The index of the fastest of these candidates, with the outcomes of all, the fastest first. `None` if some are
    /// not known, or none has a time.
    pub(crate) fn decide(&self, candidates: &Candidates) -> Option<(usize, Vec<Timed>)> {
        let outcomes = self.of(candidates)?;
        let time = |index: usize| outcomes[index].nanoseconds.as_ref().ok().copied();
        let fastest = (0..outcomes.len()).filter(|index| time(*index).is_some()).min_by_key(|index| time(*index))?;
        let keeps_first = time(0).zip(time(fastest)).is_some_and(|(first, best)| {
            u128::from(first) * 100 <= u128::from(best) * u128::from(100 + MARGIN_PERCENT)
        });
        let mut timed: Vec<Timed> = candidates
            .list
            .iter()
            .zip(&outcomes)
            .map(|(candidate, outcome)| Timed {
                kernel: candidate.kernel,
                params: candidate.call.params.clone(),
                nanoseconds: outcome.nanoseconds.clone(),
            })
            .collect();
        // those without a time last
        timed.sort_by_key(|timed| timed.nanoseconds.as_ref().map_or(u64::MAX, |time| *time));
        Some((if keeps_first { 0 } else { fastest }, timed))
    }
}

/// `linear {to = f32} bf16[8, 4096], weight bf16[6144, 4096] : f32[8, 6144]`: mnemonic, attributes and types, with the
/// program's sizes for the symbols, or their bounds. The layer of the cache does not matter, its type and shape do.
fn op_text(site: &Site<'_>) -> String {
    let (graph, id) = (site.graph, site.op);
    let op = graph.op(id);
    let mut attrs = Vec::new();
    let mut cache = None;
    for (name, value) in op.attrs() {
        match (name, &value) {
            ("group", AttrValue::Int(group)) => cache = graph.kv().get(*group as usize),
            ("layer", _) => {}
            _ => attrs.push(format!("{name} = {value}")),
        }
    }
    let mut symbols = Vec::new();
    let mut tensor = |value: ir::Value| match graph.ty(value) {
        Type::Effect => None,
        Type::Tensor(ty) => {
            let mut ty = ty.clone();
            ty.shape.iter_mut().for_each(|dim| *dim = site.program.dim(dim));
            symbols.extend(ty.shape.iter().flat_map(plan::Dim::symbols));
            Some(if graph.is_constant(value) { format!("weight {ty}") } else { ty.to_string() })
        }
    };
    let operands: Vec<String> = graph.operands(id).into_iter().filter_map(&mut tensor).collect();
    let results: Vec<String> = graph.results(id).filter_map(tensor).collect();
    let mut text = op.mnemonic().to_owned();
    if !attrs.is_empty() {
        text += &format!(" {{{}}}", attrs.join(", "));
    }
    text += &format!(" {} : {}", operands.join(", "), results.join(", "));
    let bounds = site.program.symbols.iter().filter(|decl| symbols.contains(&decl.symbol));
    let bounds: Vec<String> = bounds.map(|decl| format!("{} in {}..{}", decl.symbol, decl.min, decl.max)).collect();
    if !bounds.is_empty() {
        text += &format!(" for {}", bounds.join(", "));
    }
    if let Some(cache) = cache {
        let (dtype, heads, head_dim, tokens) = (cache.dtype, cache.kv_heads, cache.head_dim, cache.block_tokens);
        text += &format!(" with kv {dtype} {{kv_heads = {heads}, head_dim = {head_dim}, block_tokens = {tokens}}}");
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use plan::Dim;

    use super::*;
    use crate::tuning::print_timed;

    fn candidates(times: &[Option<u64>]) -> (Candidates, Timings) {
        let mut outcomes = BTreeMap::new();
        let list = times.iter().enumerate().map(|(index, time)| {
            let call = Call::grid(Dim::from(1)).int("n", 4096).int("warps", index as i64);
            let (text, code) = (format!("linear {{warps = {index}}}"), "code".to_owned());
            let nanoseconds = time.ok_or_else(|| "it spills".to_owned());
            outcomes.insert(text.clone(), Outcome { code: code.clone(), nanoseconds });
            Candidate { kernel: "linear", call, text, code }
        });
        let candidates = Candidates { op: "op".to_owned(), list: list.collect() };
        (candidates, Timings { ops: BTreeMap::from([("op".to_owned(), outcomes)]) })
    }

    #[test]
    fn the_fastest_wins_unless_it_is_hardly_faster_than_the_first() {
        let decided = |times: &[Option<u64>]| {
            let (candidates, timings) = candidates(times);
            timings.decide(&candidates).map(|(index, _)| index)
        };
        assert_eq!(decided(&[Some(100), Some(90), Some(80)]), Some(2));
        assert_eq!(decided(&[Some(100), Some(99), Some(120)]), Some(0));
        assert_eq!(decided(&[None, Some(99), Some(98)]), Some(2));
        assert_eq!(decided(&[None, None]), None);
    }

    #[test]
    fn one_unknown_candidate_leaves_all_to_heuristics() {
        let (candidates, mut timings) = candidates(&[Some(100), Some(50)]);
        timings.ops.values_mut().for_each(|outcomes| drop(outcomes.remove("linear {warps = 1}")));
        assert_eq!(timings.decide(&candidates), None);
    }

    #[test]
    fn what_all_candidates_share_is_not_printed() {
        let (candidates, timings) = candidates(&[Some(15_640), None, Some(14_810), Some(23_456_789)]);
        let (_, timed) = timings.decide(&candidates).expect("decided");
        let text = "linear {warps = 2} 14.8 µs; {warps = 0} 15.6 µs; {warps = 3} 23.5 ms; {warps = 1} slow (it spills)";
        assert_eq!(print_timed(&timed), text);
    }
}
