//! The storage of a graph: ops in an arena, each with its operands and with who reads its results.
//!
//! Both directions are kept here and changed together, so that no question about a value takes longer in a larger graph:
//! the positions of a step are read by thousands of ops.

use std::collections::BTreeSet;

use crate::{Op, OpClass, Type};

/// Names an op of one graph. Stays valid while the op is there; no other op ever gets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OpId(u32);

/// One result of an op.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Value {
    /// The op.
    pub op: OpId,
    /// Which of its results.
    pub result: u32,
}

/// One operand of an op.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Use {
    /// The op.
    pub op: OpId,
    /// Which of its operands.
    pub operand: u32,
}

impl Use {
    const FIRST: Use = Use { op: OpId(0), operand: 0 };
    const LAST: Use = Use { op: OpId(u32::MAX), operand: u32::MAX };
}

/// An op in its graph.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub op: Op,
    /// Names and types of the results.
    pub results: Vec<(String, Type)>,
    /// Place in program order; the second number orders ops that replaced one op.
    pub rank: (u64, u64),
    operands: Vec<Value>,
    /// Who reads which result.
    uses: BTreeSet<(u32, Use)>,
    /// Whether the results are the same in every step.
    constant: bool,
}

/// Ops, and who reads whom.
#[derive(Clone, Debug, Default)]
pub(crate) struct Dag {
    /// By `OpId`; removed ops leave a gap.
    nodes: Vec<Option<Node>>,
    len: usize,
}

impl Dag {
    pub fn insert(&mut self, op: Op, results: Vec<(String, Type)>, rank: (u64, u64), operands: &[Value]) -> OpId {
        let id = OpId(self.nodes.len() as u32);
        for (operand, value) in (0..).zip(operands) {
            self.node_mut(value.op).uses.insert((value.result, Use { op: id, operand }));
        }
        let node = Node { op, results, rank, operands: operands.to_vec(), uses: BTreeSet::new(), constant: false };
        self.nodes.push(Some(node));
        self.len += 1;
        self.node_mut(id).constant = self.must_be_constant(id);
        id
    }

    pub fn remove(&mut self, id: OpId) {
        let Some(node) = self.nodes[id.0 as usize].take() else { return };
        self.len -= 1;
        for (operand, value) in (0..).zip(node.operands) {
            self.node_mut(value.op).uses.remove(&(value.result, Use { op: id, operand }));
        }
    }

    pub fn contains(&self, id: OpId) -> bool {
        self.nodes.get(id.0 as usize).is_some_and(Option::is_some)
    }

    pub fn len(&self) -> usize {
        self.len
    }

    /// The op of an id, which must be there.
    pub fn node(&self, id: OpId) -> &Node {
        self.nodes[id.0 as usize].as_ref().expect("the op has not been removed")
    }

    pub fn node_mut(&mut self, id: OpId) -> &mut Node {
        self.nodes[id.0 as usize].as_mut().expect("the op has not been removed")
    }

    pub fn ids(&self) -> impl Iterator<Item = OpId> + '_ {
        (0..self.nodes.len() as u32).map(OpId).filter(|id| self.contains(*id))
    }

    pub fn operands(&self, id: OpId) -> &[Value] {
        &self.node(id).operands
    }

    /// Uses of one result, by user and operand.
    pub fn uses(&self, value: Value) -> impl Iterator<Item = Use> + '_ {
        let uses = &self.node(value.op).uses;
        uses.range((value.result, Use::FIRST)..=(value.result, Use::LAST)).map(|(_, user)| *user)
    }

    pub fn is_constant(&self, id: OpId) -> bool {
        self.node(id).constant
    }

    /// Makes every use of `old` a use of `new`.
    pub fn redirect(&mut self, old: Value, new: Value) {
        let uses: Vec<Use> = self.uses(old).collect();
        for user in &uses {
            self.node_mut(old.op).uses.remove(&(old.result, *user));
            self.node_mut(new.op).uses.insert((new.result, *user));
            self.node_mut(user.op).operands[user.operand as usize] = new;
        }
        if self.is_constant(old.op) != self.is_constant(new.op) {
            self.update_constants(uses.into_iter().map(|user| user.op).collect());
        }
    }

    /// Sets anew whether these ops, and those behind them, are constant.
    fn update_constants(&mut self, mut changed: Vec<OpId>) {
        while let Some(id) = changed.pop() {
            let constant = self.must_be_constant(id);
            let node = self.node_mut(id);
            if node.constant != constant {
                node.constant = constant;
                changed.extend(node.uses.iter().map(|(_, user)| user.op));
            }
        }
    }

    fn must_be_constant(&self, id: OpId) -> bool {
        match self.node(id).op.class() {
            OpClass::Source => true,
            OpClass::State => false,
            _ => self.operands(id).iter().all(|operand| self.is_constant(operand.op)),
        }
    }
}
