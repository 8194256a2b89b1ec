//! The norm before a linear layer.

use ir::ops::{LayerNorm, LinearParts, Norm, Prologue, RmsNorm};
use ir::{Graph, OpId, Patch, Value};

use crate::{Numerics, rewrite_pass};

rewrite_pass! {
    /// `linear(rms_norm(x, g), w) → fused_linear(x, w, g) {prologue = rms_norm(eps, dtype)}`; not if the norm has other
    /// users. Likewise for `layer_norm(x, g, bias)`, but not without a bias. A target without suitable
    /// kernels (e.g. for many rows) expands it.
    pub struct FuseNormLinear(Numerics::Exact) { norm_linear }
}

fn norm_linear(graph: &Graph, id: OpId) -> Option<Patch> {
    let mut parts = LinearParts::of(graph, id).filter(|parts| parts.prologue.is_none())?;
    graph.used_once(parts.x).then_some(())?;
    let (norm, eps) = norm(graph, parts.x)?;
    let operands = graph.operands(parts.x.op);
    let (x, weight_and_bias) = operands.split_first()?;
    let to = graph.tensor(parts.x)?.dtype;
    parts.prologue = Some((Prologue { norm, eps, to }, weight_and_bias.to_vec()));
    let mut patch = Patch::new();
    let fused = parts.add(graph, &mut patch, (*x).into())?;
    patch.replace(graph.result(id), fused);
    Some(patch)
}

/// The norm that computes a value, if it can be the prologue of a product.
fn norm(graph: &Graph, normed: Value) -> Option<(Norm, f32)> {
    if let Some((_, norm)) = graph.producer::<RmsNorm>(normed) {
        // heads are normalized separately
        return norm.head_dim.is_none().then_some((Norm::Rms, norm.eps));
    }
    let (id, norm) = graph.producer::<LayerNorm>(normed)?;
    (graph.operands(id).len() == 3).then_some((Norm::Layer, norm.eps))
}
