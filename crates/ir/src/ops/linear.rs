//! The product of activations and a weight.

use plan::DType;

use crate::{
    HostTensor, KvState, OpClass, Semantics, TensorType, Type, TypeError, expect_rank, expect_same, op, type_error,
};

op! {
    /// `x @ weight^T + bias`: `[T, K]`, `[N, K]` and `[N]` to `[T, N]`, accumulated in f32. The result has the dtype of
    /// `x`, or `to`; weight and bias may have other dtypes.
    pub struct Linear = "linear" (x, weight; bias) { to: Option<DType> }
}

impl Semantics for Linear {
    const CLASS: OpClass = OpClass::Matmul;

    fn infer(&self, operands: &[&Type]) -> Result<Vec<Type>, TypeError> {
        let (x, weight) = (operands[0].tensor()?, operands[1].tensor()?);
        expect_rank("x", x, 2)?;
        expect_rank("weight", weight, 2)?;
        expect_same("the widths of x and weight", &x.shape[1], &weight.shape[1])?;
        if let Some(bias) = operands.get(2) {
            let bias = bias.tensor()?;
            expect_rank("bias", bias, 1)?;
            expect_same("the rows of weight and bias", &weight.shape[0], &bias.shape[0])?;
        }
        if operands.iter().any(|ty| ty.tensor().is_ok_and(|ty| !ty.dtype.is_float())) {
            return type_error("expected floating-point operands");
        }
        let shape = vec![x.shape[0].clone(), weight.shape[0].clone()];
        Ok(vec![TensorType { dtype: x.dtype, shape }.rounded(self.to)?.into()])
    }

    fn eval(&self, operands: &[&HostTensor], _: &mut KvState) -> Result<Vec<HostTensor>, String> {
        let product = product(operands[0], operands[1]);
        Ok(vec![match operands.get(2) {
            Some(bias) => add_bias(&product, bias),
            None => product,
        }])
    }
}

/// `x @ weight^T`.
pub(super) fn product(x: &HostTensor, weight: &HostTensor) -> HostTensor {
    let mut values = Vec::with_capacity(x.shape[0] * weight.shape[0]);
    for row in x.rows() {
        values.extend(weight.rows().map(|weights| row.iter().zip(weights).map(|(a, b)| a * b).sum::<f32>()));
    }
    HostTensor::f32([x.shape[0], weight.shape[0]], values)
}

/// Adds the bias to every row.
pub(super) fn add_bias(x: &HostTensor, bias: &HostTensor) -> HostTensor {
    let values = x.rows().flat_map(|row| row.iter().zip(bias.floats()).map(|(a, b)| a + b)).collect();
    HostTensor::f32(x.shape.clone(), values)
}
