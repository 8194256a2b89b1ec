//! The pass that inserts the op into models.

use smelt::extend::ir::ops::{Argmax, Linear};
use smelt::extend::ir::{Graph, OpId, Patch, PatchValue};
use smelt::extend::{Numerics, rewrite_pass};

use crate::SoftClip;

/// The limit of Gemma 2.
const LIMIT: f32 = 30.0;

rewrite_pass! {
    /// `argmax(linear(x, w)) → argmax(soft_clip(linear(x, w)))`, for all users of the logits.
    pub struct ClipLogits(Numerics::Different) { clip_logits }
}

fn clip_logits(graph: &Graph, id: OpId) -> Option<Patch> {
    graph.cast::<Argmax>(id)?;
    let [logits] = graph.operands_of(id)?;
    let (linear, head) = graph.producer::<Linear>(logits)?;
    let operands: Vec<PatchValue> = graph.operands(linear).into_iter().map(PatchValue::from).collect();

    let mut patch = Patch::new();
    // the linear once more: users of the old one will read what comes after this one
    let raw = patch.add(graph, head.clone(), &operands);
    patch.name(format!("{}.raw", graph.value_name(logits)));
    let clipped = patch.add(graph, SoftClip { limit: LIMIT }, &[raw]);
    patch.replace(logits, clipped);
    Some(patch)
}
