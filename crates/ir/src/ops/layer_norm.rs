//! Layer normalization, for models that subtract the mean.

use plan::DType;

use super::norm::check;
use crate::{
    HostTensor, KvState, OpClass, Semantics, TensorType, Type, TypeError, expect_rank, expect_same, op, type_error,
};

op! {
    /// Layer normalization over the last axis: `(x - mean(x)) / sqrt(mean((x - mean(x))^2) + eps) * weight + bias`, of
    /// `[.., H]`, `[H]` and `[H]`, computed in f32. The result has the dtype of `x`, or `to`. (arXiv 1607.06450.)
    pub struct LayerNorm = "layer_norm" (x, weight; bias) { eps: f32, to: Option<DType> }
}

op! {
    /// `sum = a + b` and `layer_norm(sum, weight, bias)` in one op. The sum has the dtype of `a` and `b`, the norm the
    /// same, or `to`.
    pub struct AddLayerNorm = "add_layer_norm" (a, b, weight; bias) { eps: f32, to: Option<DType> }
}

fn check_operands(x: &TensorType, weight: &Type, bias: Option<&&Type>) -> Result<(), TypeError> {
    let weight = weight.tensor()?;
    check(x, weight)?;
    let Some(bias) = bias else { return Ok(()) };
    let bias = bias.tensor()?;
    expect_rank("bias", bias, 1)?;
    expect_same("the widths of weight and bias", &weight.shape[0], &bias.shape[0])?;
    match bias.dtype.is_float() {
        true => Ok(()),
        false => type_error(format!("expected a floating-point bias, found {bias}")),
    }
}

/// `operands` are the weight, and perhaps the bias.
pub(super) fn layer_norm(x: &HostTensor, operands: &[&HostTensor], eps: f32) -> HostTensor {
    let mut values = Vec::with_capacity(x.floats().len());
    for row in x.rows() {
        let count = row.len() as f32;
        let mean = row.iter().sum::<f32>() / count;
        let variance = row.iter().map(|value| (value - mean) * (value - mean)).sum::<f32>() / count;
        let scale = 1.0 / (variance + eps).sqrt();
        let weights = operands.first().map_or(&[][..], |weight| weight.floats());
        let normed = row.iter().zip(weights).map(|(value, weight)| (value - mean) * scale * weight);
        match operands.get(1) {
            Some(bias) => values.extend(normed.zip(bias.floats()).map(|(value, bias)| value + bias)),
            None => values.extend(normed),
        }
    }
    HostTensor::f32(x.shape.clone(), values)
}

impl Semantics for LayerNorm {
    const CLASS: OpClass = OpClass::Reduction;

    fn infer(&self, operands: &[&Type]) -> Result<Vec<Type>, TypeError> {
        let x = operands[0].tensor()?;
        check_operands(x, operands[1], operands.get(2))?;
        Ok(vec![x.clone().rounded(self.to)?.into()])
    }

    fn eval(&self, operands: &[&HostTensor], _: &mut KvState) -> Result<Vec<HostTensor>, String> {
        Ok(vec![layer_norm(operands[0], &operands[1..], self.eps)])
    }
}

impl Semantics for AddLayerNorm {
    const CLASS: OpClass = OpClass::Reduction;

    fn infer(&self, operands: &[&Type]) -> Result<Vec<Type>, TypeError> {
        let (a, b) = (operands[0].tensor()?, operands[1].tensor()?);
        expect_same("the types of a and b", a, b)?;
        check_operands(a, operands[2], operands.get(3))?;
        Ok(vec![a.clone().into(), a.clone().rounded(self.to)?.into()])
    }

    fn eval(&self, operands: &[&HostTensor], _: &mut KvState) -> Result<Vec<HostTensor>, String> {
        let sum = operands[0].zip(operands[1], |a, b| a + b);
        let normed = layer_norm(&sum, &operands[2..], self.eps);
        Ok(vec![sum, normed])
    }
}
