//! Quantization: linear layers in 8-bit and 4-bit formats, one per file.

mod assignment;
mod awq;
mod cholesky;
mod format;
mod formats;
mod fp8;
mod gptq;
mod group;
mod kv;
mod rounding;
mod sample;
mod smooth;
mod smoothquant;
mod static_scales;

use std::collections::BTreeSet;

use ir::ops::{Epilogue, Epilogues, FusedLinear, Linear, LinearParts, Quantized};
use ir::{Graph, OpId, Patch, PatchValue, Rule, Value, rewrite};

use crate::{Changed, PassError};

pub use assignment::{Assignment, LinearInfo, linears, unsearched};
pub use awq::QuantizeInt4Awq;
pub use format::Format;
pub use formats::{QuantizeFp8Block, QuantizeInt4, QuantizeInt8Weight};
pub use fp8::QuantizeFp8;
pub use gptq::QuantizeInt4Gptq;
pub use kv::{KvMagnitudes, ScaleKv};
pub use smoothquant::QuantizeInt8Smoothquant;
pub use static_scales::ActivationScales;

/// Sampled rows of activations on which searches measure the output error.
const SEARCH_ROWS: usize = 256;

/// Which linear layers a pass quantizes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Layers {
    /// All, except those whose results are graph outputs: of a language model, lm_head.
    #[default]
    Inner,
    /// Those with these results.
    Named(BTreeSet<String>),
}

impl Layers {
    /// Whether a linear layer is one of them. Its weight must be a constant matrix.
    pub fn contain(&self, graph: &Graph, id: OpId) -> bool {
        let result = graph.result(id);
        let is_linear = graph.cast::<Linear>(id).is_some()
            && graph.operands(id).get(1).is_some_and(|weight| graph.is_constant(*weight));
        is_linear
            && match self {
                Layers::Inner => !graph.outputs().iter().any(|output| output.value == result),
                Layers::Named(names) => names.contains(graph.value_name(result)),
            }
    }
}

/// Quantized values with their scales, while a patch is built.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Codes {
    pub codes: PatchValue,
    pub scale: PatchValue,
    pub zero: Option<PatchValue>,
}

impl Codes {
    /// The two results of `quantize_blocks`.
    pub fn of(blocks: PatchValue) -> Codes {
        Codes { codes: blocks, scale: blocks.result(1), zero: None }
    }
}

/// Applies a rule to each linear layer of `layers` once.
pub(crate) fn each_linear(
    graph: &mut Graph,
    layers: &Layers,
    name: &'static str,
    rule: &dyn Fn(&Graph, OpId) -> Option<Patch>,
) -> Result<Changed, PassError> {
    let apply = |graph: &Graph, id: OpId| if layers.contain(graph, id) { rule(graph, id) } else { None };
    Ok((rewrite(graph, &[Rule { name, apply: &apply }])? > 0).into())
}

/// Replaces a linear layer by a quantized one. Without a quantized `x`, that is unchanged.
pub(crate) fn over_codes(
    graph: &Graph,
    id: OpId,
    patch: &mut Patch,
    x: Option<Codes>,
    weight: Codes,
) -> Option<PatchValue> {
    let parts = LinearParts::of(graph, id)?;
    let quantized = Quantized { x: x.is_some(), weight: true, zero_point: weight.zero.is_some() };
    let bias = parts.operand(Epilogue::Bias);
    let epilogue = Epilogues(bias.iter().map(|_| Epilogue::Bias).collect());
    let to = match x {
        Some(_) => Some(parts.result),
        None => (graph.tensor(parts.x)?.dtype != parts.result).then_some(parts.result),
    };
    let operands = [
        Some(x.map_or(parts.x.into(), |x| x.codes)),
        Some(weight.codes),
        x.map(|x| x.scale),
        Some(weight.scale),
        weight.zero,
        bias.map(Into::into),
    ];
    let operands: Vec<PatchValue> = operands.into_iter().flatten().collect();
    let fused = patch.add(graph, FusedLinear { prologue: None, quantized, epilogue, to, codes: None }, &operands);
    patch.replace(graph.result(id), fused);
    Some(fused)
}

/// Activations and weight of a linear layer.
pub(crate) fn operands(graph: &Graph, id: OpId) -> Option<[Value; 2]> {
    let parts = LinearParts::of(graph, id)?;
    Some([parts.x, parts.weight])
}
