//! Algebraic identities that hold in floating point.

use ir::ops::{Mul, Offset, Scale, Sigmoid, Silu};
use ir::{Graph, OpId, Patch, Value};

use crate::{Numerics, rewrite_pass};

rewrite_pass! {
    /// Removes scales and offsets without effect, and merges pairs of ops.
    pub struct Simplify(Numerics::Rounding) { scale_by_one, offset_by_zero, scale_of_scaled, sigmoid_times_its_operand }
}

/// `scale(x) {by = 1} → x`.
fn scale_by_one(graph: &Graph, id: OpId) -> Option<Patch> {
    let scale = graph.cast::<Scale>(id)?;
    let [x] = graph.operands_of(id)?;
    (scale.by == 1.0).then(|| Patch::forward(graph.result(id), x))
}

/// `offset(x) {by = 0} → x`: only -0 differs, and compares equal.
fn offset_by_zero(graph: &Graph, id: OpId) -> Option<Patch> {
    let offset = graph.cast::<Offset>(id)?;
    let [x] = graph.operands_of(id)?;
    (offset.by == 0.0).then(|| Patch::forward(graph.result(id), x))
}

/// `scale(scale(x) {by = a}) {by = b} → scale(x) {by = a * b}`, unless the product underflows or overflows.
fn scale_of_scaled(graph: &Graph, id: OpId) -> Option<Patch> {
    let scale = graph.cast::<Scale>(id)?;
    let [scaled] = graph.operands_of(id)?;
    let (inner, first) = graph.producer::<Scale>(scaled)?;
    let by = Some(first.by * scale.by).filter(|by| by.is_normal())?;
    let [x] = graph.operands_of(inner)?;
    let mut patch = Patch::new();
    let direct = patch.add(graph, Scale { by }, &[x.into()]);
    patch.replace(graph.result(id), direct);
    Some(patch)
}

/// `sigmoid(x) * x → silu(x)`, in either order; not if the sigmoid has other users.
fn sigmoid_times_its_operand(graph: &Graph, id: OpId) -> Option<Patch> {
    graph.cast::<Mul>(id)?;
    let [a, b] = graph.operands_of(id)?;
    let gates = |gate: Value, x: Value| {
        let sigmoid = graph.producer::<Sigmoid>(gate).filter(|_| graph.used_once(gate));
        sigmoid.is_some_and(|(sigmoid, _)| graph.operands(sigmoid) == [x])
    };
    let x = if gates(a, b) { b } else { gates(b, a).then_some(a)? };
    let mut patch = Patch::new();
    let silu = patch.add(graph, Silu {}, &[x.into()]);
    patch.replace(graph.result(id), silu);
    Some(patch)
}
