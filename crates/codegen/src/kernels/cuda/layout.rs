//! The layout of a weight, and whether tensor cores support its users: facts about a weight that hold for all programs,
//! so that it is stored once. Mirrors `kernels/common/tiled.cuh`.

use ir::ops::{Epilogue, LinearParts};
use ir::{Graph, TensorType, Value};
use plan::{DType, Layout, Tiles};

use super::is_16_bit;
use super::quantized::{QuantizedOperands, check_quantized};
use crate::Refusal;

/// The sizes of a matrix.
pub(super) fn sizes(graph: &Graph, weight: Value) -> Option<[u64; 2]> {
    graph.tensor(weight)?.const_shape()?.try_into().ok()
}

/// The layout of a weight for `linear` kernels, whatever the program: tiled if all its users can read tiles, so that
/// one copy serves few rows and many; with the rows of the two halves interleaved if a gate is applied to the product.
pub(super) fn layout_of(graph: &Graph, weight: Value) -> Layout {
    let users = graph.uses(weight).into_iter().filter_map(|user| LinearParts::of(graph, user.op));
    let users: Vec<LinearParts> = users.filter(|parts| parts.weight == weight).collect();
    if users.is_empty() || !users.iter().all(|parts| tensor_cores(graph, parts).is_ok()) {
        return Layout::RowMajor;
    }
    let gated = users.iter().filter(|parts| parts.epilogues().contains(&Epilogue::Swiglu)).count();
    match gated {
        0 => Layout::Tiled,
        _ if gated == users.len() => Layout::TiledHalves,
        _ => Layout::RowMajor,
    }
}

/// Whether tensor cores support a linear layer, or why not.
pub(super) fn tensor_cores(graph: &Graph, parts: &LinearParts) -> Result<(), Refusal> {
    let [n, k] = sizes(graph, parts.weight).ok_or_else(|| Refusal::because("the weight has a symbolic size"))?;
    if let Some((dtype, scale)) = parts.quantize_to {
        check_quantized(dtype)?;
        if graph.tensor(scale).is_none_or(|scale| scale.dtype != DType::F32) || parts.operand(Epilogue::Add).is_some() {
            return Err(Refusal::because("can quantize its output only with an f32 scale and without a residual"));
        }
    }
    if parts.scales.iter().next().is_some() {
        quantized_operands(graph, parts)?;
    } else {
        let dtypes = [Some(parts.weight), parts.operand(Epilogue::Bias)].into_iter().flatten();
        let mut dtypes = dtypes.filter_map(|value| graph.tensor(value)).map(|ty| ty.dtype);
        let first = parts.product_dtype(graph).filter(|dtype| is_16_bit(*dtype));
        if first.is_none_or(|first| dtypes.any(|dtype| dtype != first)) {
            return Err(Refusal::because("requires activations, weight and bias of one 16-bit type"));
        }
        if k % 8 != 0 {
            return Err(Refusal::because(format!("requires rows that are a multiple of 16 bytes, found {k} elements")));
        }
    }
    if !graph.is_constant(parts.weight) {
        return Err(Refusal::because("requires a constant weight, which can be packed"));
    }
    match parts.epilogues().as_slice() {
        [Epilogue::Swiglu] | [Epilogue::Bias, Epilogue::Swiglu] if n % 16 == 0 => Ok(()),
        [Epilogue::Swiglu] | [Epilogue::Bias, Epilogue::Swiglu] => {
            Err(Refusal::because(format!("requires halves of a multiple of 8 outputs, found {n} outputs in all")))
        }
        _ if parts.in_order().is_some() => Ok(()),
        _ => Err(Refusal::because(
            "requires an epilogue of a bias, then either a gate, or elementwise functions and a residual",
        )),
    }
}

/// Whether tensor cores support a linear layer with quantized operands, or why not.
fn quantized_operands(graph: &Graph, parts: &LinearParts) -> Result<(), Refusal> {
    let quantized = QuantizedOperands::of(graph, parts)?;
    let width = graph.tensor(parts.weight).and_then(TensorType::width).unwrap_or(0);
    let Some(unit) = Tiles::cols_of(quantized.weight_dtype).filter(|_| quantized.weight.is_some()) else {
        return Err(Refusal::because("supports quantized activations only with a quantized weight"));
    };
    if quantized.zero_point && quantized.weight_dtype == DType::F8E4M3 {
        return Err(Refusal::because(
            "supports zero points of integers: differences of f8e4m3 are not exact in 16 bits",
        ));
    }
    let x_bytes = match (quantized.x, parts.product_dtype(graph)) {
        (Some(_), _) if quantized.x_dtype == DType::I4 => {
            return Err(Refusal::because("requires 8-bit quantized activations"));
        }
        (Some(_), _) => 1,
        (None, Some(dtype)) if is_16_bit(dtype) => 2,
        _ => return Err(Refusal::because("requires 16-bit or quantized activations")),
    };
    if !(width * x_bytes).is_multiple_of(Tiles::CHUNK_BYTES) {
        return Err(Refusal::because(format!(
            "requires rows that are a multiple of 16 bytes, found {width} activations"
        )));
    }
    let mut groups = [quantized.x, quantized.weight].into_iter().flatten().map(|sharing| sharing.cols);
    if let Some(group) = groups.find(|cols| !cols.is_multiple_of(unit / 2)) {
        let half = unit / 2;
        return Err(Refusal::because(format!("requires groups of a multiple of {half} columns, found {group}")));
    }
    let mut constants = [parts.scales.weight, parts.scales.zero_point].into_iter().flatten();
    if constants.any(|value| !graph.is_constant(value)) {
        return Err(Refusal::because("the scales of the weight are computed in the step"));
    }
    match parts.operand(Epilogue::Bias).and_then(|bias| graph.tensor(bias)) {
        Some(bias) if !bias.dtype.is_float() => Err(Refusal::because("requires a floating-point bias")),
        _ => Ok(()),
    }
}
