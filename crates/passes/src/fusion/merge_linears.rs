//! One large matrix product instead of several small ones: q/k/v, gate/up.

use ir::ops::{Concat, Linear, Split};
use ir::{Graph, OpId, Patch, PatchValue, Value};

use crate::{Numerics, rewrite_pass};

rewrite_pass! {
    /// `linear(x, a), linear(x, b), … → split(linear(x, concat(a, b, …)))`, where the weights are constants of one
    /// dtype, the results have one, and all or none have a bias. In program order, so that q, k, v come out packed in that order.
    pub struct MergeLinears(Numerics::Exact) { merge_linears }
}

fn merge_linears(graph: &Graph, id: OpId) -> Option<Patch> {
    let linear = graph.cast::<Linear>(id)?;
    let first = graph.operands(id);
    let siblings = siblings(graph, id, &first);
    (siblings.len() > 1 && siblings[0] == id).then_some(())?;
    let sizes = siblings.iter().map(|linear| u32::try_from(graph.tensor(graph.result(*linear))?.width()?).ok());
    let sizes: Vec<u32> = sizes.collect::<Option<_>>()?;
    let name = joined_name(siblings.iter().map(|linear| graph.value_name(graph.result(*linear))));

    let mut patch = Patch::new();
    let mut operands: Vec<PatchValue> = vec![first[0].into()];
    for (operand, suffix) in (1..first.len()).zip(["weight", "bias"]) {
        let parts = siblings.iter().flat_map(|linear| parts(graph, graph.operands(*linear)[operand]));
        let parts: Vec<PatchValue> = parts.map(PatchValue::from).collect();
        operands.push(patch.add(graph, Concat {}, &parts));
        patch.name(format!("{name}.{suffix}"));
    }
    let merged = patch.add(graph, linear.clone(), &operands);
    patch.name(name);
    let split = patch.add(graph, Split { sizes }, &[merged]);
    for (linear, part) in siblings.iter().zip(0..) {
        patch.replace(graph.result(*linear), split.result(part));
    }
    Some(patch)
}

/// The linears over the same `x` that can be merged with this one, itself included.
fn siblings(graph: &Graph, id: OpId, first: &[Value]) -> Vec<OpId> {
    let mergeable = |linear: OpId| {
        let operands = graph.operands(linear);
        graph.cast::<Linear>(linear).is_some_and(|linear| graph.cast(id) == Some(linear))
            && operands.len() == first.len()
            && operands[0] == first[0]
            && operands.iter().zip(first).skip(1).all(|(a, b)| {
                let dtypes = graph.tensor(*a).zip(graph.tensor(*b));
                graph.is_constant(*a) && dtypes.is_some_and(|(a, b)| a.dtype == b.dtype)
            })
    };
    if !mergeable(id) {
        return Vec::new();
    }
    let mut users: Vec<OpId> = graph.uses(first[0]).into_iter().map(|user| user.op).collect();
    users.dedup();
    users.retain(|user| mergeable(*user));
    users.sort_by_key(|user| graph.place(*user));
    users
}

/// What a weight is joined from, itself where it is not: joins of joins are not canonical.
fn parts(graph: &Graph, weight: Value) -> Vec<Value> {
    match graph.producer::<Concat>(weight) {
        Some((concat, _)) => graph.operands(concat),
        None => vec![weight],
    }
}

/// `layers.0.attn.q`, `layers.0.attn.k` to `layers.0.attn.q_k`: joined in the first part in which they differ.
fn joined_name<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<Vec<&str>> = names.map(|name| name.split('.').collect()).collect();
    let part = |name: &[&'a str], at: usize| name.get(at).or(name.last()).copied().unwrap_or_default();
    let mut joined: Vec<String> = names.first().into_iter().flatten().map(|part| (*part).to_owned()).collect();
    let differs = |at: &usize| names.iter().any(|name| part(name, *at) != joined[*at]);
    let at = (0..joined.len()).find(differs).unwrap_or(joined.len().saturating_sub(1));
    let parts: Vec<&str> = names.iter().map(|name| part(name, at)).collect();
    if let Some(place) = joined.get_mut(at) {
        *place = parts.join("_");
    }
    joined.join(".")
}
