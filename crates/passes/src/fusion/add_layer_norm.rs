//! A sum and the layer norm after it.

use ir::ops::{AddLayerNorm, LayerNorm};
use ir::{Graph, OpId, Patch, PatchValue};

use super::add_rms_norm::summands;
use crate::{Numerics, rewrite_pass};

rewrite_pass! {
    /// `layer_norm(a + b, w, bias) → add_layer_norm(a, b, w, bias)`; the sum stays available to its other users.
    pub struct FuseAddLayerNorm(Numerics::Rounding) { add_layer_norm }
}

fn add_layer_norm(graph: &Graph, id: OpId) -> Option<Patch> {
    let norm = graph.cast::<LayerNorm>(id)?;
    let operands = graph.operands(id);
    let (sum, weight_and_bias) = operands.split_first()?;
    let summands = summands(graph, *sum)?;
    // computed from the sum, they would depend on themselves
    weight_and_bias.iter().all(|value| graph.is_constant(*value)).then_some(())?;
    let operands = summands.iter().chain(weight_and_bias).copied().map(PatchValue::from);
    let mut patch = Patch::new();
    let fused = patch.add(graph, AddLayerNorm { eps: norm.eps, to: norm.to }, &operands.collect::<Vec<_>>());
    patch.replace(*sum, fused);
    patch.replace(graph.result(id), fused.result(1));
    Some(patch)
}
