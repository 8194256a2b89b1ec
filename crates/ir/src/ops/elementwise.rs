//! Elementwise ops. Each is a formula, from which reference semantics, CPU and GPU code are derived.

use plan::{Apply, DType, Formula, ScalarFn, Store, Term};

use super::map::{evaluate, full_type};
use crate::{HostTensor, KvState, OpClass, Semantics, TensorType, Type, TypeError, expect_same, op, type_error};

op! {
    /// `a + b`, of equal types; one of them may be a row `[N]` that is broadcast.
    pub struct Add = "add" (a, b) {}
}

op! {
    /// `a * b`, of equal types; one of them may be a row `[N]` that is broadcast.
    pub struct Mul = "mul" (a, b) {}
}

op! {
    /// `x * by`, with a constant `by`.
    pub struct Scale = "scale" (x) { by: f32 }
}

op! {
    /// `x + by`, with a constant `by`.
    pub struct Offset = "offset" (x) { by: f32 }
}

op! {
    /// `x / (1 + exp(-x))`.
    pub struct Silu = "silu" (x) {}
}

op! {
    /// `1 / (1 + exp(-x))`.
    pub struct Sigmoid = "sigmoid" (x) {}
}

op! {
    /// `tanh(x)`.
    pub struct Tanh = "tanh" (x) {}
}

op! {
    /// `max(x, 0)`.
    pub struct Relu = "relu" (x) {}
}

op! {
    /// `x * P(X <= x)` of a standard normal variable `X`. (GELU, arXiv 1606.08415.)
    pub struct Gelu = "gelu" (x) {}
}

op! {
    /// The tanh approximation of `gelu`: `gelu_pytorch_tanh` and `gelu_new` in Hugging Face files.
    pub struct GeluTanh = "gelu_tanh" (x) {}
}

op! {
    /// `cap * tanh(x / cap)`: bounds logits by `cap`. (Gemma 2, arXiv 2408.00118.)
    pub struct Softcap = "softcap" (x) { cap: f32 }
}

op! {
    /// `min(max(x, low), high)`.
    pub struct Clamp = "clamp" (x) { low: f32, high: f32 }
}

op! {
    /// The same values in another floating-point dtype, rounded to nearest even.
    pub struct Cast = "cast" (x) { to: DType }
}

/// The first operand, and the second.
const X: Term = Term::Input(0);
const Y: Term = Term::Input(1);

/// A formula whose last step is its only result.
pub(super) fn chain(steps: Vec<Apply>, results: &[DType]) -> Option<Formula> {
    let value = steps.len().checked_sub(1).map_or(X, |last| Term::Step(last as u32));
    let [dtype] = *results else { return None };
    Formula::new(steps, vec![Store { dtype, value }]).ok()
}

/// The type of a result with the dtype of its operands; constants must be finite.
fn same_dtype(operands: &[&Type], numbers: &[f32]) -> Result<TensorType, TypeError> {
    let types = operands.iter().map(|ty| ty.tensor()).collect::<Result<Vec<_>, _>>()?;
    let full = full_type(&types)?;
    types
        .iter()
        .filter(|ty| ty.dtype != full.dtype)
        .try_for_each(|ty| expect_same("the operands' types", full, *ty))?;
    match numbers.iter().find(|number| !number.is_finite()) {
        Some(number) => type_error(format!("expected a finite number, found {number}")),
        None => Ok(full.clone()),
    }
}

/// Semantics of ops that are one scalar function of operands and constants, in the order of its arguments.
macro_rules! functions {
    ($($op:ident: $function:ident($op_self:ident: $($operand:ident),+ $(; $($number:ident),+)?);)+) => {$(
        impl Semantics for $op {
            const CLASS: OpClass = OpClass::Elementwise;

            fn infer(&self, operands: &[&Type]) -> Result<Vec<Type>, TypeError> {
                Ok(vec![same_dtype(operands, &[$($(self.$number),+)?])?.into()])
            }

            fn eval(&self, operands: &[&HostTensor], _: &mut KvState) -> Result<Vec<HostTensor>, String> {
                Ok(self.formula(&[DType::F32]).map_or_else(Vec::new, |formula| evaluate(&formula, operands)))
            }

            fn formula(&$op_self, results: &[DType]) -> Option<Formula> {
                let args = vec![$($operand),+ $($(, Term::Number($op_self.$number))+)?];
                chain(vec![Apply { function: ScalarFn::$function, args }], results)
            }
        }
    )+};
}

functions! {
    Add: Add(self: X, Y);
    Mul: Mul(self: X, Y);
    Scale: Mul(self: X; by);
    Offset: Add(self: X; by);
    Silu: Silu(self: X);
    Sigmoid: Sigmoid(self: X);
    Tanh: Tanh(self: X);
    Relu: Relu(self: X);
    Gelu: Gelu(self: X);
    GeluTanh: GeluTanh(self: X);
    Softcap: Softcap(self: X; cap);
    Clamp: Clamp(self: X; low, high);
}

impl Semantics for Cast {
    const CLASS: OpClass = OpClass::Elementwise;

    fn infer(&self, operands: &[&Type]) -> Result<Vec<Type>, TypeError> {
        let x = full_type(&[operands[0].tensor()?])?;
        if !self.to.is_float() {
            return type_error(format!("expected a floating-point dtype, found {}", self.to));
        }
        Ok(vec![TensorType { dtype: self.to, shape: x.shape.clone() }.into()])
    }

    fn eval(&self, operands: &[&HostTensor], _: &mut KvState) -> Result<Vec<HostTensor>, String> {
        Ok(vec![operands[0].clone()])
    }

    fn formula(&self, results: &[DType]) -> Option<Formula> {
        chain(Vec::new(), results)
    }
}
