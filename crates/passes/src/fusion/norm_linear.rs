//! The norm before a linear.

use ir::ops::{LinearParts, Prologue, RmsNorm};
use ir::{Graph, OpId, Patch};

use crate::{Numerics, rewrite_pass};

rewrite_pass! {
    /// `linear(rms_norm(x, gain), w) → fused_linear(x, w, gain) {before = rms_norm(eps, dtype)}`; not where the norm has
    /// other users. A target whose kernels gain nothing by it, as for many rows, takes it apart again.
    pub struct FuseNormLinear(Numerics::Exact) { norm_linear }
}

fn norm_linear(graph: &Graph, id: OpId) -> Option<Patch> {
    let mut parts = LinearParts::of(graph, id).filter(|parts| parts.before.is_none())?;
    let (norm, attrs) = graph.producer::<RmsNorm>(parts.x).filter(|_| graph.used_once(parts.x))?;
    attrs.head_dim.is_none().then_some(())?;
    let [x, gain] = graph.operands_of(norm)?;
    let to = graph.tensor(parts.x)?.dtype;
    parts.before = Some((Prologue::RmsNorm { eps: attrs.eps, to }, gain));
    let mut patch = Patch::new();
    let fused = parts.add(graph, &mut patch, x.into())?;
    patch.replace(graph.result(id), fused);
    Some(patch)
}
