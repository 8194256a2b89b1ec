//! Everything between the packed q/k/v projection and attention.

use ir::ops::{AppendKv, RmsNorm, Rope, RopeAppendKv, Split};
use ir::{Graph, OpId, Patch, PatchValue, Value};

use crate::{Numerics, rewrite_pass};

rewrite_pass! {
    /// `q, k, v = split(x); append_kv(rope(k), v); rope(q) → rope_append_kv(x)`, if the parts have no other users and
    /// both rotations are the same, of heads as in the cache. Norms of the heads of `q` and `k` before RoPE are
    /// included, if they are equal for both.
    pub struct FuseRopeAppendKv(Numerics::Rounding) { rope_append_kv }
}

fn rope_append_kv(graph: &Graph, id: OpId) -> Option<Patch> {
    let append = graph.cast::<AppendKv>(id)?;
    let [k_rotated, v, positions, query_starts, block_table] = graph.operands_of(id)?;
    let (k_rope, _) = graph.producer::<Rope>(k_rotated).filter(|_| graph.used_once(k_rotated))?;
    let k = Rotated::by(graph, k_rope)?;
    let (split, parts) = graph.producer::<Split>(k.part)?;
    let [q_width, k_width, v_width] = *parts.sizes.as_slice() else { return None };
    (v.op == split && k.part.result == 1 && v.result == 2 && k_width == v_width).then_some(())?;
    graph.results(split).all(|part| graph.used_once(part)).then_some(())?;
    let q_rope = rotation_of(graph, Value { op: split, result: 0 })?;
    let q = Rotated::by(graph, q_rope)?;
    (q.same_rotation(&k) && k.positions == positions).then_some(())?;
    // the cache rounds keys to its own dtype, and they must not be rounded before that
    k.rope.to.is_none().then_some(())?;
    let [qkv] = graph.operands_of(split)?;
    let head_dim = k.rope.head_dim;
    (graph.kv().get(append.group as usize)?.head_dim == head_dim).then_some(())?;
    let mut operands = [qkv, positions, query_starts, block_table, k.frequencies].map(PatchValue::from).to_vec();
    let norm_eps = match (&q.norm, &k.norm) {
        (Some(q), Some(k)) if q.eps == k.eps && graph.ty(q.weight) == graph.ty(k.weight) => {
            operands.extend([q.weight, k.weight].map(PatchValue::from));
            Some(q.eps)
        }
        (None, None) => None,
        _ => return None,
    };
    let fused = RopeAppendKv {
        group: append.group,
        layer: append.layer,
        head_dim,
        heads: q_width / head_dim,
        kv_heads: k_width / head_dim,
        norm_eps,
        to: q.rope.to,
    };
    let mut patch = Patch::new();
    let fused = patch.add(graph, fused, &operands);
    patch.replace(graph.result(q_rope), fused);
    patch.replace(graph.result(id), fused.result(1));
    Some(patch)
}

/// The RoPE of a value, or of its norm.
fn rotation_of(graph: &Graph, value: Value) -> Option<OpId> {
    let reader = graph.uses(value).first()?.op;
    match graph.cast::<RmsNorm>(reader) {
        Some(_) => Some(graph.uses(graph.result(reader)).first()?.op),
        None => Some(reader),
    }
}

/// A RoPE op, and the norm of each head before it.
struct Rotated<'a> {
    rope: &'a Rope,
    positions: Value,
    frequencies: Value,
    norm: Option<HeadNorm>,
    /// The operand of the norm and RoPE.
    part: Value,
}

struct HeadNorm {
    eps: f32,
    weight: Value,
}

impl<'a> Rotated<'a> {
    fn by(graph: &'a Graph, id: OpId) -> Option<Rotated<'a>> {
        let rope = graph.cast::<Rope>(id)?;
        let [x, positions, frequencies] = graph.operands_of(id)?;
        let rotated = Rotated { rope, positions, frequencies, norm: None, part: x };
        let Some((norm, attrs)) = graph.producer::<RmsNorm>(x) else { return Some(rotated) };
        (graph.used_once(x) && attrs.head_dim == Some(rope.head_dim) && attrs.to.is_none()).then_some(())?;
        let [part, weight] = graph.operands_of(norm)?;
        // a norm weight computed from a reader of the cache would depend on itself
        graph.is_constant(weight).then_some(())?;
        Some(Rotated { norm: Some(HeadNorm { eps: attrs.eps, weight }), part, ..rotated })
    }

    fn same_rotation(&self, other: &Rotated<'_>) -> bool {
        self.rope.head_dim == other.rope.head_dim
            && self.positions == other.positions
            && self.frequencies == other.frequencies
    }
}
