//! Everything between the packed q/k/v linear and attention.

use ir::ops::{AppendKv, Rope, RopeAppendKv, Split};
use ir::{Graph, OpId, Patch};

use crate::{Numerics, rewrite_pass};

rewrite_pass! {
    /// `q, k, v = split(x); append_kv(rope(k), v); rope(q) → rope_append_kv(x)`, where nothing else reads the parts
    /// and both rotations are the same, of heads as the cache has them.
    pub struct FuseRopeAppendKv(Numerics::Rounding) { rope_append_kv }
}

fn rope_append_kv(graph: &Graph, id: OpId) -> Option<Patch> {
    let append = graph.cast::<AppendKv>(id)?;
    let [k_rotated, v, positions, query_starts, block_table] = graph.operands_of(id)?;
    let (k_rope, k_attrs) = graph.producer::<Rope>(k_rotated).filter(|_| graph.used_once(k_rotated))?;
    let [k, k_positions, frequencies] = graph.operands_of(k_rope)?;
    let (split, parts) = graph.producer::<Split>(k)?;
    let [q_width, k_width, v_width] = *parts.sizes.as_slice() else { return None };
    (v.op == split && k.result == 1 && v.result == 2 && k_width == v_width).then_some(())?;
    graph.results(split).all(|part| graph.used_once(part)).then_some(())?;
    let q_rope = graph.uses(ir::Value { op: split, result: 0 }).first()?.op;
    let q_attrs = graph.cast::<Rope>(q_rope)?;
    let [_, q_positions, q_frequencies] = graph.operands_of(q_rope)?;
    let same = q_attrs.head_dim == k_attrs.head_dim && q_frequencies == frequencies;
    (same && [q_positions, k_positions] == [positions; 2]).then_some(())?;
    // the cache rounds keys to its own dtype, and they must not be rounded before
    k_attrs.to.is_none().then_some(())?;
    let [qkv] = graph.operands_of(split)?;
    let head_dim = k_attrs.head_dim;
    (graph.kv().get(append.group as usize)?.head_dim == head_dim).then_some(())?;
    let fused = RopeAppendKv {
        group: append.group,
        layer: append.layer,
        head_dim,
        heads: q_width / head_dim,
        kv_heads: k_width / head_dim,
        to: q_attrs.to,
    };
    let mut patch = Patch::new();
    let operands = [qkv, positions, query_starts, block_table, frequencies].map(Into::into);
    let fused = patch.add(graph, fused, &operands);
    patch.replace(graph.result(q_rope), fused);
    patch.replace(graph.result(id), fused.result(1));
    Some(patch)
}
