//! RMSNorm over the last axis.

use plan::DType;

use crate::{
    HostTensor, KvState, OpClass, Semantics, TensorType, Type, TypeError, expect_rank, expect_same, op, type_error,
};

op! {
    /// RMSNorm over the last axis: `x / sqrt(mean(x^2) + eps) * weight`, of `[.., H]` and `[H]`, computed in f32. With
    /// `head_dim`, each head of a row is normalized separately, with one weight `[head_dim]` for all. The result has
    /// the dtype of `x`, or `to`.
    pub struct RmsNorm = "rms_norm" (x, weight) { eps: f32, head_dim: Option<u32>, to: Option<DType> }
}

op! {
    /// `sum = a + b` and `rms_norm(sum, weight)`, the residual step of a decoder layer in one op. The sum has the dtype
    /// of `a` and `b`, the norm the same, or `to`.
    pub struct AddRmsNorm = "add_rms_norm" (a, b, weight) { eps: f32, to: Option<DType> }
}

pub(super) fn check(x: &TensorType, weight: &TensorType) -> Result<(), TypeError> {
    expect_rank("weight", weight, 1)?;
    match x.shape.last() {
        Some(width) => expect_same("the widths of x and weight", width, &weight.shape[0])?,
        None => return type_error("expected at least one dimension, found a scalar"),
    }
    match x.dtype.is_float() && weight.dtype.is_float() {
        true => Ok(()),
        false => type_error("expected floating-point operands"),
    }
}

/// Checks the norm of each head of `x`.
pub(super) fn check_heads(x: &TensorType, weight: &TensorType, head_dim: u32) -> Result<(), TypeError> {
    match x.width() {
        Some(width) if head_dim > 0 && width % u64::from(head_dim) == 0 => {
            check(&x.with_width(u64::from(head_dim)), weight)
        }
        _ => type_error(format!("expected whole heads of {head_dim}, found {x}")),
    }
}

/// Normalizes runs of the length of the weight: rows, or their heads.
pub(super) fn rms_norm(x: &HostTensor, weight: &HostTensor, eps: f32) -> HostTensor {
    let mut values = x.floats().to_vec();
    values.chunks_exact_mut(weight.floats().len().max(1)).for_each(|run| normalize(run, weight.floats(), eps));
    HostTensor::f32(x.shape.clone(), values)
}

/// Normalizes a row or a head in place.
pub(super) fn normalize(row: &mut [f32], weights: &[f32], eps: f32) {
    let mean_square = row.iter().map(|value| value * value).sum::<f32>() / row.len() as f32;
    let scale = 1.0 / (mean_square + eps).sqrt();
    row.iter_mut().zip(weights).for_each(|(value, weight)| *value = *value * scale * weight);
}

impl Semantics for RmsNorm {
    const CLASS: OpClass = OpClass::Reduction;

    fn infer(&self, operands: &[&Type]) -> Result<Vec<Type>, TypeError> {
        let (x, weight) = (operands[0].tensor()?, operands[1].tensor()?);
        match self.head_dim {
            Some(head_dim) => check_heads(x, weight, head_dim)?,
            None => check(x, weight)?,
        }
        Ok(vec![x.clone().rounded(self.to)?.into()])
    }

    fn eval(&self, operands: &[&HostTensor], _: &mut KvState) -> Result<Vec<HostTensor>, String> {
        Ok(vec![rms_norm(operands[0], operands[1], self.eps)])
    }
}

impl Semantics for AddRmsNorm {
    const CLASS: OpClass = OpClass::Reduction;

    fn infer(&self, operands: &[&Type]) -> Result<Vec<Type>, TypeError> {
        let (a, b, weight) = (operands[0].tensor()?, operands[1].tensor()?, operands[2].tensor()?);
        expect_same("the types of a and b", a, b)?;
        check(a, weight)?;
        Ok(vec![a.clone().into(), a.clone().rounded(self.to)?.into()])
    }

    fn eval(&self, operands: &[&HostTensor], _: &mut KvState) -> Result<Vec<HostTensor>, String> {
        let sum = operands[0].zip(operands[1], |a, b| a + b);
        let normed = rms_norm(&sum, operands[2], self.eps);
        Ok(vec![sum, normed])
    }
}
