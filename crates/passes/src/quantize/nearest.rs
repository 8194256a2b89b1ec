//! Round to nearest: by the blocks of a format alone, or with activation scales from a calibration.

use ir::ops::QuantizeBlocks;
use ir::{Graph, OpId, Patch, Value};

use super::by_input::{SEARCH_ROWS, members, rows, shrink_key};
use super::format_info::{FormatInfo, InputGroup};
use super::linear::{QuantizedValue, operands, over_quantized};
use super::static_scales;
use crate::PassError;

/// Neighbours along K that share a scale.
pub(crate) const GROUP: u32 = 128;

/// A linear layer with operands as the format quantizes them: the weight, while the plan is written; activations, if at
/// all, in each step.
pub(crate) fn nearest(graph: &Graph, id: OpId, format: &FormatInfo) -> Option<Patch> {
    let quantize = |patch: &mut Patch, x| Some(quantized(graph, patch, format.activations.clone()?, x));
    replaced(graph, id, format, &quantize)
}

/// The same for linear layers over `x`, with this scale of `x` if it is static.
pub(crate) fn nearest_of(
    graph: &mut Graph,
    group: &InputGroup<'_>,
    x: Value,
    scale: Option<f32>,
) -> Result<(), PassError> {
    let InputGroup { format, ctx, layers, .. } = *group;
    for linear in members(graph, layers, x) {
        let patch = match (scale, &format.activations) {
            (Some(scale), Some(QuantizeBlocks { to, .. })) => replaced(graph, linear, format, &|patch, x| {
                Some(static_scales::quantize(graph, ctx, patch, x, scale, *to))
            }),
            _ => nearest(graph, linear, format),
        };
        let no_linear = || PassError::Other(format!("`{}`: expected linear layers", graph.value_name(x)));
        let patch = patch.ok_or_else(no_linear)?;
        graph.apply(format.name, linear, patch)?;
    }
    Ok(())
}

/// The search of formats without one, if the scale of activations is to be static: that of the calibration.
pub(crate) fn with_static_scale(graph: &mut Graph, group: &InputGroup<'_>) -> Result<(), PassError> {
    let InputGroup { x, ctx, format, .. } = *group;
    let Some(activations) = &format.activations else { return Ok(()) };
    let name = graph.value_name(x);
    let by = ctx.weights.values(&shrink_key(name));
    let rows = rows(graph, ctx, x, SEARCH_ROWS)?;
    let scale = static_scales::scale(ctx, name, by.as_deref(), &rows, activations.to)?;
    nearest_of(graph, group, x, Some(scale))
}

/// The linear layer with its weight rounded to nearest, and with activations as `x` quantizes them, if at all.
fn replaced(
    graph: &Graph,
    id: OpId,
    format: &FormatInfo,
    x: &dyn Fn(&mut Patch, Value) -> Option<QuantizedValue>,
) -> Option<Patch> {
    let [activations, weight] = operands(graph, id)?;
    let mut patch = Patch::new();
    let x = x(&mut patch, activations);
    let weight = quantized(graph, &mut patch, format.weight.clone(), weight);
    over_quantized(graph, id, &mut patch, x, weight)?;
    Some(patch)
}

/// A value with computed scales.
fn quantized(graph: &Graph, patch: &mut Patch, blocks: QuantizeBlocks, value: Value) -> QuantizedValue {
    let codes = patch.add(graph, blocks, &[value.into()]);
    QuantizedValue { codes, scale: codes.result(1), zero_point: None }
}
