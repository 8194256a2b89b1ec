//! Dead code elimination.

use ir::Graph;

use crate::{Changed, Numerics, PassError, graph_pass};

graph_pass! {
    /// Removes ops with unused results. Ops on the KV cache are kept alive by their effect.
    // required: the canonical stage forbids unused ops
    pub struct RemoveDeadOps(Numerics::Exact, required) = |graph, _| remove_dead_ops(graph);
}

fn remove_dead_ops(graph: &mut Graph) -> Result<Changed, PassError> {
    let ids: Vec<_> = graph.ops().collect();
    let removed: usize = ids.into_iter().rev().map(|id| graph.remove_unused(id)).sum();
    Ok((removed > 0).into())
}
