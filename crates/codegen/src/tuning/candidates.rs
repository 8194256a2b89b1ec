//! The candidates for an op, and their keys in timings.

use std::collections::HashMap;

use ir::{AttrValue, Type};

use crate::cuda::Header;
use crate::select::configured;
use crate::{Call, Catalog, Choice, Site};

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
    pub fn only(site: &Site<'_>, choice: &Choice, hashes: &mut CodeHashes) -> Candidates {
        let (kernel, call) = (choice.kernel, choice.call.clone());
        let (text, code) = (configured(kernel, &call), hashes.of(&call));
        Candidates { op: op_text(site), list: vec![Candidate { kernel, call, text, code }] }
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
