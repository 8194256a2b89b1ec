//! The storage of a graph: nodes, and an edge for every operand. The only file that names petgraph.
//!
//! petgraph's neighbour order is not operand order, and `mul %x, %x` needs parallel edges: so each edge stores the
//! result that it comes from and the operand that it fills. Removing an edge from petgraph walks all edges of its
//! source, and the positions of a step have thousands of users: so removed nodes and edges stay as tombstones, which
//! queries skip.

use petgraph::Direction;
use petgraph::graph::{DiGraph, EdgeIndex, NodeIndex};
use petgraph::visit::EdgeRef;

use crate::{Op, OpClass, Type};

/// Identifies an op of one graph. Valid while the op exists; ids are not reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OpId(NodeIndex);

/// One result of an op.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Value {
    /// The op.
    pub op: OpId,
    /// Index of the result.
    pub result: u32,
}

/// One operand of an op.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Use {
    /// The op.
    pub op: OpId,
    /// Index of the operand.
    pub operand: u32,
}

/// An op in its graph.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub op: Op,
    /// Names and types of the results.
    pub results: Vec<(String, Type)>,
    /// Position in program order; the second number orders ops that replaced one op.
    pub rank: (u64, u64),
    operands: Vec<Value>,
    /// The edges of the operands.
    edges: Vec<EdgeIndex>,
    /// Whether the results are the same in every step.
    constant: bool,
}

#[derive(Clone, Copy, Debug)]
struct Edge {
    result: u32,
    operand: u32,
    live: bool,
}

/// Nodes and operand edges.
#[derive(Clone, Debug, Default)]
pub(crate) struct Dag {
    /// Removed ops are `None`.
    graph: DiGraph<Option<Node>, Edge>,
    len: usize,
}

impl Dag {
    pub fn insert(&mut self, op: Op, results: Vec<(String, Type)>, rank: (u64, u64), operands: &[Value]) -> OpId {
        let node = Node { op, results, rank, operands: operands.to_vec(), edges: Vec::new(), constant: false };
        let id = OpId(self.graph.add_node(Some(node)));
        let edges = (0..).zip(operands).map(|(operand, value)| self.connect(*value, Use { op: id, operand })).collect();
        self.node_mut(id).edges = edges;
        self.len += 1;
        self.node_mut(id).constant = self.must_be_constant(id);
        id
    }

    fn connect(&mut self, value: Value, user: Use) -> EdgeIndex {
        let edge = Edge { result: value.result, operand: user.operand, live: true };
        self.graph.add_edge(value.op.0, user.op.0, edge)
    }

    pub fn remove(&mut self, id: OpId) {
        let Some(node) = self.graph[id.0].take() else { return };
        self.len -= 1;
        node.edges.into_iter().for_each(|edge| self.graph[edge].live = false);
    }

    pub fn contains(&self, id: OpId) -> bool {
        self.graph.node_weight(id.0).is_some_and(Option::is_some)
    }

    pub fn len(&self) -> usize {
        self.len
    }

    /// The op of an id, which must exist.
    pub fn node(&self, id: OpId) -> &Node {
        self.graph[id.0].as_ref().expect("the op has not been removed")
    }

    pub fn node_mut(&mut self, id: OpId) -> &mut Node {
        self.graph[id.0].as_mut().expect("the op has not been removed")
    }

    pub fn ids(&self) -> impl Iterator<Item = OpId> + '_ {
        self.graph.node_indices().map(OpId).filter(|id| self.contains(*id))
    }

    pub fn operands(&self, id: OpId) -> &[Value] {
        &self.node(id).operands
    }

    /// Uses of one result, the newest first.
    pub fn uses(&self, value: Value) -> impl Iterator<Item = Use> + '_ {
        let edges = self.graph.edges_directed(value.op.0, Direction::Outgoing);
        let edges = edges.filter(move |edge| edge.weight().live && edge.weight().result == value.result);
        edges.map(|edge| Use { op: OpId(edge.target()), operand: edge.weight().operand })
    }

    pub fn is_constant(&self, id: OpId) -> bool {
        self.node(id).constant
    }

    /// Replaces every use of `old` by `new`.
    pub fn redirect(&mut self, old: Value, new: Value) {
        let uses: Vec<Use> = self.uses(old).collect();
        for user in &uses {
            let edge = self.connect(new, *user);
            let operand = user.operand as usize;
            let node = self.node_mut(user.op);
            node.operands[operand] = new;
            let dead = std::mem::replace(&mut node.edges[operand], edge);
            self.graph[dead].live = false;
        }
        if self.is_constant(old.op) != self.is_constant(new.op) {
            self.update_constants(uses.into_iter().map(|user| user.op).collect());
        }
    }

    /// Recomputes whether these ops, and ops that depend on them, are constant.
    fn update_constants(&mut self, mut changed: Vec<OpId>) {
        while let Some(id) = changed.pop() {
            let constant = self.must_be_constant(id);
            if self.is_constant(id) != constant {
                self.node_mut(id).constant = constant;
                let results = 0..self.node(id).results.len() as u32;
                changed.extend(results.flat_map(|result| self.uses(Value { op: id, result })).map(|user| user.op));
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
