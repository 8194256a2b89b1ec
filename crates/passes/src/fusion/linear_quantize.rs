//! Quantization of a linear layer's output.

use ir::ops::{Epilogue, LinearParts, Quantize};
use ir::{Graph, OpId, Patch};

use crate::{Numerics, rewrite_pass};

rewrite_pass! {
    /// `quantize(linear(x, w), scale) → fused_linear(x, w, scale) {quantize_to = ..}` with one scale per tensor, without
    /// rounding in between; not if the linear layer has other users or a residual, nor for formats with zero points.
    pub struct FuseLinearQuantize(Numerics::Rounding) { linear_quantize }
}

fn linear_quantize(graph: &Graph, id: OpId) -> Option<Patch> {
    let to = graph.cast::<Quantize>(id)?.to;
    let [y, scale] = graph.operands_of(id)?;
    matches!(graph.tensor(scale)?.const_shape()?.as_slice(), [1, 1]).then_some(())?;
    let mut parts = LinearParts::of(graph, y.op).filter(|parts| parts.quantize_to.is_none() && graph.used_once(y))?;
    parts.operand(Epilogue::Add).is_none().then_some(())?;
    parts.quantize_to = Some((to, scale));
    let mut patch = Patch::new();
    let fused = parts.add(graph, &mut patch, parts.x.into())?;
    patch.replace(graph.result(id), fused);
    Some(patch)
}
