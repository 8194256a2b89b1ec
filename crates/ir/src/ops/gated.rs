//! The gated activation of a decoder's MLP.

use plan::{Apply, DType, Formula, ScalarFn, Term};

use super::elementwise::chain;
use super::map::evaluate;
use crate::{HostTensor, KvState, OpClass, Semantics, Type, TypeError, expect_rank, expect_same, op, type_error};

op! {
    /// `silu(gate) * up`, of equal types.
    pub struct SiluMul = "silu_mul" (gate, up) {}
}

op! {
    /// `silu(gate) * up`, where `gate` and `up` are the left and the right half of each row: `[T, 2 * I]` to `[T, I]`.
    pub struct Swiglu = "swiglu" (gate_up) {}
}

impl Semantics for SiluMul {
    const CLASS: OpClass = OpClass::Elementwise;

    fn infer(&self, operands: &[&Type]) -> Result<Vec<Type>, TypeError> {
        let (gate, up) = (operands[0].tensor()?, operands[1].tensor()?);
        expect_same("the types of gate and up", gate, up)?;
        match gate.dtype.is_float() {
            true => Ok(vec![gate.clone().into()]),
            false => type_error(format!("expected a floating-point tensor, found {gate}")),
        }
    }

    fn eval(&self, operands: &[&HostTensor], _: &mut KvState) -> Result<Vec<HostTensor>, String> {
        Ok(silu_mul(operands))
    }

    fn formula(&self, results: &[DType]) -> Option<Formula> {
        let activated = Apply { function: ScalarFn::Silu, args: vec![Term::Input(0)] };
        let gated = Apply { function: ScalarFn::Mul, args: vec![Term::Step(0), Term::Input(1)] };
        chain(vec![activated, gated], results)
    }
}

impl Semantics for Swiglu {
    const CLASS: OpClass = OpClass::Reduction;

    fn infer(&self, operands: &[&Type]) -> Result<Vec<Type>, TypeError> {
        let gate_up = operands[0].tensor()?;
        expect_rank("gate_up", gate_up, 2)?;
        match gate_up.width() {
            Some(width) if width % 2 == 0 && gate_up.dtype.is_float() => Ok(vec![gate_up.with_width(width / 2).into()]),
            _ => type_error(format!("expected a floating-point tensor of even constant width, found {gate_up}")),
        }
    }

    fn eval(&self, operands: &[&HostTensor], _: &mut KvState) -> Result<Vec<HostTensor>, String> {
        Ok(swiglu(operands[0]))
    }
}

fn silu_mul(operands: &[&HostTensor]) -> Vec<HostTensor> {
    SiluMul {}.formula(&[DType::F32]).map_or_else(Vec::new, |formula| evaluate(&formula, operands))
}

/// `silu(left half) * right half` of each row.
pub(super) fn swiglu(gate_up: &HostTensor) -> Vec<HostTensor> {
    let half = gate_up.width() / 2;
    let part = |start: usize| {
        let values = gate_up.rows().flat_map(|row| &row[start..start + half]).copied().collect();
        HostTensor::f32([gate_up.shape[0], half], values)
    };
    silu_mul(&[&part(0), &part(half)])
}
