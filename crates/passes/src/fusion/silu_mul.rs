//! The gate of a gated MLP.

use ir::ops::{Mul, Silu, SiluMul};
use ir::{Graph, OpId, Patch, Value};

use crate::{Numerics, rewrite_pass};

rewrite_pass! {
    /// `silu(g) * u → silu_mul(g, u)`, in either order; not if the activation has other users.
    pub struct FuseSiluMul(Numerics::Rounding) { silu_mul }
}

fn silu_mul(graph: &Graph, id: OpId) -> Option<Patch> {
    graph.cast::<Mul>(id)?;
    let [a, b] = graph.operands_of(id)?;
    let gate_of = |value: Value| graph.producer::<Silu>(value).filter(|_| graph.used_once(value));
    let (silu, up) = gate_of(a).map(|(silu, _)| (silu, b)).or_else(|| gate_of(b).map(|(silu, _)| (silu, a)))?;
    let [gate] = graph.operands_of(silu)?;
    // neither is a broadcast row
    (graph.ty(gate) == graph.ty(up)).then_some(())?;
    let mut patch = Patch::new();
    let fused = patch.add(graph, SiluMul {}, &[gate.into(), up.into()]);
    patch.replace(graph.result(id), fused);
    Some(patch)
}
