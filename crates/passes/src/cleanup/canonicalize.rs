//! Normal forms, so that later rules need to match only one spelling.

use ir::ops::{Cast, Concat, Split};
use ir::{DType, Graph, OpId, Patch, PatchValue};

use crate::{Numerics, rewrite_pass};

rewrite_pass! {
    /// Removes redundant casts, joins and splits, and flattens nested ones.
    pub struct Canonicalize(Numerics::Exact, required) { cast_to_same, cast_of_widened, concat_of_one, split_into_one, nested_concat }
}

/// `cast(x: t) {to = t} → x`.
fn cast_to_same(graph: &Graph, id: OpId) -> Option<Patch> {
    let cast = graph.cast::<Cast>(id)?;
    let [x] = graph.operands_of(id)?;
    (graph.tensor(x)?.dtype == cast.to).then(|| Patch::forward(graph.result(id), x))
}

/// `cast(cast(x) {to = f32}) {to = t} → cast(x) {to = t}`: f32 holds every value of x.
fn cast_of_widened(graph: &Graph, id: OpId) -> Option<Patch> {
    let cast = graph.cast::<Cast>(id)?;
    let [widened] = graph.operands_of(id)?;
    let (inner, _) = graph.producer::<Cast>(widened).filter(|(_, inner)| inner.to == DType::F32)?;
    let [x] = graph.operands_of(inner)?;
    let mut patch = Patch::new();
    let direct = patch.add(graph, cast.clone(), &[x.into()]);
    patch.replace(graph.result(id), direct);
    Some(patch)
}

/// `concat(x) → x`.
fn concat_of_one(graph: &Graph, id: OpId) -> Option<Patch> {
    graph.cast::<Concat>(id)?;
    let [x] = graph.operands_of(id)?;
    Some(Patch::forward(graph.result(id), x))
}

/// `split(x) {sizes = [n]} → x`.
fn split_into_one(graph: &Graph, id: OpId) -> Option<Patch> {
    let split = graph.cast::<Split>(id)?;
    let [x] = graph.operands_of(id)?;
    (split.sizes.len() == 1).then(|| Patch::forward(graph.result(id), x))
}

/// `concat(.., concat(a, b), ..) → concat(.., a, b, ..)`.
fn nested_concat(graph: &Graph, id: OpId) -> Option<Patch> {
    graph.cast::<Concat>(id)?;
    let parts = graph.operands(id);
    parts.iter().find(|part| graph.producer::<Concat>(**part).is_some())?;
    let flat: Vec<PatchValue> = parts
        .into_iter()
        .flat_map(|part| match graph.producer::<Concat>(part) {
            Some((inner, _)) => graph.operands(inner),
            None => vec![part],
        })
        .map(PatchValue::from)
        .collect();
    let mut patch = Patch::new();
    let joined = patch.add(graph, Concat {}, &flat);
    patch.replace(graph.result(id), joined);
    Some(patch)
}
