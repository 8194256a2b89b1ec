//! Dead code elimination.

use ir::Graph;

use crate::{Changed, Pass, PassContext, PassError};

/// Removes ops with unused results. Ops on the KV cache are kept alive by their effect.
#[derive(Clone, Copy, Debug, Default)]
pub struct RemoveDeadOps;

impl Pass for RemoveDeadOps {
    fn required(&self) -> bool {
        // the canonical stage forbids unused ops
        true
    }

    fn run(&self, graph: &mut Graph, _: &PassContext<'_>) -> Result<Changed, PassError> {
        let ids: Vec<_> = graph.ops().collect();
        let removed: usize = ids.into_iter().rev().map(|id| graph.remove_unused(id)).sum();
        Ok((removed > 0).into())
    }
}
