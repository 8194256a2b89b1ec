//! Ops on elements of equal index: `add`, `mul`, `silu`, `cast`.

use plan::DType;

use crate::{HostTensor, KvState, OpClass, Semantics, TensorType, Type, TypeError, expect_same, op, type_error};

op! {
    /// `a + b`, of equal types.
    pub struct Add = "add" (a, b) {}
}

op! {
    /// `a * b`, of equal types.
    pub struct Mul = "mul" (a, b) {}
}

op! {
    /// `x / (1 + exp(-x))`.
    pub struct Silu = "silu" (x) {}
}

op! {
    /// The same values in another floating-point dtype, rounded to nearest even.
    pub struct Cast = "cast" (x) { to: DType }
}

/// The sigmoid linear unit of one value.
pub(super) fn silu(x: f32) -> f32 {
    x / (1.0 + (-x).exp())
}

fn binary(operands: &[&Type]) -> Result<Vec<Type>, TypeError> {
    let (a, b) = (operands[0].tensor()?, operands[1].tensor()?);
    expect_same("the operands' types", a, b)?;
    floats(a)?;
    Ok(vec![a.clone().into()])
}

fn floats(ty: &TensorType) -> Result<(), TypeError> {
    if ty.dtype.is_float() { Ok(()) } else { type_error(format!("expected a floating-point tensor, found {ty}")) }
}

impl Semantics for Add {
    const CLASS: OpClass = OpClass::Elementwise;

    fn infer(&self, operands: &[&Type]) -> Result<Vec<Type>, TypeError> {
        binary(operands)
    }

    fn eval(&self, operands: &[&HostTensor], _: &mut KvState) -> Result<Vec<HostTensor>, String> {
        Ok(vec![operands[0].zip(operands[1], |a, b| a + b)])
    }
}

impl Semantics for Mul {
    const CLASS: OpClass = OpClass::Elementwise;

    fn infer(&self, operands: &[&Type]) -> Result<Vec<Type>, TypeError> {
        binary(operands)
    }

    fn eval(&self, operands: &[&HostTensor], _: &mut KvState) -> Result<Vec<HostTensor>, String> {
        Ok(vec![operands[0].zip(operands[1], |a, b| a * b)])
    }
}

impl Semantics for Silu {
    const CLASS: OpClass = OpClass::Elementwise;

    fn infer(&self, operands: &[&Type]) -> Result<Vec<Type>, TypeError> {
        let x = operands[0].tensor()?;
        floats(x)?;
        Ok(vec![x.clone().into()])
    }

    fn eval(&self, operands: &[&HostTensor], _: &mut KvState) -> Result<Vec<HostTensor>, String> {
        Ok(vec![operands[0].map(silu)])
    }
}

impl Semantics for Cast {
    const CLASS: OpClass = OpClass::Elementwise;

    fn infer(&self, operands: &[&Type]) -> Result<Vec<Type>, TypeError> {
        let x = operands[0].tensor()?;
        floats(x)?;
        if !self.to.is_float() {
            return type_error(format!("expected a floating-point dtype, found {}", self.to));
        }
        Ok(vec![TensorType { dtype: self.to, shape: x.shape.clone() }.into()])
    }

    fn eval(&self, operands: &[&HostTensor], _: &mut KvState) -> Result<Vec<HostTensor>, String> {
        Ok(vec![operands[0].clone()])
    }
}
