//! The gated activation after the merged gate and up projections.

use ir::ops::{Epilogue, LinearParts, Swiglu};
use ir::{Graph, OpId, Patch};

use crate::{Numerics, rewrite_pass};

rewrite_pass! {
    /// `swiglu(linear(x, w)) → fused_linear(x, w) {epilogue = [.., swiglu]}`; not if the product has other users, or more
    /// in its epilogue than a bias. The order of gate and up rows in memory is a layout of the weight, chosen by the
    /// kernel.
    pub struct FuseLinearSwiglu(Numerics::Rounding) { linear_swiglu }
}

fn linear_swiglu(graph: &Graph, id: OpId) -> Option<Patch> {
    graph.cast::<Swiglu>(id)?;
    let [gate_up] = graph.operands_of(id)?;
    let mut parts = LinearParts::of(graph, gate_up.op).filter(|_| graph.used_once(gate_up))?;
    matches!(parts.epilogues().as_slice(), [] | [Epilogue::Bias]).then_some(())?;
    parts.epilogue.push((Epilogue::Swiglu, None));
    let mut patch = Patch::new();
    let fused = parts.add(graph, &mut patch, parts.x.into())?;
    patch.replace(graph.result(id), fused);
    Some(patch)
}
