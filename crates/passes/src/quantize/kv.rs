//! Scales of a quantized KV cache. They are powers of two in the weights around attention: the cache stores `k / s`,
//! and queries are multiplied by `s`; likewise for values and the linear layers after attention. Where no weights can
//! take a scale, as with quantized linear layers, a multiplication is inserted.

use std::collections::BTreeMap;

use ir::ops::{AppendKv, Linear, PagedAttention, RmsNorm, Rope};
use ir::{DType, Graph, OpId, Value};

use super::by_input::{shrink_key, width};
use super::channel_scaling::{FoldInto, rows_of_values, shrunk_norm, shrunk_rows, shrunk_value};
use super::static_scales::stats;
use crate::{Changed, Numerics, Pass, PassContext, PassError};

/// Scales are at most 2 to the power of this, and at least its reciprocal: f16 has range for the products.
const MOST: f32 = 12.0;

/// Scales keys and values of a quantized cache, by the magnitudes of a calibration or by known ones.
#[derive(Clone, Debug, Default)]
pub struct ScaleKv {
    known: Option<BTreeMap<u32, KvMagnitudes>>,
}

/// The largest magnitudes of keys and values of a layer, per head. Without any, the scale is 1.
#[derive(Clone, Debug, Default)]
pub struct KvMagnitudes {
    /// Of keys.
    pub keys: Option<Vec<f32>>,
    /// Of values.
    pub values: Option<Vec<f32>>,
}

impl ScaleKv {
    /// With given magnitudes by layer, instead of those of a calibration.
    pub fn known(layers: BTreeMap<u32, KvMagnitudes>) -> ScaleKv {
        ScaleKv { known: Some(layers) }
    }

    /// The magnitudes of a layer.
    fn magnitudes(&self, ctx: &PassContext<'_>, graph: &Graph, layer: &Layer) -> Result<KvMagnitudes, PassError> {
        if let Some(known) = &self.known {
            return Ok(known.get(&layer.index).cloned().unwrap_or_default());
        }
        let of_heads = |value: Value| {
            let heads = stats(ctx, graph.value_name(value))?.channel_absmax.chunks(layer.head_dim);
            let of_head = |head: &[f32]| head.iter().copied().fold(0.0, f32::max);
            Ok::<_, PassError>(Some(heads.map(of_head).collect()))
        };
        Ok(KvMagnitudes { keys: of_heads(layer.k)?, values: of_heads(layer.v)? })
    }
}

impl Pass for ScaleKv {
    fn summary(&self) -> &'static str {
        "Keys and values of a quantized cache are divided by a power of two per head, queries and outputs multiplied."
    }

    fn needs_calibration(&self) -> bool {
        self.known.is_none()
    }

    fn numerics(&self) -> Numerics {
        // 2.8 of an f8e4m3 cache, 18 of an i8 cache whose scale is that of an outlier
        Numerics::Quantizing { percent: 28 }
    }

    fn run(&self, graph: &mut Graph, ctx: &PassContext<'_>) -> Result<Changed, PassError> {
        let layers: Vec<Layer> = graph.ops().filter_map(|id| Layer::of(graph, id)).collect();
        let mut changed = false;
        for layer in layers {
            if !ctx.weights.made(&shrink_key(graph.value_name(layer.k))) {
                let magnitudes = self.magnitudes(ctx, graph, &layer)?;
                changed |= layer.scale(graph, ctx, &magnitudes)?;
            }
        }
        Ok(changed.into())
    }
}

/// An op whose results can be scaled through its weights.
#[derive(Clone, Copy, Debug)]
enum Maker {
    /// By the rows of its weight.
    Linear(OpId),
    /// By its norm weight, which is per head or per row.
    Norm(OpId),
    /// By a multiplication after it, for example of quantized values whose scales several heads share.
    Other(Value),
}

impl Maker {
    /// The producer of `x`, or of the operand of its RoPE; `None` if there are other users.
    fn of(graph: &Graph, x: Value) -> Option<Maker> {
        if !graph.used_once(x) || graph.inputs().contains(&x) {
            return None;
        }
        let before = graph.producer::<Rope>(x).and_then(|(rope, _)| graph.operands(rope).first().copied());
        let made = before.filter(|before| graph.used_once(*before) && !graph.inputs().contains(before)).unwrap_or(x);
        let linear = graph.producer::<Linear>(made).map(|(id, _)| Maker::Linear(id));
        let norm = || graph.producer::<RmsNorm>(made).map(|(id, _)| Maker::Norm(id));
        Some(linear.or_else(norm).unwrap_or(Maker::Other(made)))
    }

    /// Whether all heads share one norm weight.
    fn is_shared(self, graph: &Graph) -> bool {
        matches!(self, Maker::Norm(norm) if graph.cast::<RmsNorm>(norm).is_some_and(|norm| norm.head_dim.is_some()))
    }

    /// Multiplies the channels of the result, those of each head by one factor if heads share a norm weight.
    fn multiply(self, graph: &mut Graph, ctx: &PassContext<'_>, by: &[f32]) -> Result<(), PassError> {
        let (op, patch) = match self {
            Maker::Linear(linear) => {
                let rows: Vec<usize> = (0..by.len()).collect();
                (linear, shrunk_rows(graph, ctx, linear, &rows, by)?)
            }
            Maker::Norm(norm) => {
                let weight = graph.operands(norm)[1];
                (norm, shrunk_norm(graph, ctx, norm, &by[..width(graph, weight)?]))
            }
            Maker::Other(value) => (value.op, shrunk_value(graph, ctx, value, by)),
        };
        Ok(graph.apply("scale-kv", op, patch)?)
    }
}

/// The keys and values of a layer, and the ops that their scales affect.
#[derive(Debug)]
struct Layer {
    index: u32,
    dtype: DType,
    head_dim: usize,
    /// Query heads per key and value head.
    sharers: usize,
    k: Value,
    v: Value,
    mixed: Value,
    /// The producers of queries and keys.
    makers: Option<[Maker; 2]>,
    /// The linear layers after attention.
    outs: Vec<OpId>,
}

impl Layer {
    /// The layer of an `append_kv` into a quantized cache, which one attention reads.
    fn of(graph: &Graph, append: OpId) -> Option<Layer> {
        let AppendKv { group, layer: index } = *graph.cast::<AppendKv>(append)?;
        let kv = graph.kv().get(group as usize)?;
        kv.dtype.largest_code()?;
        let [k, v, ..] = graph.operands(append)[..] else { return None };
        let [reader] = graph.uses(graph.result(append))[..] else { return None };
        graph.cast::<PagedAttention>(reader.op)?;
        let (q, mixed) = (*graph.operands(reader.op).first()?, graph.result(reader.op));
        let head_dim = kv.head_dim as usize;
        let heads = width(graph, q).ok()? / head_dim;
        let mut outs: Vec<OpId> = graph.uses(mixed).into_iter().map(|user| user.op).collect();
        outs.sort_by_key(|id| graph.place(*id));
        Some(Layer {
            index,
            dtype: kv.dtype,
            head_dim,
            sharers: heads / kv.kv_heads as usize,
            k,
            v,
            mixed,
            makers: Maker::of(graph, q).zip(Maker::of(graph, k)).map(|(q, k)| [q, k]),
            outs,
        })
    }

    fn scale(&self, graph: &mut Graph, ctx: &PassContext<'_>, magnitudes: &KvMagnitudes) -> Result<bool, PassError> {
        let k_name = graph.value_name(self.k).to_owned();
        let expected = |what: &str| {
            PassError::Unsupported(format!(
                "KV cache scales are folded into the ops around it: `{k_name}`: expected {what} (without a calibration, \
                 --kv-precision fp8 needs no scales)"
            ))
        };
        let [q, k] = self.makers.ok_or_else(|| expected("queries and keys without other users"))?;
        let v = Maker::of(graph, self.v).ok_or_else(|| expected("values without other users"))?;
        let mut keys = self.scales(graph, self.k, magnitudes.keys.as_deref())?;
        if q.is_shared(graph) || k.is_shared(graph) {
            let largest = keys.iter().copied().fold(0.0, f32::max);
            keys.fill(largest);
        }
        let values = self.scales(graph, self.v, magnitudes.values.as_deref())?;

        let shrunk = |scales: &[f32]| scales.iter().map(|scale| 1.0 / scale).collect::<Vec<f32>>();
        ctx.weights.add(&shrink_key(&k_name), DType::F32, &self.channels(&shrunk(&keys), 1));
        if keys.iter().any(|scale| *scale != 1.0) {
            k.multiply(graph, ctx, &self.channels(&shrunk(&keys), 1))?;
            q.multiply(graph, ctx, &self.channels(&keys, self.sharers))?;
        }
        if values.iter().any(|scale| *scale != 1.0) {
            let factors = self.channels(&values, self.sharers);
            match v {
                Maker::Linear(linear) if self.outs.iter().all(|out| graph.cast::<Linear>(*out).is_some()) => {
                    let rows = rows_of_values(factors.len(), self.head_dim, self.sharers);
                    FoldInto::LinearRows { linear, rows }.scale(graph, ctx, self.mixed, &self.outs, &factors)?;
                }
                _ => {
                    v.multiply(graph, ctx, &self.channels(&shrunk(&values), 1))?;
                    Maker::Other(self.mixed).multiply(graph, ctx, &factors)?;
                }
            }
        }
        Ok(keys.iter().chain(&values).any(|scale| *scale != 1.0))
    }

    /// A scale for each head of keys or values: the power of two with which none saturates.
    fn scales(&self, graph: &Graph, of: Value, absmax: Option<&[f32]>) -> Result<Vec<f32>, PassError> {
        let largest = self.dtype.largest_code().unwrap_or(1.0);
        let scale = |absmax: f32| (absmax / largest).log2().ceil().clamp(-MOST, MOST).exp2();
        let heads = width(graph, of)? / self.head_dim;
        let Some(absmax) = absmax else { return Ok(vec![1.0; heads]) };
        if absmax.len() != heads {
            let (name, found) = (graph.value_name(of), absmax.len());
            return Err(PassError::Input(format!(
                "`{name}` has {heads} heads, expected as many magnitudes, found {found}"
            )));
        }
        let scale = |absmax: &f32| if *absmax > 0.0 && absmax.is_finite() { scale(*absmax) } else { 1.0 };
        Ok(absmax.iter().map(scale).collect())
    }

    /// Values per head, repeated for each of `each` channels.
    fn channels(&self, heads: &[f32], each: usize) -> Vec<f32> {
        heads.iter().flat_map(|value| std::iter::repeat_n(*value, each * self.head_dim)).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use ir::{DerivedWeights, Environment, HostTensor, KvState, NoWeights, OpSet, evaluate, text};

    use super::*;
    use crate::calibration::{Activations, Calibration, ClipMethod, Rows, TensorStats};

    const ATTENTION: &str = r#"graph @attention(%x: f32[4, 8], %positions: i32[4], %query_starts: i32[2], %block_table: i32[1, 1]) {
  kv 0 : KV {layers = 1, kv_heads = 2, head_dim = 4, block_tokens = 4}
  %frequencies = rope_frequencies {dim = 4, theta = 10000.0, scaling = default} : f32[2]
  %q.weight = constant @"q" : f32[16, 8]
  %q.narrow = cast %q.weight {to = bf16} : bf16[16, 8]
  %q = linear %x, %q.narrow : f32[4, 16]
  %q.rope = rope %q, %positions, %frequencies {head_dim = 4} : f32[4, 16]
  %k.weight = constant @"k" : bf16[8, 8]
  %k.bias = constant @"k.bias" : bf16[8]
  %k = linear %x, %k.weight, %k.bias : f32[4, 8]
  %k.rope = rope %k, %positions, %frequencies {head_dim = 4} : f32[4, 8]
  %v.weight = constant @"v" : bf16[8, 8]
  %v = linear %x, %v.weight : f32[4, 8]
  %cache = append_kv %k.rope, %v, %positions, %query_starts, %block_table {group = 0, layer = 0} : effect
  %mixed = paged_attention %q.rope, %cache, %positions, %query_starts, %block_table {group = 0, layer = 0, head_dim = 4, kv_heads = 2, scale = 0.5} : f32[4, 16]
  %out.weight = constant @"out" : bf16[8, 16]
  %out = linear %mixed, %out.weight : f32[4, 8]
  return %out
}"#;

    struct Nothing;

    impl Activations for Nothing {
        fn rows(&self, _: &str) -> Option<Rows> {
            None
        }

        fn hessian(&self, _: &str) -> Option<Vec<f32>> {
            None
        }
    }

    /// With an op after each linear layer, and before the last, that has no weights to multiply.
    fn without_weights() -> String {
        let cast = |text: String, name: &str, shape: &str| {
            let (made, ty) = (format!("%{name} = linear"), format!(" : f32[{shape}]\n"));
            let at = text.find(&made).map_or(0, |at| at + text[at..].find(&ty).map_or(0, |end| end + ty.len()));
            let cast = format!("  %{name} = cast %{name}.made {{to = f32}} : f32[{shape}]\n");
            let text = [&text[..at], &cast, &text[at..]].concat();
            text.replacen(&made, &format!("%{name}.made = linear"), 1)
        };
        let text = cast(cast(cast(ATTENTION.to_owned(), "q", "4, 16"), "k", "4, 8"), "v", "4, 8");
        let last = "  %out.weight = constant";
        let read = "  %read = cast %mixed {to = f32} : f32[4, 16]\n";
        text.replace(last, &format!("{read}{last}")).replace("linear %mixed", "linear %read")
    }

    fn parse(kv: &str) -> Graph {
        parse_text(ATTENTION, kv)
    }

    fn parse_text(text: &str, kv: &str) -> Graph {
        let text = text.replace("KV", kv);
        text::parse(&text, &OpSet::standard()).map_or_else(|error| panic!("{error}"), |parsed| parsed.graph)
    }

    /// Patternless numbers between -1 and 1.
    fn numbers(count: usize, seed: f32) -> Vec<f32> {
        (0..count).map(|index| (index as f32 * 12.9898 + seed).sin()).collect()
    }

    fn output(graph: &Graph, weights: &DerivedWeights<'_>) -> Vec<f32> {
        let inputs = HashMap::from([
            ("x".to_owned(), HostTensor::f32([4, 8], numbers(32, 0.5))),
            ("positions".to_owned(), HostTensor::i32([4], vec![0, 1, 2, 3])),
            ("query_starts".to_owned(), HostTensor::i32([2], vec![0, 4])),
            ("block_table".to_owned(), HostTensor::i32([1, 1], vec![0])),
        ]);
        let env = Environment { weights, inputs, ..Environment::empty() };
        evaluate(graph, &env, &mut KvState::new(graph.kv())).unwrap()[0].floats().to_vec()
    }

    /// Keys of the first head are small, its values large, and the other way round in the second head: without scales,
    /// neither is representable.
    #[test]
    fn codes_of_small_and_large_heads_mean_what_floats_did() {
        let (none, exact) = (NoWeights, parse("f32"));
        let source = DerivedWeights::over(&none);
        let by_head = |mut values: Vec<f32>, first: f32, second: f32| {
            let half = values.len() / 2;
            values.iter_mut().enumerate().for_each(|(at, value)| *value *= if at < half { first } else { second });
            values
        };
        source.add("q", DType::F32, &by_head(numbers(128, 1.0), 100.0, 0.01));
        source.add("k", DType::BF16, &by_head(numbers(64, 2.0), 0.001, 300.0));
        source.add("k.bias", DType::BF16, &by_head(numbers(8, 3.0), 0.001, 300.0));
        source.add("v", DType::BF16, &by_head(numbers(64, 4.0), 1000.0, 0.001));
        source.add("out", DType::BF16, &by_head(numbers(128, 5.0), 1.0, 1.0));
        let mut calibration = Calibration::new("seeded", 1, ClipMethod::MinMax);
        for (name, first, second) in [("k.rope", 0.004, 1500.0), ("v", 4000.0, 0.004)] {
            let stats = TensorStats::of(8, &by_head(vec![1.0; 8], first, second));
            calibration.tensors.insert(name.to_owned(), stats);
        }
        let expected = output(&exact, &DerivedWeights::over(&source));
        let largest = expected.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
        let off = |found: &[f32]| {
            let apart = found.iter().zip(&expected).map(|(a, b)| (a - b).abs());
            apart.fold(0.0, f32::max) / largest
        };
        // twice half a unit of 3 bits: keys and values are rounded
        let (with, without) = (ATTENTION.to_owned(), without_weights());
        let cases =
            [(&with, "f8e4m3", 0.125), (&with, "i8", 0.05), (&without, "f8e4m3", 0.125), (&without, "i8", 0.05)];
        for (text, kv, most) in cases {
            let mut graph = parse_text(text, kv);
            let weights = DerivedWeights::over(&source);
            let plain = off(&output(&graph, &weights));
            let ctx = PassContext::new(&weights).calibrated(&calibration, &Nothing);
            assert_eq!(ScaleKv::default().run(&mut graph, &ctx), Ok(Changed::Yes));
            let scaled = off(&output(&graph, &weights));
            assert!(scaled < most && plain > 4.0 * scaled, "{kv}: {plain} before, {scaled} after");
            assert_eq!(ScaleKv::default().run(&mut graph, &ctx), Ok(Changed::No));
            // without a calibration, by given magnitudes
            let heads = |first, second| Some(vec![first, second]);
            let magnitudes = KvMagnitudes { keys: heads(0.004, 1500.0), values: heads(4000.0, 0.004) };
            let known = ScaleKv::known(BTreeMap::from([(0, magnitudes)]));
            assert!(!known.needs_calibration());
            let (mut graph, again) = (parse_text(text, kv), DerivedWeights::over(&source));
            assert_eq!(known.run(&mut graph, &PassContext::new(&again)), Ok(Changed::Yes));
            assert_eq!(off(&output(&graph, &again)), scaled);
            // floats need no scales
            assert_eq!(ScaleKv::default().run(&mut parse("bf16"), &ctx), Ok(Changed::No));
        }
    }
}
