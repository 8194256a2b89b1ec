//! The gated activation of the packed result of the merged gate and up projections.

use ir::ops::{SiluMul, Split, Swiglu};
use ir::{Graph, OpId, Patch};

use crate::{Numerics, rewrite_pass};

rewrite_pass! {
    /// `silu_mul(split(x).0, split(x).1) → swiglu(x)` if the split has two equal parts.
    pub struct FuseSwiglu(Numerics::Exact) { swiglu }
}

fn swiglu(graph: &Graph, id: OpId) -> Option<Patch> {
    graph.cast::<SiluMul>(id)?;
    let [gate, up] = graph.operands_of(id)?;
    let (split, op) = graph.producer::<Split>(gate)?;
    (up.op == split && gate.result == 0 && up.result == 1).then_some(())?;
    matches!(op.sizes.as_slice(), [a, b] if a == b).then_some(())?;
    let [gate_up] = graph.operands_of(split)?;
    (graph.tensor(gate_up)?.shape.len() == 2).then_some(())?;
    let mut patch = Patch::new();
    let fused = patch.add(graph, Swiglu {}, &[gate_up.into()]);
    patch.replace(graph.result(id), fused);
    Some(patch)
}
