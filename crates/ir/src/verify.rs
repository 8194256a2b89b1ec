//! Invariants of a graph, by stage.

use std::collections::HashSet;

use crate::graph::infer;
use crate::ops::{Cast, Concat, Split};
use crate::{Graph, KvAccess, OpId, Type, Value};

/// The stage of a graph. Each stage forbids what the passes before it remove.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// As imported or parsed: well-typed, in order.
    Imported,
    /// Normal form: no casts to the same dtype, no joins or splits of one part, no nested joins, no unused ops.
    Canonical,
    /// Regions formed: the input of code generation. Only constants are concatenated.
    Fused,
}

impl Stage {
    /// All stages, in order.
    pub const ALL: [Stage; 3] = [Stage::Imported, Stage::Canonical, Stage::Fused];

    /// The name in text.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Imported => "imported",
            Stage::Canonical => "canonical",
            Stage::Fused => "fused",
        }
    }
}

/// A violation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`%{value}`: {message}")]
pub struct Diagnostic {
    /// Name of the value or output.
    pub value: String,
    /// What is wrong, and what would be right.
    pub message: String,
}

/// A verified graph.
#[derive(Clone, Copy, Debug)]
pub struct Verified<'g> {
    graph: &'g Graph,
    stage: Stage,
}

impl<'g> Verified<'g> {
    /// The graph.
    pub fn graph(&self) -> &'g Graph {
        self.graph
    }

    /// The stage it was verified for.
    pub fn stage(&self) -> Stage {
        self.stage
    }
}

/// Checks that a graph is legal at a stage. Returns all violations.
pub fn verify(graph: &Graph, stage: Stage) -> Result<Verified<'_>, Vec<Diagnostic>> {
    let mut check = Check { graph, found: Vec::new() };
    let mut defined: HashSet<OpId> = graph.inputs().iter().map(|value| value.op).collect();
    graph.inputs().iter().for_each(|input| check.symbols(*input));
    for id in graph.ops() {
        check.imported(id, &defined);
        defined.insert(id);
        if stage >= Stage::Canonical {
            check.canonical(id);
        }
        if stage >= Stage::Fused {
            check.fused(id);
        }
    }
    check.order(defined.len());
    check.names();
    check.outputs();
    if check.found.is_empty() { Ok(Verified { graph, stage }) } else { Err(check.found) }
}

struct Check<'g> {
    graph: &'g Graph,
    found: Vec<Diagnostic>,
}

impl Check<'_> {
    fn report(&mut self, id: OpId, message: impl Into<String>) {
        let value = self.graph.value_name(self.graph.result(id)).to_owned();
        self.found.push(Diagnostic { value, message: message.into() });
    }

    fn imported(&mut self, id: OpId, defined: &HashSet<OpId>) {
        let graph = self.graph;
        let operands = graph.operands(id);
        for operand in &operands {
            if !defined.contains(&operand.op) {
                self.report(id, format!("reads `%{}` before it is computed", graph.value_name(*operand)));
            }
        }
        let types: Vec<&Type> = operands.iter().map(|value| graph.ty(*value)).collect();
        match infer(graph.op(id), &types) {
            Err(error) => self.report(id, error.to_string()),
            Ok(inferred) => {
                for (value, ty) in graph.results(id).zip(inferred) {
                    if *graph.ty(value) != ty {
                        self.report(id, format!("has type {}, its op computes {ty}", graph.ty(value)));
                    }
                }
            }
        }
        for value in graph.results(id) {
            self.symbols(value);
        }
        if let Some(access) = graph.op(id).kv_access(&types) {
            self.kv_access(id, access);
        }
    }

    fn symbols(&mut self, value: Value) {
        let Some(ty) = self.graph.tensor(value) else { return };
        for symbol in ty.shape.iter().flat_map(|dim| dim.symbols()) {
            if !self.graph.symbols().iter().any(|decl| decl.symbol == symbol) {
                self.report(value.op, format!("has a size of `{symbol}`, which the graph does not declare"));
            }
        }
    }

    fn kv_access(&mut self, id: OpId, access: KvAccess) {
        let Some(group) = self.graph.kv().get(access.group as usize) else {
            return self.report(id, format!("names KV group {}, which the graph does not declare", access.group));
        };
        if access.layer >= group.layers {
            self.report(id, format!("names layer {} of a KV group of {} layers", access.layer, group.layers));
        }
        let (heads, head_dim) = (group.kv_heads, group.head_dim);
        if access.width != u64::from(heads) * u64::from(head_dim) {
            self.report(id, format!("has keys {} wide, its KV group {heads} heads of {head_dim}", access.width));
        } else if let Some((found, found_dim)) = access.heads.filter(|found| *found != (heads, head_dim)) {
            self.report(
                id,
                format!("has keys in {found} heads of {found_dim}, its KV group {heads} heads of {head_dim}"),
            );
        }
    }

    fn canonical(&mut self, id: OpId) {
        let graph = self.graph;
        let operands = graph.operands(id);
        if let Some(cast) = graph.cast::<Cast>(id)
            && graph.tensor(operands[0]).is_some_and(|ty| ty.dtype == cast.to)
        {
            self.report(id, format!("casts to {}, which is already the type of its operand", cast.to));
        }
        if graph.cast::<Split>(id).is_some_and(|split| split.sizes.len() == 1) {
            self.report(id, "splits into one part");
        }
        if graph.cast::<Concat>(id).is_some() {
            if operands.len() == 1 {
                self.report(id, "joins one part");
            }
            if operands.iter().any(|operand| graph.producer::<Concat>(*operand).is_some()) {
                self.report(id, "joins a joined tensor: one `concat` of all parts is expected");
            }
        }
        if !graph.results(id).any(|value| graph.is_used(value)) {
            self.report(id, "is not used");
        }
    }

    fn fused(&mut self, id: OpId) {
        let graph = self.graph;
        let constant = graph.operands(id).into_iter().all(|operand| graph.is_constant(operand));
        if graph.cast::<Concat>(id).is_some() && !constant {
            self.report(id, "joins values of a step; only weights can be joined");
        }
    }

    /// Cyclic dependencies have no program order.
    fn order(&mut self, ordered: usize) {
        let lost = self.graph.len() - ordered;
        if lost > 0 {
            let value = self.graph.outputs().first().map_or_else(String::new, |output| output.name.clone());
            self.found.push(Diagnostic { value, message: format!("{lost} ops depend on each other in a cycle") });
        }
    }

    fn names(&mut self) {
        let mut seen = HashSet::new();
        let values = self.graph.inputs().iter().copied();
        let results = self.graph.ops().flat_map(|id| self.graph.results(id));
        for value in values.chain(results) {
            let name = self.graph.value_name(value);
            if !seen.insert(name) {
                let message = "is the name of two values".to_owned();
                self.found.push(Diagnostic { value: name.to_owned(), message });
            }
        }
    }

    fn outputs(&mut self) {
        let mut seen = HashSet::new();
        for output in self.graph.outputs() {
            let mut report = |message: &str| {
                self.found.push(Diagnostic { value: output.name.clone(), message: message.to_owned() });
            };
            if !seen.insert(&output.name) {
                report("is the name of two outputs");
            }
            match !self.graph.contains(output.value.op) {
                true => report("returns a removed value"),
                false if *self.graph.ty(output.value) == Type::Effect => report("returns an effect, not a tensor"),
                false => {}
            }
        }
    }
}
