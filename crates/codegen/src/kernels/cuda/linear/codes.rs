//! Codes as operands of a product: which of them kernels take, and how they are told what codes mean.

use ir::ops::{Epilogue, LinearParts};
use ir::scale_block;
use ir::{Graph, TensorType, Value};
use plan::{DType, Tiles};

use crate::Refusal;
use crate::kernels::cuda::body::c_type;
use crate::kernels::cuda::is_16_bit;

/// What shares a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sharing {
    /// Rows of the matrix; 0 for all.
    pub rows: u64,
    /// Columns; 0 for all.
    pub cols: u64,
    /// Type of a scale.
    pub dtype: DType,
}

impl Sharing {
    fn of(graph: &Graph, matrix: Value, scale: Value) -> Result<Sharing, Refusal> {
        let types = graph.tensor(matrix).zip(graph.tensor(scale));
        let (matrix, scale) = types.ok_or_else(|| Refusal::because("an operand is an effect"))?;
        let shared = |axis: usize| shared(matrix, scale, axis);
        let [rows, cols] = [shared(0), shared(1)];
        match rows.zip(cols) {
            Some((rows, cols)) => Ok(Sharing { rows, cols, dtype: scale.dtype }),
            None => Err(Refusal::because(format!("takes a scale for all tokens, or for each, found {scale}"))),
        }
    }

    /// As `kernels/common/scales.cuh` names it, of a matrix of this width.
    pub fn argument(sharing: Option<Sharing>, width: u64) -> String {
        match sharing {
            Some(Sharing { rows, cols, dtype }) => {
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

/// The codes among the operands of a product.
#[derive(Clone, Copy, Debug)]
pub(super) struct Codes {
    /// Whether there are any.
    pub coded: bool,
    /// Type of an activation.
    pub x_dtype: DType,
    /// What shares a scale of the activations, where those are codes.
    pub x: Option<Sharing>,
    /// Type of an element of the weight.
    pub weight_dtype: DType,
    /// What shares a scale of the weight, where that is one of codes.
    pub weight: Option<Sharing>,
    /// Whether each scale of the weight has a zero.
    pub zero: bool,
}

impl Codes {
    pub fn of(graph: &Graph, parts: &LinearParts) -> Result<Codes, Refusal> {
        let scales = &parts.scales;
        let sharing = |matrix, scale: Option<Value>| scale.map(|scale| Sharing::of(graph, matrix, scale)).transpose();
        let dtype = |value| graph.tensor(value).map(|ty| ty.dtype).ok_or(Refusal::OtherOp);
        Ok(Codes {
            coded: scales.iter().next().is_some(),
            x_dtype: dtype(parts.x)?,
            x: sharing(parts.x, scales.x)?,
            weight_dtype: dtype(parts.weight)?,
            weight: sharing(parts.weight, scales.weight)?,
            zero: scales.zero.is_some(),
        })
    }

    /// The template arguments of the weight: its type, its scales, whether it has zeros, and the scales of x.
    pub fn arguments(&self, width: u64) -> String {
        let [x, weight] = [self.x, self.weight].map(|sharing| Sharing::argument(sharing, width));
        format!("{}, {weight}, {}, {x}", c_type(self.weight_dtype), self.zero)
    }

    /// The scales alone, as plain kernels take them: of x, of the weight, and whether that has zeros.
    pub fn scales(&self, width: u64) -> String {
        let [x, weight] = [self.x, self.weight].map(|sharing| Sharing::argument(sharing, width));
        format!("{x}, {weight}, {}", self.zero)
    }
}

/// Whether tensor cores can take a linear with codes, or why not.
pub(super) fn tensor_cores(graph: &Graph, parts: &LinearParts) -> Result<(), Refusal> {
    let codes = Codes::of(graph, parts)?;
    let width = graph.tensor(parts.weight).and_then(TensorType::width).unwrap_or(0);
    let Some(unit) = Tiles::cols_of(codes.weight_dtype).filter(|_| codes.weight.is_some()) else {
        return Err(Refusal::because("takes codes of activations only together with those of a weight"));
    };
    if codes.zero && codes.weight_dtype == DType::F8E4M3 {
        return Err(Refusal::because("takes zeros of integer codes, f8e4m3 less a zero is no 16-bit number"));
    }
    let x_bytes = match (codes.x, parts.product_dtype(graph)) {
        (Some(_), _) if codes.x_dtype == DType::I4 => {
            return Err(Refusal::because("takes codes of activations of a byte"));
        }
        (Some(_), _) => 1,
        (None, Some(dtype)) if is_16_bit(dtype) => 2,
        _ => return Err(Refusal::because("takes activations of a 16-bit type, or codes")),
    };
    if !(width * x_bytes).is_multiple_of(Tiles::CHUNK_BYTES) {
        return Err(Refusal::because(format!("rows of {width} activations are no whole 16-byte chunks")));
    }
    let mut groups = [codes.x, codes.weight].into_iter().flatten().map(|sharing| sharing.cols);
    if let Some(group) = groups.find(|cols| !cols.is_multiple_of(unit / 2)) {
        let half = unit / 2;
        return Err(Refusal::because(format!("takes scales of groups of {half} columns and multiples, not {group}")));
    }
    let mut constants = [parts.scales.weight, parts.scales.zero].into_iter().flatten();
    if constants.any(|value| !graph.is_constant(value)) {
        return Err(Refusal::because("the scales of the weight are computed in the step"));
    }
    match parts.operand(Epilogue::Bias).and_then(|bias| graph.tensor(bias)) {
        Some(bias) if !bias.dtype.is_float() => Err(Refusal::because("takes a bias of a floating-point type")),
        _ => Ok(()),
    }
}
