//! `kernels/linear/reference.cuh`: any sizes and types.

use ir::ops::Epilogue;
use plan::{DType, Layout};

use super::{LINEARS, Shape, shape};
use crate::kernels::Row;
use crate::kernels::cuda::body::{Body, c_type};
use crate::kernels::cuda::layout::layout_of;
use crate::kernels::cuda::quantized::QuantizedOperands;
use crate::{Call, Refusal, Site};

pub(in crate::kernels::cuda) const LINEAR_REFERENCE_FEW: Row =
    Row::new("linear_reference_few", LINEARS, FILE, reference_few);

pub(in crate::kernels::cuda) const LINEAR_REFERENCE: Row = Row::new("linear_reference", LINEARS, FILE, reference);

const FILE: &str = "kernels/linear/reference.cuh";
/// Rows up to which a warp computes each output.
const FEW_ROWS: u64 = 8;
const TILE: u64 = 64;

/// A linear layer, quantized or not, with only a bias as its epilogue: anything else is expanded.
fn reference_shape(site: &Site<'_>) -> Result<Shape, Refusal> {
    let shape = shape(site)?.unquantized_output()?;
    match shape.parts.epilogues().as_slice() {
        [] | [Epilogue::Bias] if shape.parts.prologue.is_none() => Ok(shape),
        _ => Err(Refusal::OtherOp),
    }
}

/// The layout of the weight: a quantized one that other kernels read tiled is stored once.
fn order(site: &Site<'_>, shape: &Shape) -> Layout {
    match shape.parts.scales.weight {
        Some(_) => layout_of(site.graph, shape.parts.weight),
        None => Layout::RowMajor,
    }
}

fn reference_few(site: &Site<'_>) -> Result<Call, Refusal> {
    let shape = reference_shape(site)?;
    let bound = site.program.bound(&shape.rows).unwrap_or(u64::MAX);
    if bound > FEW_ROWS {
        return Err(Refusal::because(format!("supports {FEW_ROWS} rows, this program has up to {bound}")));
    }
    let layout = order(site, &shape);
    if layout != Layout::RowMajor {
        return Err(Refusal::because(format!(
            "requires a row-major weight, other kernels require this one {}",
            layout.name()
        )));
    }
    let instance = instance(site, "LinearReferenceFew", &shape, layout)?;
    let grid = shape.n.div_ceil(8).into();
    call(site, Body::of(&LINEAR_REFERENCE_FEW, instance, 256, grid), &shape, layout)
}

fn reference(site: &Site<'_>) -> Result<Call, Refusal> {
    let shape = reference_shape(site)?;
    let layout = order(site, &shape);
    let instance = instance(site, "LinearReference", &shape, layout)?;
    let grid = shape.rows.ceil_div(TILE) * shape.n.div_ceil(TILE).into();
    call(site, Body::of(&LINEAR_REFERENCE, instance, 256, grid), &shape, layout)
}

fn call(site: &Site<'_>, body: Body, shape: &Shape, layout: Layout) -> Result<Call, Refusal> {
    let [x_scale, weight_scale, zero_point] = shape.scales();
    let call = shape.call(site, body, &[x_scale, weight_scale, zero_point, shape.bias()])?;
    Ok(if layout == Layout::RowMajor { call } else { call.layout(1, layout) })
}

fn instance(site: &Site<'_>, ty: &str, shape: &Shape, layout: Layout) -> Result<String, Refusal> {
    let (x, weight, y) = (site.operand_type(0)?, site.operand_type(1)?, site.result_type()?);
    let bias = shape.bias().map(|bias| site.tensor(bias)).transpose()?;
    let bias_dtype = bias.map_or(if weight.dtype.is_float() { weight.dtype } else { DType::F32 }, |bias| bias.dtype);
    let types = [x.dtype, weight.dtype, bias_dtype, y.dtype].map(c_type).join(", ");
    let mut instance = format!("{ty}<{types}, {}, {}, {}", shape.n, shape.k, bias.is_some());
    let quantized = QuantizedOperands::of(site.graph, &shape.parts)?;
    if quantized.any {
        instance.push_str(&format!(", {}", quantized.scales(shape.k)));
    }
    match layout {
        Layout::RowMajor | Layout::Packed => {}
        Layout::Tiled => instance.push_str(", 1"),
        Layout::TiledHalves => instance.push_str(", 2"),
    }
    Ok(instance + ">")
}
