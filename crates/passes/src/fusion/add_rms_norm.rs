//! The residual add and the norm after it.

use ir::ops::{Add, AddRmsNorm, RmsNorm};
use ir::{Graph, OpId, Patch, Value};

use crate::{Numerics, rewrite_pass};

rewrite_pass! {
    /// `rms_norm(a + b, w) → add_rms_norm(a, b, w)`; the sum stays available to its other users.
    pub struct FuseAddRmsNorm(Numerics::Rounding) { add_rms_norm }
}

fn add_rms_norm(graph: &Graph, id: OpId) -> Option<Patch> {
    let norm = graph.cast::<RmsNorm>(id).filter(|norm| norm.head_dim.is_none())?;
    let [sum, weight] = graph.operands_of(id)?;
    let [a, b] = summands(graph, sum)?;
    // a weight computed from the sum would depend on itself
    graph.is_constant(weight).then_some(())?;
    let mut patch = Patch::new();
    let fused = patch.add(graph, AddRmsNorm { eps: norm.eps, to: norm.to }, &[a.into(), b.into(), weight.into()]);
    patch.replace(sum, fused);
    patch.replace(graph.result(id), fused.result(1));
    Some(patch)
}

/// The operands of a sum, if neither is a row that is broadcast.
pub(super) fn summands(graph: &Graph, sum: Value) -> Option<[Value; 2]> {
    let (add, _) = graph.producer::<Add>(sum)?;
    let [a, b] = graph.operands_of(add)?;
    (graph.ty(a) == graph.ty(b)).then_some([a, b])
}
