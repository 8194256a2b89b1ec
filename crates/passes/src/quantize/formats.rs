//! The formats that need to know nothing but the weights: each weight is rounded to the nearest code.

use ir::DType;
use ir::ops::QuantizeBlocks;
use ir::{Graph, OpId, Patch};

use super::{Codes, Layers, each_linear, operands, over_codes};
use crate::{Changed, Numerics, Pass, PassContext, PassError};

/// Neighbours along K that share a scale.
pub(crate) const GROUP: u32 = 128;

macro_rules! formats {
    ($($(#[doc = $doc:literal])+ $pass:ident = $rule:ident;)+) => {$(
        $(#[doc = $doc])+
        #[derive(Clone, Debug, Default)]
        pub struct $pass {
            /// Which linears.
            pub layers: Layers,
        }

        impl Pass for $pass {
            fn summary(&self) -> &'static str {
                concat!($($doc),+).trim_start()
            }

            fn numerics(&self) -> Numerics {
                Numerics::Different
            }

            fn run(&self, graph: &mut Graph, _: &PassContext<'_>) -> Result<Changed, PassError> {
                each_linear(graph, &self.layers, stringify!($rule), &$rule)
            }
        }
    )+};
}

formats! {
    /// `linear(x, w) → fused_linear(x, q, s) {scaled = [weight]}` with `q, s = quantize_blocks(w) {to = i8}`.
    QuantizeInt8Weight = int8_weight;
    /// `linear(x, w) → fused_linear(x', q, s', s) {scaled = [x, weight]}`, both sides `quantize_blocks(..) {to = f8e4m3}`.
    QuantizeFp8 = fp8;
    /// The same with a scale for each 128 activations and each 128 x 128 weights.
    QuantizeFp8Block = fp8_block;
    /// `linear(x, w) → fused_linear(x, q, s) {scaled = [weight]}` with `q, s = quantize_blocks(w) {to = i4, cols = 128}`.
    QuantizeInt4 = int4;
}

fn blocks(to: DType, rows: Option<u32>, cols: Option<u32>) -> QuantizeBlocks {
    QuantizeBlocks { to, rows, cols }
}

/// The linear over codes of its weight, and of its activations where they are made, too.
fn quantized(graph: &Graph, id: OpId, x: Option<QuantizeBlocks>, weight: QuantizeBlocks) -> Option<Patch> {
    let [activations, numbers] = operands(graph, id)?;
    let mut patch = Patch::new();
    let weight = Codes::of(patch.add(graph, weight, &[numbers.into()]));
    let x = x.map(|x| Codes::of(patch.add(graph, x, &[activations.into()])));
    over_codes(graph, id, &mut patch, x, weight)?;
    Some(patch)
}

fn int8_weight(graph: &Graph, id: OpId) -> Option<Patch> {
    quantized(graph, id, None, blocks(DType::I8, None, None))
}

fn fp8(graph: &Graph, id: OpId) -> Option<Patch> {
    let by_row = || blocks(DType::F8E4M3, None, None);
    quantized(graph, id, Some(by_row()), by_row())
}

fn fp8_block(graph: &Graph, id: OpId) -> Option<Patch> {
    let weight = blocks(DType::F8E4M3, Some(GROUP), Some(GROUP));
    quantized(graph, id, Some(blocks(DType::F8E4M3, None, Some(GROUP))), weight)
}

fn int4(graph: &Graph, id: OpId) -> Option<Patch> {
    quantized(graph, id, None, blocks(DType::I4, None, Some(GROUP)))
}
