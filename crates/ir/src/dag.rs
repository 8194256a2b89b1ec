//! The storage of a graph: nodes, and edges as the only record of operands. The one file that names petgraph.
//!
//! petgraph's neighbour order is not operand order, and `mul %x, %x` needs parallel edges: so each edge carries the
//! result it comes from and the operand it fills.

use petgraph::Direction;
use petgraph::stable_graph::{NodeIndex, StableDiGraph};
use petgraph::visit::EdgeRef;

use crate::{Op, Type};

/// Names an op of one graph. Stays valid while the op is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OpId(NodeIndex);

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

/// An op in its graph.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub op: Op,
    /// Names and types of the results.
    pub results: Vec<(String, Type)>,
    /// Place in program order; the second number orders ops that replaced one op.
    pub rank: (u64, u64),
}

#[derive(Clone, Copy, Debug)]
struct Edge {
    result: u32,
    operand: u32,
}

/// Nodes and operand edges.
#[derive(Clone, Debug, Default)]
pub(crate) struct Dag {
    graph: StableDiGraph<Node, Edge>,
}

impl Dag {
    pub fn insert(&mut self, node: Node, operands: &[Value]) -> OpId {
        let id = self.graph.add_node(node);
        for (operand, value) in operands.iter().enumerate() {
            self.graph.add_edge(value.op.0, id, Edge { result: value.result, operand: operand as u32 });
        }
        OpId(id)
    }

    pub fn remove(&mut self, id: OpId) {
        self.graph.remove_node(id.0);
    }

    pub fn contains(&self, id: OpId) -> bool {
        self.graph.contains_node(id.0)
    }

    pub fn len(&self) -> usize {
        self.graph.node_count()
    }

    pub fn node(&self, id: OpId) -> &Node {
        &self.graph[id.0]
    }

    pub fn node_mut(&mut self, id: OpId) -> &mut Node {
        &mut self.graph[id.0]
    }

    pub fn ids(&self) -> impl Iterator<Item = OpId> + '_ {
        self.graph.node_indices().map(OpId)
    }

    pub fn operands(&self, id: OpId) -> Vec<Value> {
        let edges = self.graph.edges_directed(id.0, Direction::Incoming);
        let mut operands: Vec<(u32, Value)> = edges
            .map(|edge| (edge.weight().operand, Value { op: OpId(edge.source()), result: edge.weight().result }))
            .collect();
        operands.sort_unstable_by_key(|(operand, _)| *operand);
        operands.into_iter().map(|(_, value)| value).collect()
    }

    /// Uses of one result, in no particular order of ops.
    pub fn uses(&self, value: Value) -> Vec<Use> {
        let edges = self.graph.edges_directed(value.op.0, Direction::Outgoing);
        let mut uses: Vec<Use> = edges
            .filter(|edge| edge.weight().result == value.result)
            .map(|edge| Use { op: OpId(edge.target()), operand: edge.weight().operand })
            .collect();
        uses.sort_unstable();
        uses
    }

    /// Makes every use of `old` a use of `new`.
    pub fn redirect(&mut self, old: Value, new: Value) {
        let edges: Vec<_> = self
            .graph
            .edges_directed(old.op.0, Direction::Outgoing)
            .filter(|edge| edge.weight().result == old.result)
            .map(|edge| (edge.id(), edge.target(), edge.weight().operand))
            .collect();
        for (edge, user, operand) in edges {
            self.graph.remove_edge(edge);
            self.graph.add_edge(new.op.0, user, Edge { result: new.result, operand });
        }
    }
}
