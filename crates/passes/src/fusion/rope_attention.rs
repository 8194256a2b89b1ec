//! Everything between the packed q/k/v projection and the output projection.

use ir::ops::{PagedAttention, RopeAppendKv, RopeAttention};
use ir::{Graph, OpId, Patch, PatchValue, Value};

use crate::{Numerics, rewrite_pass};

rewrite_pass! {
    /// `q, cache = rope_append_kv(x); paged_attention(q, cache) → rope_attention(x)`, if the queries and the effect
    /// have no other users, and both ops have the same layer and step.
    pub struct FuseRopeAttention(Numerics::Rounding) { rope_attention }
}

fn rope_attention(graph: &Graph, id: OpId) -> Option<Patch> {
    let attention = graph.cast::<PagedAttention>(id)?;
    let [q, cache, positions, query_starts, block_table] = graph.operands_of(id)?;
    let (rope_id, rope) = graph.producer::<RopeAppendKv>(q).filter(|_| graph.used_once(q))?;
    (cache == Value { op: rope_id, result: 1 } && graph.used_once(cache)).then_some(())?;
    let operands = graph.operands(rope_id);
    (operands.get(1..4) == Some(&[positions, query_starts, block_table])).then_some(())?;
    let RopeAppendKv { group, layer, head_dim, heads, kv_heads, norm_eps, to } = *rope;
    let same = (attention.group, attention.layer, attention.head_dim, attention.kv_heads);
    (same == (group, layer, head_dim, kv_heads)).then_some(())?;
    let fused = RopeAttention { group, layer, head_dim, heads, kv_heads, scale: attention.scale, norm_eps, to };
    let mut patch = Patch::new();
    let operands: Vec<PatchValue> = operands.into_iter().map(Into::into).collect();
    let fused = patch.add(graph, fused, &operands);
    patch.replace(graph.result(id), fused);
    patch.replace(cache, fused.result(1));
    Some(patch)
}
