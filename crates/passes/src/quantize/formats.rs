//! The formats that depend only on the weights: round-to-nearest.

use ir::DType;
use ir::ops::QuantizeBlocks;
use ir::{Graph, OpId, Patch, Value};

use super::{Codes, Layers, each_linear, operands, over_codes};
use crate::{Changed, Numerics, Pass, PassContext, PassError};

/// Neighbours along K that share a scale.
pub(crate) const GROUP: u32 = 128;

// The percentages are one and a half times what the filetests find, or more: 0.5 for 8 bits, 3.6 for three bits of
// mantissa on both sides, 10.5 for 4 bits.
macro_rules! formats {
    ($($(#[doc = $doc:literal])+ $pass:ident = $rule:ident, $percent:literal;)+) => {$(
        $(#[doc = $doc])+
        #[derive(Clone, Debug, Default)]
        pub struct $pass {
            /// Which linear layers.
            pub layers: Layers,
        }

        impl Pass for $pass {
            fn summary(&self) -> &'static str {
                concat!($($doc),+).trim_start()
            }

            fn numerics(&self) -> Numerics {
                Numerics::Quantizing { percent: $percent }
            }

            fn run(&self, graph: &mut Graph, _: &PassContext<'_>) -> Result<Changed, PassError> {
                each_linear(graph, &self.layers, stringify!($rule), &$rule)
            }
        }
    )+};
}

formats! {
    /// `linear(x, w) → fused_linear(x, q, s) {quantized = [weight]}` with `q, s = quantize_blocks(w) {to = i8}`.
    QuantizeInt8Weight = int8_weight, 2;
    /// `linear(x, w) → fused_linear(x', q, s', s) {quantized = [x, weight]}`, both operands `quantize_blocks(..) {to =
    /// f8e4m3}` with a scale per 128 activations and per 128 x 128 weights.
    QuantizeFp8Block = fp8_block, 6;
    /// `linear(x, w) → fused_linear(x, q, s) {quantized = [weight]}` with `q, s = quantize_blocks(w) {to = i4, cols =
    /// 128}`.
    QuantizeInt4 = int4, 16;
    /// `linear(x, w) → fused_linear(x', q, s', s) {quantized = [x, weight]}`, both operands `quantize_blocks(..) {to =
    /// i8}` per token and per output: SmoothQuant without channel scaling.
    QuantizeInt8 = int8, 3;
}

fn blocks(to: DType, rows: Option<u32>, cols: Option<u32>) -> QuantizeBlocks {
    QuantizeBlocks { to, rows, cols }
}

/// Blocks that are whole rows.
pub(crate) fn by_row(to: DType) -> QuantizeBlocks {
    blocks(to, None, None)
}

/// The linear layer with quantized weight, and with activations as `x` quantizes them.
pub(crate) fn quantized(
    graph: &Graph,
    id: OpId,
    weight: QuantizeBlocks,
    x: &dyn Fn(&mut Patch, Value) -> Codes,
) -> Option<Patch> {
    let [activations, _] = operands(graph, id)?;
    let mut patch = Patch::new();
    let x = x(&mut patch, activations);
    let weight = weight_codes(graph, id, &mut patch, weight)?;
    over_codes(graph, id, &mut patch, Some(x), weight)?;
    Some(patch)
}

/// The linear layer with only its weight quantized.
fn weight_only(graph: &Graph, id: OpId, weight: QuantizeBlocks) -> Option<Patch> {
    let mut patch = Patch::new();
    let weight = weight_codes(graph, id, &mut patch, weight)?;
    over_codes(graph, id, &mut patch, None, weight)?;
    Some(patch)
}

fn weight_codes(graph: &Graph, id: OpId, patch: &mut Patch, weight: QuantizeBlocks) -> Option<Codes> {
    let [_, numbers] = operands(graph, id)?;
    Some(Codes::of(patch.add(graph, weight, &[numbers.into()])))
}

fn int8_weight(graph: &Graph, id: OpId) -> Option<Patch> {
    weight_only(graph, id, by_row(DType::I8))
}

fn int8(graph: &Graph, id: OpId) -> Option<Patch> {
    let x = by_row(DType::I8);
    quantized(graph, id, by_row(DType::I8), &|patch, value| Codes::of(patch.add(graph, x.clone(), &[value.into()])))
}

fn fp8_block(graph: &Graph, id: OpId) -> Option<Patch> {
    let weight = blocks(DType::F8E4M3, Some(GROUP), Some(GROUP));
    let x = blocks(DType::F8E4M3, None, Some(GROUP));
    quantized(graph, id, weight, &|patch, value| Codes::of(patch.add(graph, x.clone(), &[value.into()])))
}

fn int4(graph: &Graph, id: OpId) -> Option<Patch> {
    weight_only(graph, id, blocks(DType::I4, None, Some(GROUP)))
}
