//! One large matrix product instead of several small ones: q/k/v, gate/up.

use ir::ops::{Concat, Epilogue, LinearParts, Scales, Split};
use ir::scale_block;
use ir::{Graph, OpId, Patch, PatchValue, Value};

use crate::{Numerics, rewrite_pass};

rewrite_pass! {
    /// `linear(x, a), linear(x, b), … → split(linear(x, concat(a, b, …)))`, if the weights are constants of one dtype
    /// (with scales if quantized), the results have one dtype, and all or none have a bias. Program order is kept, so
    /// q, k, v are packed in that order.
    pub struct MergeLinears(Numerics::Exact) { merge_linears }
}

fn merge_linears(graph: &Graph, id: OpId) -> Option<Patch> {
    let siblings = siblings(graph, id)?;
    let sizes = siblings.iter().map(|(linear, _)| u32::try_from(graph.tensor(graph.result(*linear))?.width()?).ok());
    let sizes: Vec<u32> = sizes.collect::<Option<_>>()?;
    let name = joined_name(siblings.iter().map(|(linear, _)| graph.value_name(graph.result(*linear))));

    let mut patch = Patch::new();
    let mut joined = |suffix: &str, of: &dyn Fn(&LinearParts) -> Option<Value>| {
        let values: Vec<Value> = siblings.iter().filter_map(|(_, linear)| of(linear)).collect();
        if values.is_empty() {
            return None;
        }
        let values: Vec<PatchValue> =
            values.into_iter().flat_map(|value| parts(graph, value)).map(Into::into).collect();
        let value = patch.add(graph, Concat {}, &values);
        patch.name(format!("{name}.{suffix}"));
        Some(value)
    };
    let weight = joined("weight", &|linear| Some(linear.weight))?;
    let scale = joined("scale", &|linear| linear.scales.weight);
    let zero = joined("zero", &|linear| linear.scales.zero_point);
    let bias = joined("bias", &|linear| linear.operand(Epilogue::Bias));
    let x = siblings[0].1.x;
    let operands = [Some(x.into()), Some(weight), siblings[0].1.scales.x.map(PatchValue::from), scale, zero, bias];
    let merged = patch.add_op(graph, graph.op(id).clone(), &operands.into_iter().flatten().collect::<Vec<_>>());
    patch.name(name);
    let split = patch.add(graph, Split { sizes }, &[merged]);
    for ((linear, _), part) in siblings.iter().zip(0..) {
        patch.replace(graph.result(*linear), split.result(part));
    }
    Some(patch)
}

/// The linear layers with the same `x` that can be merged with this one, which is the first of them.
fn siblings(graph: &Graph, id: OpId) -> Option<Vec<(OpId, LinearParts)>> {
    let first = alone(graph, id)?;
    let same_type = |a: &Value, b: &Value| {
        let types = graph.tensor(*a).zip(graph.tensor(*b));
        graph.is_constant(*a) && types.is_some_and(|(a, b)| a.dtype == b.dtype && a.shape.get(1) == b.shape.get(1))
    };
    let block = block_rows(graph, &first);
    let mergeable = |linear: &LinearParts| {
        let (theirs, own) = (constants(linear), constants(&first));
        linear.x == first.x
            && block_rows(graph, linear) == block
            && theirs.len() == own.len()
            && linear.scales.x == first.scales.x
            && theirs.iter().zip(&own).all(|(a, b)| same_type(a, b))
    };
    let mut users: Vec<OpId> = graph.uses(first.x).into_iter().map(|user| user.op).collect();
    users.dedup();
    users.sort_by_key(|user| graph.place(*user));
    let siblings = users.into_iter().filter(|user| graph.op(*user) == graph.op(id));
    let siblings = siblings.filter_map(|user| Some((user, alone(graph, user)?)));
    let siblings: Vec<_> = siblings.filter(|(_, linear)| mergeable(linear)).collect();
    (siblings.len() > 1 && siblings[0].0 == id).then_some(siblings)
}

/// The parts of a linear layer with nothing but a bias fused, and scales that can be concatenated by rows.
fn alone(graph: &Graph, id: OpId) -> Option<LinearParts> {
    let parts = LinearParts::of(graph, id)?;
    let alone = parts.prologue.is_none()
        && parts.quantize_to.is_none()
        && matches!(parts.epilogues().as_slice(), [] | [Epilogue::Bias]);
    let by_rows = parts.scales.weight.is_none() || block_rows(graph, &parts).is_some();
    (alone && by_rows).then_some(parts)
}

/// The number of rows of a quantized weight that share scales, if scales of several weights can be concatenated: a
/// single scale for all rows cannot, and blocks of rows must end where the weight does.
fn block_rows(graph: &Graph, parts: &LinearParts) -> Option<u64> {
    let rows = |value: Value| graph.tensor(value)?.shape.first()?.as_const();
    let (rows, scales) = (rows(parts.weight)?, rows(parts.scales.weight?)?);
    let block = scale_block(rows, scales).filter(|_| scales > 1)?;
    rows.is_multiple_of(block).then_some(block)
}

/// The operands to concatenate: all except the activations and their scales.
fn constants(linear: &LinearParts) -> Vec<Value> {
    let Scales { weight, zero_point, .. } = linear.scales;
    [Some(linear.weight), weight, zero_point, linear.operand(Epilogue::Bias)].into_iter().flatten().collect()
}

/// The operands of a concatenated weight, or the weight itself: nested joins are not canonical.
fn parts(graph: &Graph, weight: Value) -> Vec<Value> {
    match graph.producer::<Concat>(weight) {
        Some((concat, _)) => graph.operands(concat),
        None => vec![weight],
    }
}

/// `layers.0.attn.q`, `layers.0.attn.k` to `layers.0.attn.q_k`: merged at the first component in which they differ.
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
