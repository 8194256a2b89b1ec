//! The norm before codes are made.

use ir::ops::{QuantizeBlocks, RmsNorm, RmsNormQuantize};
use ir::{Graph, OpId, Patch, Value};

use crate::{Numerics, rewrite_pass};

rewrite_pass! {
    /// `quantize_blocks(rms_norm(x, gain)) → rms_norm_quantize(x, gain)`; not where the norm has other users or
    /// is one of heads, nor for blocks of several rows.
    pub struct FuseNormQuantize(Numerics::Exact) { norm_quantize }
}

fn norm_quantize(graph: &Graph, id: OpId) -> Option<Patch> {
    let blocks = graph.cast::<QuantizeBlocks>(id)?;
    matches!(blocks.rows, None | Some(1)).then_some(())?;
    let [normed] = graph.operands_of(id)?;
    let (norm, attrs) = graph.producer::<RmsNorm>(normed).filter(|_| graph.used_once(normed))?;
    attrs.head_dim.is_none().then_some(())?;
    let [x, gain] = graph.operands_of(norm)?;
    let norm = graph.tensor(normed)?.dtype;
    let fused = RmsNormQuantize { eps: attrs.eps, norm, to: blocks.to, cols: blocks.cols };
    let mut patch = Patch::new();
    let fused = patch.add(graph, fused, &[x.into(), gain.into()]);
    patch.replace(graph.result(id), fused);
    patch.replace(Value { op: id, result: 1 }, fused.result(1));
    Some(patch)
}
