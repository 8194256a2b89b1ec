//! A rewrite: replace it by your own.

use smelt::extend::ir::ops::Relu;
use smelt::extend::ir::{Graph, OpId, Patch};
use smelt::extend::{Numerics, rewrite_pass};

rewrite_pass! {
    /// `relu(relu(x)) → relu(x)`: the second one changes nothing.
    pub struct NewPass(Numerics::Exact) { new_pass }
}

fn new_pass(graph: &Graph, id: OpId) -> Option<Patch> {
    graph.cast::<Relu>(id)?;
    let [inner] = graph.operands_of(id)?;
    graph.producer::<Relu>(inner)?;
    let mut patch = Patch::new();
    patch.replace(graph.result(id), inner);
    Some(patch)
}
