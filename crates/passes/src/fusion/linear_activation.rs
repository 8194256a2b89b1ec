//! The ungated activation after a linear layer.

use ir::ops::{Epilogue, LinearParts, Pointwise};
use ir::{Graph, OpId, Patch};

use crate::{Numerics, rewrite_pass};

rewrite_pass! {
    /// `f(linear(x, w)) → fused_linear(x, w) {epilogue = [.., f]}`, where `f` is a scalar function of one element and
    /// constants, such as `gelu_tanh`, `scale` or `softcap`; not if the product has other users, or a gate or residual
    /// in its epilogue.
    pub struct FuseLinearActivation(Numerics::Rounding) { linear_activation }
}

fn linear_activation(graph: &Graph, id: OpId) -> Option<Patch> {
    let function = Pointwise::of(&graph.formula(id)?)?;
    let [product] = graph.operands_of(id)?;
    // a cast is not a function, but a region may store another dtype
    (graph.ty(product) == graph.ty(graph.result(id))).then_some(())?;
    let mut parts = LinearParts::of(graph, product.op).filter(|_| graph.used_once(product))?;
    parts.epilogue.push((Epilogue::Apply(function), None));
    // after a gate or a residual it would only be unfused again
    parts.in_order()?;
    let mut patch = Patch::new();
    let fused = parts.add(graph, &mut patch, parts.x.into())?;
    patch.replace(graph.result(id), fused);
    Some(patch)
}
