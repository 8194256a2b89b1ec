//! Quantization and dequantization to 8 and 4 bits.

use plan::{DType, largest_magnitude, scale_block, scale_of};

use crate::{
    HostTensor, KvState, OpClass, Semantics, TensorType, Type, TypeError, expect_dtype, expect_rank, expect_same, op,
    type_error,
};

op! {
    /// `round(x / scale) + zero_point` for each element of a matrix, in dtype `to`: to nearest, ties to even,
    /// saturating. The shape of `scale` defines its granularity: along each axis, its size is 1 (shared by the whole
    /// axis), that of the matrix (one per index), or the number of power-of-two blocks that cover it. `zero_point`, of
    /// dtype `i8`, has the shape of `scale`. Kernels multiply by the reciprocal of the scale, rounded to f32.
    pub struct Quantize = "quantize" (x, scale; zero_point) { to: DType }
}

op! {
    /// `quantize` of a matrix with computed scales: one per block of `rows` rows (default 1) and `cols` columns
    /// (default all). The scale is the largest magnitude divided by the largest quantized value, and at least 2^-100.
    /// Results are the quantized values, and the scales in f32.
    pub struct QuantizeBlocks = "quantize_blocks" (x) { to: DType, rows: Option<u32>, cols: Option<u32> }
}

op! {
    /// `(q - zero_point) * scale` for each element `q` of a matrix, in dtype `to`. Scales are as in `quantize`.
    pub struct Dequantize = "dequantize" (codes, scale; zero_point) { to: DType }
}

/// The dtype must be a quantized one.
pub(super) fn expect_codes(name: &str, dtype: DType) -> Result<(), TypeError> {
    match dtype.is_code() {
        true => Ok(()),
        false => type_error(format!("expected `{name}` of dtype i8, f8e4m3 or i4, found {dtype}")),
    }
}

/// Checks scales, and zero points if any, against their matrix.
pub(super) fn check_scales(
    matrix: &TensorType,
    scale: &TensorType,
    zero: Option<&TensorType>,
) -> Result<(), TypeError> {
    expect_rank("the matrix", matrix, 2)?;
    expect_rank("its scales", scale, 2)?;
    if !scale.dtype.is_float() {
        return type_error(format!("expected floating-point scales, found {scale}"));
    }
    for (size, scales) in matrix.shape.iter().zip(&scale.shape) {
        let fits = match (size.as_const(), scales.as_const()) {
            (_, Some(1)) => true,
            (Some(size), Some(scales)) => scale_block(size, scales).is_some(),
            _ => size == scales,
        };
        if !fits {
            return type_error(format!(
                "expected scales per tensor, per index, or per power-of-two block of {matrix}, found {scale}"
            ));
        }
    }
    let Some(zero) = zero else { return Ok(()) };
    expect_dtype("zero_point", zero, DType::I8)?;
    match zero.shape == scale.shape {
        true => Ok(()),
        false => type_error(format!("expected a zero point per scale, found {zero} and {scale}")),
    }
}

/// One scale per tensor, for ops that support no other granularity.
pub(super) fn expect_scale_of_all(scale: &TensorType) -> Result<(), TypeError> {
    match scale.const_shape().as_deref() {
        Some([1, 1]) => Ok(()),
        _ => type_error(format!("expected one scale per tensor, found {scale}")),
    }
}

/// `apply(element, scale, zero)` for each element of a matrix.
fn with_scales(operands: &[&HostTensor], apply: impl Fn(f32, f32, f32) -> f32) -> HostTensor {
    let (matrix, scale, zero) = (operands[0], operands[1], operands.get(2));
    let block = |axis: usize| scale_block(matrix.shape[axis] as u64, scale.shape[axis] as u64).unwrap_or(1) as usize;
    let (rows, cols) = (block(0), block(1));
    let mut values = Vec::with_capacity(matrix.floats().len());
    for (row, elements) in matrix.rows().enumerate() {
        for (col, element) in elements.iter().enumerate() {
            let at = row / rows * scale.width() + col / cols;
            values.push(apply(*element, scale.floats()[at], zero.map_or(0.0, |zero| zero.floats()[at])));
        }
    }
    HostTensor::f32(matrix.shape.clone(), values)
}

/// Quantizes a matrix with given scales.
pub(super) fn quantize(operands: &[&HostTensor], to: DType) -> HostTensor {
    match operands.len() {
        2 => with_scales(operands, |x, scale, _| to.round(x * (1.0 / scale))),
        _ => with_scales(operands, |x, scale, zero| to.round((x * (1.0 / scale)).round_ties_even() + zero)),
    }
}

/// Dequantizes a matrix, to f32.
pub(super) fn dequantize(operands: &[&HostTensor]) -> HostTensor {
    with_scales(operands, |code, scale, zero| (code - zero) * scale)
}

impl Semantics for Quantize {
    const CLASS: OpClass = OpClass::Reduction;

    fn infer(&self, operands: &[&Type]) -> Result<Vec<Type>, TypeError> {
        let x = operands[0].tensor()?;
        let zero = operands.get(2).map(|zero| zero.tensor()).transpose()?;
        check_scales(x, operands[1].tensor()?, zero)?;
        expect_codes("to", self.to)?;
        match x.dtype.is_float() {
            true => Ok(vec![TensorType { dtype: self.to, shape: x.shape.clone() }.into()]),
            false => type_error(format!("expected a floating-point tensor, found {x}")),
        }
    }

    fn eval(&self, operands: &[&HostTensor], _: &mut KvState) -> Result<Vec<HostTensor>, String> {
        Ok(vec![quantize(operands, self.to)])
    }
}

impl QuantizeBlocks {
    /// Rows and columns of a block; `None` for all columns.
    pub fn block(&self) -> (u64, Option<u64>) {
        (self.rows.map_or(1, u64::from), self.cols.map(u64::from))
    }
}

impl Semantics for QuantizeBlocks {
    const CLASS: OpClass = OpClass::Reduction;

    fn infer(&self, operands: &[&Type]) -> Result<Vec<Type>, TypeError> {
        let x = operands[0].tensor()?;
        expect_rank("x", x, 2)?;
        expect_codes("to", self.to)?;
        if !x.dtype.is_float() {
            return type_error(format!("expected a floating-point tensor, found {x}"));
        }
        let (rows, cols) = self.block();
        let width = x.width().filter(|width| *width > 0);
        let scales = width.map(|width| width.div_ceil(cols.unwrap_or(width).max(1)));
        let Some((width, scales)) = width.zip(scales).filter(|_| rows > 0 && cols != Some(0)) else {
            return type_error(format!("expected rows of a constant width, and blocks of at least one, found {x}"));
        };
        if scale_block(width, scales).is_none_or(|block| cols.is_some_and(|cols| block != cols.min(width))) {
            return type_error(format!(
                "expected blocks of a power of two of columns, found {}",
                cols.unwrap_or(width)
            ));
        }
        let shape = vec![x.shape[0].clone().ceil_div(rows), scales.into()];
        let codes = TensorType { dtype: self.to, shape: x.shape.clone() };
        let scales = TensorType { dtype: DType::F32, shape };
        check_scales(&codes, &scales, None)?;
        Ok(vec![codes.into(), scales.into()])
    }

    fn eval(&self, operands: &[&HostTensor], _: &mut KvState) -> Result<Vec<HostTensor>, String> {
        let x = operands[0];
        let (rows, width) = (self.block().0 as usize, x.width());
        let cols = self.block().1.map_or(width, |cols| cols as usize).max(1);
        let blocks = width.div_ceil(cols);
        let mut largest = vec![0.0f32; x.shape[0].div_ceil(rows) * blocks];
        for (row, elements) in x.rows().enumerate() {
            for (block, elements) in elements.chunks(cols).enumerate() {
                let largest = &mut largest[row / rows * blocks + block];
                *largest = largest_magnitude(*largest, elements);
            }
        }
        let scale_of = |largest: &f32| scale_of(*largest, self.to);
        let scales = HostTensor::f32([x.shape[0].div_ceil(rows), blocks], largest.iter().map(scale_of).collect());
        Ok(vec![quantize(&[x, &scales], self.to), scales])
    }
}

impl Semantics for Dequantize {
    const CLASS: OpClass = OpClass::Reduction;

    fn infer(&self, operands: &[&Type]) -> Result<Vec<Type>, TypeError> {
        let codes = operands[0].tensor()?;
        let zero = operands.get(2).map(|zero| zero.tensor()).transpose()?;
        check_scales(codes, operands[1].tensor()?, zero)?;
        expect_codes("codes", codes.dtype)?;
        match self.to.is_float() {
            true => Ok(vec![TensorType { dtype: self.to, shape: codes.shape.clone() }.into()]),
            false => type_error(format!("expected `to` of f32, f16 or bf16, found {}", self.to)),
        }
    }

    fn eval(&self, operands: &[&HostTensor], _: &mut KvState) -> Result<Vec<HostTensor>, String> {
        expect_same("the ranks of quantized values and scales", &operands[0].shape.len(), &2)
            .map_err(|error| error.0)?;
        Ok(vec![dequantize(operands)])
    }
}
