//! Concatenation along the first axis, and splitting along the last.

use plan::Dim;

use crate::{HostTensor, KvState, OpClass, Semantics, TensorType, Type, TypeError, expect_same, op, type_error};

op! {
    /// The parts concatenated along the first axis. `merge-linears` uses it for weights.
    pub struct Concat = "concat" (parts..) {}
}

op! {
    /// Splits each row into parts of these widths: `[T, sum(sizes)]` to `[T, sizes[i]]` for each `i`.
    pub struct Split = "split" (x) { sizes: Vec<u32> }
}

impl Semantics for Concat {
    const CLASS: OpClass = OpClass::Movement;

    fn infer(&self, operands: &[&Type]) -> Result<Vec<Type>, TypeError> {
        let Some(first) = operands.first() else { return type_error("expected at least 1 operand, found 0") };
        let first = first.tensor()?;
        if first.shape.is_empty() {
            return type_error("expected at least one dimension, found a scalar");
        }
        if !first.dtype.is_float() && !first.dtype.is_code() {
            return type_error(format!("expected floating-point or quantized tensors, found {first}"));
        }
        let mut rows = Dim::from(0);
        for part in operands {
            let part = part.tensor()?;
            let like_first = TensorType { dtype: part.dtype, shape: part.shape.clone() };
            let same = part.dtype == first.dtype && part.shape.get(1..) == first.shape.get(1..);
            if !same {
                expect_same("the types of the parts, except the first axis,", first, &like_first)?;
            }
            rows = rows + part.shape[0].clone();
        }
        let mut shape = first.shape.clone();
        shape[0] = rows;
        Ok(vec![TensorType { dtype: first.dtype, shape }.into()])
    }

    fn eval(&self, operands: &[&HostTensor], _: &mut KvState) -> Result<Vec<HostTensor>, String> {
        let mut shape = operands[0].shape.clone();
        shape[0] = operands.iter().map(|part| part.shape[0]).sum();
        let values = operands.iter().flat_map(|part| part.floats()).copied().collect();
        Ok(vec![HostTensor::f32(shape, values)])
    }
}

impl Semantics for Split {
    const CLASS: OpClass = OpClass::Movement;

    fn infer(&self, operands: &[&Type]) -> Result<Vec<Type>, TypeError> {
        let x = operands[0].tensor()?;
        let sum: u64 = self.sizes.iter().map(|size| u64::from(*size)).sum();
        if x.width() != Some(sum) || self.sizes.is_empty() || !x.dtype.is_float() {
            return type_error(format!("expected a floating-point tensor {sum} wide, found {x}"));
        }
        Ok(self.sizes.iter().map(|size| x.with_width(u64::from(*size)).into()).collect())
    }

    fn eval(&self, operands: &[&HostTensor], _: &mut KvState) -> Result<Vec<HostTensor>, String> {
        let mut start = 0;
        let mut parts = Vec::new();
        for size in self.sizes.iter().map(|size| *size as usize) {
            let values = operands[0].rows().flat_map(|row| &row[start..start + size]).copied().collect();
            let mut shape = operands[0].shape.clone();
            if let Some(width) = shape.last_mut() {
                *width = size;
            }
            parts.push(HostTensor::f32(shape, values));
            start += size;
        }
        Ok(parts)
    }
}
