//! Casts of f32 results are folded into the op that computes them.

use ir::ops::{Cast, LayerNorm, Linear, RmsNorm, Rope};
use ir::{DType, Graph, OpDef, OpId, Patch, PatchValue};

use crate::{Numerics, rewrite_pass};

rewrite_pass! {
    /// `cast(linear(..)) {to = t} → linear(..) {to = t}`, and the same for `rms_norm`, `layer_norm` and `rope`; not if
    /// the uncast value has other users. Exact if that was f32; otherwise there is one rounding less.
    pub struct FoldCasts(Numerics::Rounding) {
        cast_of_linear, cast_of_rms_norm, cast_of_layer_norm, cast_of_rope
    }
}

fn cast_of_linear(graph: &Graph, id: OpId) -> Option<Patch> {
    folded(graph, id, |_: &Linear, to| Linear { to })
}

fn cast_of_rms_norm(graph: &Graph, id: OpId) -> Option<Patch> {
    folded(graph, id, |norm: &RmsNorm, to| RmsNorm { to, ..*norm })
}

fn cast_of_layer_norm(graph: &Graph, id: OpId) -> Option<Patch> {
    folded(graph, id, |norm: &LayerNorm, to| LayerNorm { to, ..*norm })
}

fn cast_of_rope(graph: &Graph, id: OpId) -> Option<Patch> {
    folded(graph, id, |rope: &Rope, to| Rope { to, ..*rope })
}

/// The producer of a cast value, with the cast's dtype as its result. Its own dtype is that of its first operand.
fn folded<T: OpDef>(graph: &Graph, id: OpId, rounding: fn(&T, Option<DType>) -> T) -> Option<Patch> {
    let cast = graph.cast::<Cast>(id)?;
    let [value] = graph.operands_of(id)?;
    let (producer, op) = graph.producer::<T>(value).filter(|_| graph.used_once(value))?;
    let operands = graph.operands(producer);
    let own = graph.tensor(*operands.first()?)?.dtype;
    let op = rounding(op, Some(cast.to).filter(|to| *to != own));
    let operands: Vec<PatchValue> = operands.into_iter().map(PatchValue::from).collect();
    let mut patch = Patch::new();
    let rounded = patch.add(graph, op, &operands);
    patch.replace(graph.result(id), rounded);
    Some(patch)
}
