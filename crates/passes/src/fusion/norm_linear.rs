//! The norm before a linear.

use ir::ops::{LayerNorm, LinearParts, Norm, Prologue, RmsNorm};
use ir::{Graph, OpId, Patch, Value};

use crate::{Numerics, rewrite_pass};

rewrite_pass! {
    /// `linear(rms_norm(x, gain), w) → fused_linear(x, w, gain) {before = rms_norm(eps, dtype)}`; not where the norm has
    /// other users. The same of `layer_norm(x, gain, bias)`; one without a bias stays apart. A target whose kernels gain
    /// nothing by it, as for many rows, takes it apart again.
    pub struct FuseNormLinear(Numerics::Exact) { norm_linear }
}

fn norm_linear(graph: &Graph, id: OpId) -> Option<Patch> {
    let mut parts = LinearParts::of(graph, id).filter(|parts| parts.before.is_none())?;
    graph.used_once(parts.x).then_some(())?;
    let (norm, eps) = norm(graph, parts.x)?;
    let operands = graph.operands(parts.x.op);
    let (x, gain_and_bias) = operands.split_first()?;
    let to = graph.tensor(parts.x)?.dtype;
    parts.before = Some((Prologue { norm, eps, to }, gain_and_bias.to_vec()));
    let mut patch = Patch::new();
    let fused = parts.add(graph, &mut patch, (*x).into())?;
    patch.replace(graph.result(id), fused);
    Some(patch)
}

/// The norm that makes a value, where a product may have it before itself.
fn norm(graph: &Graph, normed: Value) -> Option<(Norm, f32)> {
    if let Some((_, norm)) = graph.producer::<RmsNorm>(normed) {
        // heads are normed by themselves
        return norm.head_dim.is_none().then_some((Norm::Rms, norm.eps));
    }
    let (id, norm) = graph.producer::<LayerNorm>(normed)?;
    (graph.operands(id).len() == 3).then_some((Norm::Layer, norm.eps))
}
