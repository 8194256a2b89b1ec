//! The residual add after a linear layer.

use ir::ops::{Add, Epilogue, LinearParts};
use ir::{Graph, OpId, Patch, Value};

use crate::{Numerics, rewrite_pass};

rewrite_pass! {
    /// `r + linear(x, w) → fused_linear(x, w, r) {epilogue = [.., add]}`, in either order; not if the product has other
    /// users, or has a residual already.
    pub struct FuseLinearAdd(Numerics::Rounding) { linear_add }
}

fn linear_add(graph: &Graph, id: OpId) -> Option<Patch> {
    graph.cast::<Add>(id)?;
    let [a, b] = graph.operands_of(id)?;
    let linear = |value: Value| LinearParts::of(graph, value.op).filter(|_| graph.used_once(value));
    // the second if both are: it is the branch, and the first is the residual stream
    let (mut parts, residual) = linear(b).map(|parts| (parts, a)).or_else(|| linear(a).map(|parts| (parts, b)))?;
    // a broadcast row is not a residual
    (graph.ty(residual) == graph.ty(graph.result(id))).then_some(())?;
    parts.operand(Epilogue::Add).is_none().then_some(())?;
    parts.epilogue.push((Epilogue::Add, Some(residual)));
    let mut patch = Patch::new();
    let fused = parts.add(graph, &mut patch, parts.x.into())?;
    patch.replace(graph.result(id), fused);
    Some(patch)
}
