//! Channel scaling: the channels of activations are divided by factors, the columns of the linear layers over them
//! multiplied, which moves the difficulty of quantization from one to the other. (SmoothQuant, arXiv 2211.10438; AWQ,
//! arXiv 2306.00978.)
//!
//! Factors are powers of two: all products are exact, even if weights have 8 bits of precision.

use ir::ops::{AppendKv, Cast, Constant, LayerNorm, Linear, LinearParts, Mul, PagedAttention, RmsNorm};
use ir::{DType, Graph, OpId, Patch, PatchValue, TensorType, Value};

use super::by_input::{shrink_key, width};
use crate::{PassContext, PassError};

/// Factors are at most 2 to the power of this, and at least its reciprocal: f16 has range for them.
const MOST: f32 = 12.0;

/// What the division of activations is folded into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum FoldInto {
    /// The weight of the norm that computes them.
    NormWeight(OpId),
    /// The rows of a linear layer before them: channel `c` comes from row `rows[c]`.
    LinearRows { linear: OpId, rows: Vec<usize> },
    /// An op of its own.
    OwnOp,
}

impl FoldInto {
    /// The fold for the channels of `x`.
    pub fn of(graph: &Graph, ctx: &PassContext<'_>, x: Value) -> FoldInto {
        let taken = ctx.weights.made(&shrink_key(graph.value_name(x)));
        let found =
            if taken || !only_linears(graph, x) { None } else { norm(graph, x).or_else(|| rows(graph, ctx, x)) };
        found.unwrap_or(FoldInto::OwnOp)
    }

    /// Makes statistics of channels that must share a factor equal: all become their maximum.
    pub fn share(&self, channels: &mut [f32]) {
        let FoldInto::LinearRows { rows, .. } = self else { return };
        let mut largest = vec![0.0f32; channels.len()];
        channels.iter().zip(rows).for_each(|(value, row)| largest[*row] = largest[*row].max(*value));
        channels.iter_mut().zip(rows).for_each(|(value, row)| *value = largest[*row]);
    }
}

/// Whether only linear layers with constant weights read `x`.
fn only_linears(graph: &Graph, x: Value) -> bool {
    let outside = graph.outputs().iter().any(|output| output.value == x);
    let linear = |id: OpId| graph.cast::<Linear>(id).is_some() && graph.is_constant(graph.operands(id)[1]);
    !outside && graph.uses(x).iter().all(|user| linear(user.op) && graph.operands(user.op)[0] == x)
}

fn norm(graph: &Graph, x: Value) -> Option<FoldInto> {
    let rms_norm = graph.producer::<RmsNorm>(x).map(|(norm, _)| norm);
    let norm = rms_norm.or_else(|| graph.producer::<LayerNorm>(x).map(|(norm, _)| norm))?;
    let constants = &graph.operands(norm)[1..];
    constants.iter().all(|constant| graph.is_constant(*constant)).then_some(FoldInto::NormWeight(norm))
}

/// `x = a * linear(..)`, or the attention over values that a linear layer computes.
fn rows(graph: &Graph, ctx: &PassContext<'_>, x: Value) -> Option<FoldInto> {
    // its weight is a tensor of the checkpoint, whose rows can be scaled as they are read
    let foldable = |value: Value| {
        let (linear, _) = graph.producer::<Linear>(value).filter(|_| graph.used_once(value))?;
        let (_, constant) = graph.producer::<Constant>(LinearParts::of(graph, linear)?.weight)?;
        (!ctx.weights.made(&constant.key)).then_some(linear)
    };
    if let Some((mul, _)) = graph.producer::<Mul>(x) {
        let full = |value: &Value| graph.tensor(*value) == graph.tensor(x);
        let linear = graph.operands(mul).into_iter().rev().filter(full).find_map(foldable)?;
        return Some(FoldInto::LinearRows { linear, rows: (0..graph.tensor(x)?.width()? as usize).collect() });
    }
    let (_, attention) = graph.producer::<PagedAttention>(x)?;
    let [_, cache, ..] = graph.operands(x.op)[..] else { return None };
    let (append, _) = graph.producer::<AppendKv>(cache).filter(|_| graph.used_once(cache))?;
    let kept = graph.kv().get(attention.group as usize)?.dtype;
    let linear = foldable(*graph.operands(append).get(1)?).filter(|_| kept.is_float())?;
    let (head_dim, channels) = (attention.head_dim as usize, graph.tensor(x)?.width()? as usize);
    let sharers = (channels / head_dim / attention.kv_heads as usize).max(1);
    Some(FoldInto::LinearRows { linear, rows: rows_of_values(channels, head_dim, sharers) })
}

/// The value channel of each channel after attention, if this many query heads share a head.
pub(crate) fn rows_of_values(channels: usize, head_dim: usize, sharers: usize) -> Vec<usize> {
    (0..channels).map(|channel| channel / head_dim / sharers * head_dim + channel % head_dim).collect()
}

/// Factors `x^a / w^b` of channel magnitudes for each of the blends, the first of all ones. Each is a power of two;
/// equal blends are listed once.
pub(crate) fn candidates(x: &[f32], w: &[f32], blends: impl Iterator<Item = (f32, f32)>) -> Vec<Vec<f32>> {
    let mut all = vec![vec![1.0; x.len()]];
    for (a, b) in blends {
        // all-zero channels may have any factor
        let exponent = |(x, w): (&f32, &f32)| (*x > 0.0 && *w > 0.0).then(|| a * x.log2() - b * w.log2());
        let exponents: Vec<Option<f32>> = x.iter().zip(w).map(exponent).collect();
        let known = || exponents.iter().flatten().copied();
        let (least, most) = (known().fold(f32::MAX, f32::min), known().fold(f32::MIN, f32::max));
        let middle = (least + most) / 2.0;
        let factor = |exponent: &Option<f32>| match exponent {
            Some(exponent) => (exponent - middle).round().clamp(-MOST, MOST).exp2(),
            None => 1.0,
        };
        let factors: Vec<f32> = exponents.iter().map(factor).collect();
        if !all.contains(&factors) {
            all.push(factors);
        }
    }
    all
}

impl FoldInto {
    /// Divides the channels of `x` by factors, and multiplies the columns of the linear layers over it: of all if the
    /// division is folded into the producer of `x`, otherwise of `linears`. Returns their new input.
    pub fn scale(
        &self,
        graph: &mut Graph,
        ctx: &PassContext<'_>,
        x: Value,
        linears: &[OpId],
        factors: &[f32],
    ) -> Result<Value, PassError> {
        if factors.iter().all(|factor| *factor == 1.0) {
            return Ok(x);
        }
        let name = graph.value_name(x).to_owned();
        let shrink: Vec<f32> = factors.iter().map(|factor| 1.0 / factor).collect();
        match self {
            FoldInto::NormWeight(norm) => {
                let patch = shrunk_norm(graph, ctx, *norm, &shrink);
                graph.apply("smooth", *norm, patch)?;
            }
            FoldInto::LinearRows { linear, rows } => {
                let patch = shrunk_rows(graph, ctx, *linear, rows, &shrink)?;
                graph.apply("smooth", *linear, patch)?;
            }
            FoldInto::OwnOp => {}
        }
        let mut edit = Edit { graph, ctx, patch: Patch::new() };
        let (linears, read, result) = if *self == FoldInto::OwnOp {
            // each format may have scaled it for its own linear layers
            let names =
                (0..).map(|index| if index == 0 { format!("{name}.smooth") } else { format!("{name}.smooth.{index}") });
            let smoothed = names.into_iter().find(|name| graph.find(name).is_none()).expect("some number is free");
            let read = edit.times(x.into(), &format!("{smoothed}.by"), &shrink);
            edit.patch.name(smoothed.clone());
            (linears.to_vec(), read, smoothed)
        } else {
            ctx.weights.add(&shrink_key(&name), DType::F32, &shrink);
            let x = graph.find(&name).ok_or_else(|| PassError::Other(format!("`{name}` no longer exists")))?;
            let mut all: Vec<OpId> = graph.uses(x).into_iter().map(|user| user.op).collect();
            all.sort_by_key(|id| graph.place(*id));
            (all, x.into(), name.clone())
        };
        for linear in &linears {
            let operands = graph.operands(*linear);
            let mut operands: Vec<PatchValue> = operands.into_iter().map(Into::into).collect();
            operands[1] = edit.times(operands[1], &format!("{result}.grow"), factors);
            operands[0] = read;
            let grown = edit.patch.add_op(graph, graph.op(*linear).clone(), &operands);
            edit.patch.replace(graph.result(*linear), grown);
        }
        let patch = edit.patch;
        let first = linears.first().copied().ok_or_else(|| PassError::Other(format!("nothing reads `{name}`")))?;
        graph.apply("smooth", first, patch)?;
        graph.find(&result).ok_or_else(|| PassError::Other(format!("`{name}` was not scaled")))
    }
}

/// A patch under construction, whose constants are stored with the weights.
struct Edit<'a> {
    graph: &'a Graph,
    ctx: &'a PassContext<'a>,
    patch: Patch,
}

impl Edit<'_> {
    /// A value times a row of factors, in its dtype: for each dtype the row has its own key.
    fn times(&mut self, value: PatchValue, key: &str, by: &[f32]) -> PatchValue {
        let dtype = self.patch.tensor(self.graph, value).map_or(DType::F32, |ty| ty.dtype);
        let key = self.ctx.weights.keep(&format!("{key}.{dtype}"), dtype, by);
        let ty = TensorType { dtype, shape: vec![(by.len() as u64).into()] };
        let row = self.patch.add(self.graph, Constant { key, ty }, &[]);
        self.patch.add(self.graph, Mul {}, &[value, row])
    }
}

/// The norm with scaled weight and, if it has one, bias.
pub(crate) fn shrunk_norm(graph: &Graph, ctx: &PassContext<'_>, norm: OpId, shrink: &[f32]) -> Patch {
    let mut operands: Vec<PatchValue> = graph.operands(norm).into_iter().map(Into::into).collect();
    let key = shrink_key(graph.value_name(graph.result(norm)));
    let mut edit = Edit { graph, ctx, patch: Patch::new() };
    for operand in &mut operands[1..] {
        *operand = edit.times(*operand, &key, shrink);
    }
    let smoothed = edit.patch.add_op(graph, graph.op(norm).clone(), &operands);
    edit.patch.replace(graph.result(norm), smoothed);
    edit.patch
}

/// A value times factors per channel, if its producer cannot take them: the producer gets another name.
pub(crate) fn shrunk_value(graph: &Graph, ctx: &PassContext<'_>, value: Value, shrink: &[f32]) -> Patch {
    let operands: Vec<PatchValue> = graph.operands(value.op).into_iter().map(Into::into).collect();
    let mut edit = Edit { graph, ctx, patch: Patch::new() };
    let made = edit.patch.add_op(graph, graph.op(value.op).clone(), &operands);
    let shrunk = edit.times(made, &shrink_key(graph.value_name(value)), shrink);
    edit.patch.replace(value, shrunk);
    edit.patch
}

/// The linear layer with each row multiplied by the factor of its channel. Its weight is a tensor of the checkpoint, or
/// a cast of one.
pub(crate) fn shrunk_rows(
    graph: &Graph,
    ctx: &PassContext<'_>,
    linear: OpId,
    rows: &[usize],
    shrink: &[f32],
) -> Result<Patch, PassError> {
    let gone = || PassError::Other("expected a linear layer over a tensor of the checkpoint".to_owned());
    let weight = LinearParts::of(graph, linear).ok_or_else(gone)?.weight;
    let cast = graph.producer::<Cast>(weight).map(|(cast, _)| cast);
    let stored = cast.map_or(weight, |cast| graph.operands(cast)[0]);
    let (_, constant) = graph.producer::<Constant>(stored).ok_or_else(gone)?;
    let mut factors = vec![1.0; width(graph, graph.result(linear))?];
    rows.iter().zip(shrink).for_each(|(row, by)| factors[*row] = *by);
    let key = shrink_key(graph.value_name(graph.result(linear)));
    ctx.weights.add(&key, DType::F32, &factors);
    let mut edit = Edit { graph, ctx, patch: Patch::new() };
    let mut operands: Vec<PatchValue> = graph.operands(linear).into_iter().map(Into::into).collect();
    if let Some(bias) = operands.get_mut(2) {
        *bias = edit.times(*bias, &key, &factors);
    }
    let key = format!("{}.smooth", constant.key);
    let columns = constant.ty.width().ok_or_else(gone)?;
    ctx.weights.add_scaled_rows(&key, &constant.key, constant.ty.dtype, columns, factors);
    operands[1] = edit.patch.add(graph, Constant { key, ty: constant.ty.clone() }, &[]);
    if let Some(cast) = cast {
        operands[1] = edit.patch.add_op(graph, graph.op(cast).clone(), &[operands[1]]);
    }
    let smoothed = edit.patch.add_op(graph, graph.op(linear).clone(), &operands);
    edit.patch.replace(graph.result(linear), smoothed);
    Ok(edit.patch)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use ir::{DerivedWeights, Environment, HostTensor, KvState, NoWeights, OpSet, evaluate, text};
    use proptest::prelude::*;

    use super::super::Layers;
    use super::super::by_input::{find, inputs, members};
    use super::*;

    const BLOCK: &str = r#"graph @block(%x: bf16[3, 8], %q: bf16[3, 16], %k: bf16[3, 8], %positions: i32[3], %query_starts: i32[2], %block_table: i32[1, 1]) {
  kv 0 : bf16 {layers = 1, kv_heads = 2, head_dim = 4, block_tokens = 4}
  %gain = constant @"gain" : bf16[8]
  %normed = rms_norm %x, %gain {eps = 1e-5} : bf16[3, 8]
  %v.weight = constant @"v" : bf16[8, 8]
  %v = linear %normed, %v.weight : bf16[3, 8]
  %cache = append_kv %k, %v, %positions, %query_starts, %block_table {group = 0, layer = 0} : effect
  %mixed = paged_attention %q, %cache, %positions, %query_starts, %block_table {group = 0, layer = 0, head_dim = 4, kv_heads = 2, scale = 0.5} : bf16[3, 16]
  %out.weight = constant @"out" : bf16[8, 16]
  %out = linear %mixed, %out.weight : bf16[3, 8]
  %gate = silu %out : bf16[3, 8]
  %up.weight = constant @"up" : bf16[8, 8]
  %up.bias = constant @"up.bias" : bf16[8]
  %up = linear %out, %up.weight, %up.bias : bf16[3, 8]
  %gated = mul %gate, %up : bf16[3, 8]
  %down.weight = constant @"down" : bf16[8, 8]
  %down = linear %gated, %down.weight : bf16[3, 8]
  %y = silu %down : bf16[3, 8]
  return %y
}"#;

    fn block() -> Graph {
        text::parse(BLOCK, &OpSet::standard()).map_or_else(|error| panic!("{error}"), |parsed| parsed.graph)
    }

    fn folds(graph: &Graph, ctx: &PassContext<'_>) -> Vec<(String, FoldInto)> {
        let fold = |name: &String| FoldInto::of(graph, ctx, find(graph, name).unwrap());
        inputs(graph, &Layers::Inner).into_iter().map(|name| (name.clone(), fold(&name))).collect()
    }

    #[test]
    fn each_input_has_its_fold() {
        let (graph, none) = (block(), NoWeights);
        let weights = DerivedWeights::over(&none);
        let folds = folds(&graph, &PassContext::new(&weights));
        let names: Vec<&str> = folds.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["gated", "out", "mixed", "normed"]);
        assert!(matches!(&folds[0].1, FoldInto::LinearRows { rows, .. } if *rows == (0..8).collect::<Vec<_>>()));
        // the gate reads it, too
        assert_eq!(folds[1].1, FoldInto::OwnOp);
        let shared = [0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 6, 7, 4, 5, 6, 7];
        assert!(matches!(&folds[2].1, FoldInto::LinearRows { rows, .. } if *rows == shared));
        assert!(matches!(folds[3].1, FoldInto::NormWeight(_)));
        let mut channels = [1.0, 0.0, 0.0, 0.0, 3.0, 2.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 9.0];
        folds[2].1.share(&mut channels);
        assert_eq!(channels, [3.0, 2.0, 0.0, 0.0, 3.0, 2.0, 0.0, 0.0, 1.0, 0.0, 0.0, 9.0, 1.0, 0.0, 0.0, 9.0]);
    }

    #[test]
    fn factors_are_powers_of_two_about_one() {
        let blends = [(1.0, 0.0), (0.5, 0.5), (0.0, 0.0)].into_iter();
        let found = candidates(&[100.0, 1.0, 0.0], &[0.01, 1.0, 1.0], blends);
        assert_eq!(found, [vec![1.0, 1.0, 1.0], vec![8.0, 0.125, 1.0]]);
    }

    /// Two formats, each of which scales the same activations for its own linear layer.
    #[test]
    fn formats_smooth_for_their_own_linears() {
        let text = r#"graph @two(%x: bf16[3, 4]) {
  %a.weight = constant @"a" : bf16[4, 4]
  %a = linear %x, %a.weight : bf16[3, 4]
  %b.weight = constant @"b" : bf16[4, 4]
  %b = linear %x, %b.weight : bf16[3, 4]
  return %a, %b
}"#;
        let mut graph = text::parse(text, &OpSet::standard()).unwrap().graph;
        let none = NoWeights;
        let weights = DerivedWeights::over(&none);
        let numbers: Vec<f32> = (0..16).map(|index| index as f32 - 7.0).collect();
        ["a", "b"].into_iter().for_each(|key| weights.add(key, DType::BF16, &numbers));
        let ctx = PassContext::new(&weights);
        let values_of = |graph: &Graph| {
            let inputs = HashMap::from([("x".to_owned(), HostTensor::f32([3, 4], numbers[..12].to_vec()))]);
            let env = Environment { weights: &weights, inputs, ..Environment::empty() };
            evaluate(graph, &env, &mut KvState::new(graph.kv())).unwrap()
        };
        let before = values_of(&graph);
        let smoothed = [("a", 2.0), ("b", 8.0)].map(|(name, factor)| {
            let [x, linear] = ["x", name].map(|name| graph.find(name).unwrap());
            FoldInto::OwnOp.scale(&mut graph, &ctx, x, &[linear.op], &[1.0, factor, 0.5, 1.0]).unwrap()
        });
        assert_ne!(smoothed[0], smoothed[1]);
        assert_eq!(before, values_of(&graph));
    }

    proptest! {
        #[test]
        fn smoothing_changes_no_bit(
            values in prop::collection::vec(-2.0f32..2.0, 24 + 48 + 24),
            made in prop::collection::vec(-1.0f32..1.0, 8 + 64 + 128 + 64 + 8 + 64),
            exponents in prop::collection::vec(-4i32..5, 8),
        ) {
            let (mut graph, none) = (block(), NoWeights);
            let source = DerivedWeights::over(&none);
            let mut made = made.as_slice();
            for (key, size) in [("gain", 8), ("v", 64), ("out", 128), ("up", 64), ("up.bias", 8), ("down", 64)] {
                source.add(key, DType::BF16, &made[..size]);
                made = &made[size..];
            }
            let weights = DerivedWeights::over(&source);
            let ctx = PassContext::new(&weights);
            let input = |from: usize, width: usize| {
                HostTensor::f32([3, width], values[from..from + 3 * width].to_vec()).rounded(DType::BF16)
            };
            let inputs_of = HashMap::from([
                ("x".to_owned(), input(0, 8)),
                ("q".to_owned(), input(24, 16)),
                ("k".to_owned(), input(72, 8)),
                ("positions".to_owned(), HostTensor::i32([3], vec![0, 1, 2])),
                ("query_starts".to_owned(), HostTensor::i32([2], vec![0, 3])),
                ("block_table".to_owned(), HostTensor::i32([1, 1], vec![0])),
            ]);
            let values_of = |graph: &Graph| {
                let env = Environment { weights: &weights, inputs: inputs_of.clone(), ..Environment::empty() };
                evaluate(graph, &env, &mut KvState::new(graph.kv())).unwrap()
            };
            let before = values_of(&graph);
            for x in inputs(&graph, &Layers::Inner) {
                let x = find(&graph, &x).unwrap();
                let linears = members(&graph, &Layers::Inner, x);
                let fold = FoldInto::of(&graph, &ctx, x);
                let mut factors: Vec<f32> =
                    (0..width(&graph, x).unwrap()).map(|channel| f32::from(exponents[channel % 8] as i16).exp2()).collect();
                fold.share(&mut factors);
                fold.scale(&mut graph, &ctx, x, &linears, &factors).unwrap();
            }
            prop_assert_eq!(before, values_of(&graph));
        }
    }
}
