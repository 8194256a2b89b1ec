//! A model as a graph: declared symbols and KV groups, inputs, ops in program order, outputs.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use plan::{DType, Formula, SymbolDecl};

use crate::dag::Dag;
use crate::ops::{Constant, Input};
use crate::{KvDecl, Op, OpDef, OpId, TensorType, Type, TypeError, Use, Value};

/// An output of the graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// The name of the port.
    pub name: String,
    /// The value.
    pub value: Value,
}

/// Why an op was rejected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{mnemonic}`: {reason}")]
pub struct GraphError {
    /// Name of the op.
    pub mnemonic: String,
    /// What is wrong with its operands.
    pub reason: String,
}

/// A typed graph. Ill-typed ops are rejected.
#[derive(Clone, Debug)]
pub struct Graph {
    name: String,
    symbols: Vec<SymbolDecl>,
    kv: Vec<KvDecl>,
    dag: Dag,
    inputs: Vec<Value>,
    outputs: Vec<Output>,
    /// Ops in program order, once sorted; may contain removed ops.
    order: Vec<OpId>,
    names: HashMap<String, Value>,
    next_minor: u64,
}

impl Graph {
    /// A graph without ops.
    pub fn new(name: &str, symbols: Vec<SymbolDecl>, kv: Vec<KvDecl>) -> Graph {
        Graph {
            name: name.to_owned(),
            symbols,
            kv,
            dag: Dag::default(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            order: Vec::new(),
            names: HashMap::new(),
            next_minor: 0,
        }
    }

    /// The name after `graph @`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Declared symbols.
    pub fn symbols(&self) -> &[SymbolDecl] {
        &self.symbols
    }

    /// Declared KV groups.
    pub fn kv(&self) -> &[KvDecl] {
        &self.kv
    }

    /// Inputs of each step.
    pub fn inputs(&self) -> &[Value] {
        &self.inputs
    }

    /// Outputs of the graph.
    pub fn outputs(&self) -> &[Output] {
        &self.outputs
    }

    /// Ops in program order, without inputs.
    pub fn ops(&self) -> impl Iterator<Item = OpId> + '_ {
        self.order.iter().copied().filter(|id| self.dag.contains(*id) && self.cast::<Input>(*id).is_none())
    }

    /// Number of ops and inputs.
    pub fn len(&self) -> usize {
        self.dag.len()
    }

    /// Whether the graph has no ops.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether an op (still) exists.
    pub fn contains(&self, id: OpId) -> bool {
        self.dag.contains(id)
    }

    /// The op of an id.
    pub fn op(&self, id: OpId) -> &Op {
        &self.dag.node(id).op
    }

    /// The op, if it is a `T`.
    pub fn cast<T: OpDef>(&self, id: OpId) -> Option<&T> {
        self.op(id).cast()
    }

    /// The op that computes a value, if it is a `T`.
    pub fn producer<T: OpDef>(&self, value: Value) -> Option<(OpId, &T)> {
        self.cast(value.op).map(|op| (value.op, op))
    }

    /// Operands of an op, in order.
    pub fn operands(&self, id: OpId) -> Vec<Value> {
        self.dag.operands(id).to_vec()
    }

    /// The operands of an op, if it has exactly `N`.
    pub fn operands_of<const N: usize>(&self, id: OpId) -> Option<[Value; N]> {
        self.dag.operands(id).try_into().ok()
    }

    /// Results of an op.
    pub fn results(&self, id: OpId) -> impl Iterator<Item = Value> + use<> {
        (0..self.dag.node(id).results.len() as u32).map(move |result| Value { op: id, result })
    }

    /// The first result of an op.
    pub fn result(&self, id: OpId) -> Value {
        Value { op: id, result: 0 }
    }

    /// Type of a value.
    pub fn ty(&self, value: Value) -> &Type {
        &self.dag.node(value.op).results[value.result as usize].1
    }

    /// Type of a value that is a tensor; `None` for an effect.
    pub fn tensor(&self, value: Value) -> Option<&TensorType> {
        self.ty(value).tensor().ok()
    }

    /// Name of a value.
    pub fn value_name(&self, value: Value) -> &str {
        &self.dag.node(value.op).results[value.result as usize].0
    }

    /// The value of this name.
    pub fn find(&self, name: &str) -> Option<Value> {
        self.names.get(name).copied()
    }

    /// Operands that read a value, without outputs.
    pub fn uses(&self, value: Value) -> Vec<Use> {
        let mut uses: Vec<Use> = self.dag.uses(value).collect();
        uses.sort_unstable();
        uses
    }

    /// Whether the value has exactly one use and is not an output.
    pub fn used_once(&self, value: Value) -> bool {
        self.dag.uses(value).take(2).count() == 1 && !self.outputs.iter().any(|output| output.value == value)
    }

    /// Whether the value has any use.
    pub fn is_used(&self, value: Value) -> bool {
        self.outputs.iter().any(|output| output.value == value) || self.dag.uses(value).next().is_some()
    }

    /// Whether the value is the same in every step: a constant, or computed only from such values.
    pub fn is_constant(&self, value: Value) -> bool {
        self.dag.is_constant(value.op)
    }

    /// The elementwise formula of an op, if it has one.
    pub fn formula(&self, id: OpId) -> Option<Formula> {
        let dtypes = self.results(id).map(|result| Some(self.tensor(result)?.dtype));
        self.op(id).formula(&dtypes.collect::<Option<Vec<DType>>>()?)
    }

    /// The position of an op in program order. While rules run, it is exact as long as each patch adds one op.
    pub fn place(&self, id: OpId) -> impl Ord + use<> {
        self.dag.node(id).rank
    }

    /// Adds an input.
    pub fn add_input(&mut self, name: &str, ty: TensorType) -> Value {
        let types = vec![ty.clone().into()];
        let rank = (self.order.len() as u64, 0);
        let id = self.insert(Op::new(Input { ty }), &[], types, &[name], rank);
        self.inputs.push(self.result(id));
        self.result(id)
    }

    /// Adds a weight at the end of the program, named by its key.
    pub fn add_constant(&mut self, key: &str, ty: TensorType) -> Value {
        let types = vec![ty.clone().into()];
        let rank = (self.order.len() as u64, 0);
        let id = self.insert(Op::new(Constant { key: key.to_owned(), ty }), &[], types, &[key], rank);
        self.result(id)
    }

    /// Adds an op at the end of the program. Results without a name are named after the op.
    pub fn add(&mut self, op: Op, operands: &[Value], names: &[&str]) -> Result<OpId, GraphError> {
        let types = self.infer(&op, operands)?;
        Ok(self.insert(op, operands, types, names, (self.order.len() as u64, 0)))
    }

    /// Makes a value an output of the graph.
    pub fn add_output(&mut self, name: &str, value: Value) {
        self.outputs.push(Output { name: name.to_owned(), value });
    }

    /// Result types of an op over these operands.
    pub(crate) fn infer(&self, op: &Op, operands: &[Value]) -> Result<Vec<Type>, GraphError> {
        let types: Vec<&Type> = operands.iter().map(|value| self.ty(*value)).collect();
        infer(op, &types)
    }

    pub(crate) fn insert(
        &mut self,
        op: Op,
        operands: &[Value],
        types: Vec<Type>,
        names: &[&str],
        rank: (u64, u64),
    ) -> OpId {
        let base = names.first().copied().unwrap_or(op.mnemonic()).to_owned();
        let mut results: Vec<(String, Type)> = Vec::new();
        for (index, ty) in types.into_iter().enumerate() {
            let wanted = names.get(index).copied().unwrap_or(&base);
            let taken = |name: &str| self.names.contains_key(name) || results.iter().any(|(used, _)| used == name);
            let mut name = wanted.to_owned();
            let mut suffix = 1;
            while taken(&name) {
                name = format!("{wanted}.{suffix}");
                suffix += 1;
            }
            results.push((name, ty));
        }
        let names: Vec<String> = results.iter().map(|(name, _)| name.clone()).collect();
        let id = self.dag.insert(op, results, rank, operands);
        for (result, name) in names.into_iter().enumerate() {
            self.names.insert(name, Value { op: id, result: result as u32 });
        }
        self.order.push(id);
        id
    }

    /// A rank for an op that replaces `id`.
    pub(crate) fn rank_beside(&mut self, id: OpId) -> (u64, u64) {
        self.next_minor += 1;
        (self.dag.node(id).rank.0, self.next_minor)
    }

    /// Replaces every use of `old`, outputs included, by `new`.
    pub(crate) fn redirect(&mut self, old: Value, new: Value) {
        self.dag.redirect(old, new);
        for output in &mut self.outputs {
            if output.value == old {
                output.value = new;
            }
        }
    }

    /// Moves the name of `from` to `to`; `from` gets an internal name.
    pub(crate) fn take_name(&mut self, from: Value, to: Value) {
        let (old, name) = (self.value_name(to).to_owned(), self.value_name(from).to_owned());
        let spare = format!("{name}.replaced.{}", self.next_minor);
        self.next_minor += 1;
        self.names.remove(&old);
        self.rename(from, spare);
        self.rename(to, name);
    }

    fn rename(&mut self, value: Value, name: String) {
        self.names.insert(name.clone(), value);
        self.dag.node_mut(value.op).results[value.result as usize].0 = name;
    }

    /// Removes an unused op, and its producers that become unused. Inputs stay.
    pub fn remove_unused(&mut self, id: OpId) -> usize {
        let mut removed = 0;
        let mut candidates = vec![id];
        while let Some(id) = candidates.pop() {
            let keep = !self.contains(id)
                || self.cast::<Input>(id).is_some()
                || self.results(id).any(|value| self.is_used(value));
            if keep {
                continue;
            }
            candidates.extend(self.dag.operands(id).iter().map(|operand| operand.op));
            for value in self.results(id) {
                let name = self.value_name(value).to_owned();
                self.names.remove(&name);
            }
            self.dag.remove(id);
            removed += 1;
        }
        removed
    }

    /// Restores program order after rewriting: operands before users, ties by rank.
    pub(crate) fn settle(&mut self) {
        let mut waiting: HashMap<OpId, usize> = HashMap::new();
        let mut ready = BinaryHeap::new();
        for id in self.dag.ids() {
            match self.dag.operands(id).len() {
                0 => ready.push(Reverse((self.dag.node(id).rank, id))),
                operands => drop(waiting.insert(id, operands)),
            }
        }
        let mut order = Vec::with_capacity(self.dag.len());
        while let Some(Reverse((_, id))) = ready.pop() {
            order.push(id);
            for value in self.results(id) {
                for user in self.dag.uses(value) {
                    let Some(missing) = waiting.get_mut(&user.op) else { continue };
                    *missing -= 1;
                    if *missing == 0 {
                        ready.push(Reverse((self.dag.node(user.op).rank, user.op)));
                    }
                }
            }
        }
        for (index, id) in order.iter().enumerate() {
            self.dag.node_mut(*id).rank = (index as u64, 0);
        }
        self.next_minor = 0;
        self.order = order;
    }
}

/// Result types of an op over operands of these types.
pub(crate) fn infer(op: &Op, operands: &[&Type]) -> Result<Vec<Type>, GraphError> {
    let error = |reason| GraphError { mnemonic: op.mnemonic().to_owned(), reason };
    op.operands().check(operands.len()).map_err(error)?;
    op.infer(operands).map_err(|TypeError(reason)| error(reason))
}
