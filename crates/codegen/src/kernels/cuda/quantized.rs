//! Quantized operands: their types, and their scales as template arguments. Mirrors `kernels/common/scales.cuh`.

use ir::ops::LinearParts;
use ir::scale_block;
use ir::{Graph, TensorType, Value};
use plan::DType;

use super::body::c_type;
use crate::Refusal;

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

/// Whether elements are quantized to 8 bits.
pub(super) fn is_8_bit(dtype: DType) -> bool {
    matches!(dtype, DType::I8 | DType::F8E4M3)
}

/// Activations are quantized to 8 bits.
pub(super) fn check_quantized(dtype: DType) -> Result<(), Refusal> {
    match is_8_bit(dtype) {
        true => Ok(()),
        false => Err(Refusal::because(format!("quantizes to i8 and f8e4m3, not {dtype}"))),
    }
}
