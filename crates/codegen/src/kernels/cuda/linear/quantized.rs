//! Quantized operands of a product: which of them kernels support, and their scales as template arguments.

use ir::ops::{Epilogue, LinearParts};
use ir::scale_block;
use ir::{Graph, TensorType, Value};
use plan::{DType, Tiles};

use crate::Refusal;
use crate::kernels::cuda::body::c_type;
use crate::kernels::cuda::is_16_bit;

/// The block of elements that shares a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ScaleBlock {
    /// Rows of the matrix; 0 for all.
    pub rows: u64,
    /// Columns; 0 for all.
    pub cols: u64,
    /// Type of a scale.
    pub dtype: DType,
}

impl ScaleBlock {
    fn of(graph: &Graph, matrix: Value, scale: Value) -> Result<ScaleBlock, Refusal> {
        let types = graph.tensor(matrix).zip(graph.tensor(scale));
        let (matrix, scale) = types.ok_or_else(|| Refusal::because("an operand is an effect"))?;
        let shared = |axis: usize| shared(matrix, scale, axis);
        let [rows, cols] = [shared(0), shared(1)];
        match rows.zip(cols) {
            Some((rows, cols)) => Ok(ScaleBlock { rows, cols, dtype: scale.dtype }),
            None => {
                Err(Refusal::because(format!("requires one scale for all tokens, or one per token, found {scale}")))
            }
        }
    }

    /// As `kernels/common/scales.cuh` names it, of a matrix of this width.
    pub fn argument(sharing: Option<ScaleBlock>, width: u64) -> String {
        match sharing {
            Some(ScaleBlock { rows, cols, dtype }) => {
                format!("smelt::Scales<{}, {rows}, {cols}, {width}>", c_type(dtype))
            }
            None => "smelt::Unscaled".to_owned(),
        }
    }
}

/// How many indices of an axis share a scale, 0 for all; `None` for blocks of an axis of symbolic size.
fn shared(matrix: &TensorType, scale: &TensorType, axis: usize) -> Option<u64> {
    let (size, scales) = (matrix.shape.get(axis)?, scale.shape.get(axis)?);
    match (size.as_const(), scales.as_const()) {
        (_, Some(1)) => Some(0),
        _ if size == scales => Some(1),
        (Some(size), Some(scales)) => scale_block(size, scales),
        _ => None,
    }
}

/// The operands of a product, which may be quantized.
#[derive(Clone, Copy, Debug)]
pub(super) struct QuantizedOperands {
    /// Whether any is.
    pub any: bool,
    /// Type of the activations.
    pub x_dtype: DType,
    /// Their scales, if they are quantized.
    pub x: Option<ScaleBlock>,
    /// Type of the weight.
    pub weight_dtype: DType,
    /// Its scales, if it is quantized.
    pub weight: Option<ScaleBlock>,
    /// Whether it has a zero point per scale.
    pub zero_point: bool,
}

impl QuantizedOperands {
    pub fn of(graph: &Graph, parts: &LinearParts) -> Result<QuantizedOperands, Refusal> {
        let scales = &parts.scales;
        let sharing =
            |matrix, scale: Option<Value>| scale.map(|scale| ScaleBlock::of(graph, matrix, scale)).transpose();
        let dtype = |value| graph.tensor(value).map(|ty| ty.dtype).ok_or(Refusal::OtherOp);
        Ok(QuantizedOperands {
            any: scales.iter().next().is_some(),
            x_dtype: dtype(parts.x)?,
            x: sharing(parts.x, scales.x)?,
            weight_dtype: dtype(parts.weight)?,
            weight: sharing(parts.weight, scales.weight)?,
            zero_point: scales.zero_point.is_some(),
        })
    }

    /// The template arguments of the weight: its type, its scales, whether it has zero points; then the scales of x.
    pub fn arguments(&self, width: u64) -> String {
        let [x, weight] = [self.x, self.weight].map(|sharing| ScaleBlock::argument(sharing, width));
        format!("{}, {weight}, {}, {x}", c_type(self.weight_dtype), self.zero_point)
    }

    /// Those of reference kernels: the scales of x and of the weight, and whether it has zero points.
    pub fn scales(&self, width: u64) -> String {
        let [x, weight] = [self.x, self.weight].map(|sharing| ScaleBlock::argument(sharing, width));
        format!("{x}, {weight}, {}", self.zero_point)
    }
}

/// Whether tensor cores support a linear layer with quantized operands, or why not.
pub(super) fn tensor_cores(graph: &Graph, parts: &LinearParts) -> Result<(), Refusal> {
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
