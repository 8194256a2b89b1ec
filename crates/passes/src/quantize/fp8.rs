//! E4M3 weights and activations: a scale per output, and per token or per tensor.

use ir::{DType, Graph};

use super::formats::{by_row, quantized};
use super::group::{rows, shrink_key};
use super::static_scales::{self, ActivationScales};
use super::{Codes, Layers, SEARCH_ROWS, each_linear, group};
use crate::{Changed, Numerics, Pass, PassContext, PassError};

/// `linear(x, w) → fused_linear(x', q, s', s) {quantized = [x, weight]}`, both operands in E4M3, scales per token and per
/// output.
#[derive(Clone, Debug, Default)]
pub struct QuantizeFp8 {
    /// Which linear layers.
    pub layers: Layers,
    /// Source of activation scales.
    pub activations: ActivationScales,
}

impl Pass for QuantizeFp8 {
    fn summary(&self) -> &'static str {
        "`linear(x, w) → fused_linear(x', q, s', s) {quantized = [x, weight]}`, both operands in E4M3, scales per token and per output."
    }

    fn needs_calibration(&self) -> bool {
        self.activations == ActivationScales::Static
    }

    fn numerics(&self) -> Numerics {
        Numerics::Quantizing { percent: 6 }
    }

    fn run(&self, graph: &mut Graph, ctx: &PassContext<'_>) -> Result<Changed, PassError> {
        let weight = || by_row(DType::F8E4M3);
        if self.activations == ActivationScales::Dynamic {
            return each_linear(graph, &self.layers, "fp8", &|graph, id| {
                quantized(graph, id, weight(), &|patch, x| {
                    Codes::of(patch.add(graph, by_row(DType::F8E4M3), &[x.into()]))
                })
            });
        }
        let inputs = group::inputs(graph, &self.layers);
        for name in &inputs {
            let x = &group::find(graph, name)?;
            let by = ctx.weights.values(&shrink_key(name));
            let rows = rows(graph, ctx, *x, SEARCH_ROWS)?;
            let scale = static_scales::scale(ctx, name, by.as_deref(), &rows, DType::F8E4M3)?;
            for linear in group::members(graph, &self.layers, *x) {
                let patch = quantized(graph, linear, weight(), &|patch, x| {
                    static_scales::codes(graph, ctx, patch, x, scale, DType::F8E4M3)
                });
                let patch = patch.ok_or_else(|| PassError::Other(format!("`{name}`: expected linear layers")))?;
                graph.apply("fp8", linear, patch)?;
            }
        }
        Ok((!inputs.is_empty()).into())
    }
}
