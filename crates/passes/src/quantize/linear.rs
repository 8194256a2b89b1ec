//! Which linear layers are quantized, and a linear layer with quantized operands.

use std::collections::BTreeSet;

use ir::ops::{Epilogue, Epilogues, FusedLinear, Linear, LinearParts, Quantized};
use ir::{Graph, OpId, Patch, PatchValue, Value};

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
pub(crate) struct QuantizedValue {
    pub codes: PatchValue,
    pub scale: PatchValue,
    pub zero_point: Option<PatchValue>,
}

/// Replaces a linear layer by a quantized one. Without a quantized `x`, that is unchanged.
pub(crate) fn over_quantized(
    graph: &Graph,
    id: OpId,
    patch: &mut Patch,
    x: Option<QuantizedValue>,
    weight: QuantizedValue,
) -> Option<PatchValue> {
    let parts = LinearParts::of(graph, id)?;
    let quantized = Quantized { x: x.is_some(), weight: true, zero_point: weight.zero_point.is_some() };
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
        weight.zero_point,
        bias.map(Into::into),
    ];
    let operands: Vec<PatchValue> = operands.into_iter().flatten().collect();
    let fused = patch.add(graph, FusedLinear { prologue: None, quantized, epilogue, to, quantize_to: None }, &operands);
    patch.replace(graph.result(id), fused);
    Some(fused)
}

/// Activations and weight of a linear layer.
pub(crate) fn operands(graph: &Graph, id: OpId) -> Option<[Value; 2]> {
    let parts = LinearParts::of(graph, id)?;
    Some([parts.x, parts.weight])
}
