//! The norm before quantization.

use ir::ops::{Quantize, QuantizeBlocks, RmsNorm, RmsNormQuantize};
use ir::{DType, Graph, OpId, Patch, Value};

use crate::{Numerics, rewrite_pass};

rewrite_pass! {
    /// `quantize_blocks(rms_norm(x, g)) → rms_norm_quantize(x, g)`, and the same for `quantize` with one scale per
    /// tensor; not if the norm has other users or is per head, nor for blocks of several rows.
    pub struct FuseNormQuantize(Numerics::Exact) { norm_quantize_blocks, norm_quantize }
}

fn norm_quantize_blocks(graph: &Graph, id: OpId) -> Option<Patch> {
    let blocks = graph.cast::<QuantizeBlocks>(id)?;
    matches!(blocks.rows, None | Some(1)).then_some(())?;
    let [normed] = graph.operands_of(id)?;
    let (norm, [x, weight]) = norm_of_rows(graph, normed)?;
    let fused = RmsNormQuantize { to: blocks.to, cols: blocks.cols, ..norm };
    let mut patch = Patch::new();
    let fused = patch.add(graph, fused, &[x.into(), weight.into()]);
    patch.replace(graph.result(id), fused);
    patch.replace(Value { op: id, result: 1 }, fused.result(1));
    Some(patch)
}

fn norm_quantize(graph: &Graph, id: OpId) -> Option<Patch> {
    let to = graph.cast::<Quantize>(id)?.to;
    let [normed, scale] = graph.operands_of(id)?;
    matches!(graph.tensor(scale)?.const_shape()?.as_slice(), [1, 1]).then_some(())?;
    let (norm, [x, weight]) = norm_of_rows(graph, normed)?;
    let mut patch = Patch::new();
    let fused = patch.add(graph, RmsNormQuantize { to, ..norm }, &[x.into(), weight.into(), scale.into()]);
    patch.replace(graph.result(id), fused);
    Some(patch)
}

/// The op that normalizes like the producer of `normed`, and its operands.
fn norm_of_rows(graph: &Graph, normed: Value) -> Option<(RmsNormQuantize, [Value; 2])> {
    let (norm, attrs) = graph.producer::<RmsNorm>(normed).filter(|_| graph.used_once(normed))?;
    attrs.head_dim.is_none().then_some(())?;
    let norm_dtype = graph.tensor(normed)?.dtype;
    let fused = RmsNormQuantize { eps: attrs.eps, norm: norm_dtype, to: DType::I8, cols: None };
    Some((fused, graph.operands_of(norm)?))
}
