//! Elementwise ops, one row each. Each is a formula, from which reference semantics, CPU and GPU code are derived.

use plan::{Apply, DType, Formula, ScalarFn, Store, Term};

use super::map::{evaluate, full_type};
use crate::{
    HostTensor, KvState, OpClass, OpInfo, Semantics, TensorType, Type, TypeError, expect_same, op, type_error,
};

/// Ops that are one function of [`ScalarFn`]. Its arguments are the operands, then the attributes.
macro_rules! elementwise {
    ($(
        $(#[doc = $doc:literal])+
        $op:ident = $mnemonic:literal ($($operand:ident),+) $({ $($number:ident),+ })? is $function:ident;
    )+) => {
        $(
            op! {
                $(#[doc = $doc])+
                pub struct $op = $mnemonic ($($operand),+) { $($($number: f32),+)? }
            }

            impl Semantics for $op {
                const CLASS: OpClass = OpClass::Elementwise;

                fn infer(&self, operands: &[&Type]) -> Result<Vec<Type>, TypeError> {
                    Ok(vec![same_dtype(operands, &[$($(self.$number),+)?])?.into()])
                }

                fn eval(&self, operands: &[&HostTensor], _: &mut KvState) -> Result<Vec<HostTensor>, String> {
                    Ok(self.formula(&[DType::F32]).map_or_else(Vec::new, |formula| evaluate(&formula, operands)))
                }

                fn formula(&self, results: &[DType]) -> Option<Formula> {
                    let operands = [$(stringify!($operand)),+].len() as u32;
                    let numbers: &[f32] = &[$($(self.$number),+)?];
                    let args = (0..operands).map(Term::Input).chain(numbers.iter().copied().map(Term::Number));
                    chain(vec![Apply { function: ScalarFn::$function, args: args.collect() }], results)
                }
            }
        )+

        /// The ops of this file.
        pub(super) fn listed() -> Vec<OpInfo> {
            vec![OpInfo::of::<Cast>(), $(OpInfo::of::<$op>()),+]
        }
    };
}

elementwise! {
    /// `a + b`, of equal types; one of them may be a row `[N]` that is broadcast.
    Add = "add" (a, b) is Add;
    /// `a * b`, of equal types; one of them may be a row `[N]` that is broadcast.
    Mul = "mul" (a, b) is Mul;
    /// `x * by`, with a constant `by`.
    Scale = "scale" (x) { by } is Mul;
    /// `x + by`, with a constant `by`.
    Offset = "offset" (x) { by } is Add;
    /// `x / (1 + exp(-x))`.
    Silu = "silu" (x) is Silu;
    /// `1 / (1 + exp(-x))`.
    Sigmoid = "sigmoid" (x) is Sigmoid;
    /// `tanh(x)`.
    Tanh = "tanh" (x) is Tanh;
    /// `max(x, 0)`.
    Relu = "relu" (x) is Relu;
    /// `x * P(X <= x)` of a standard normal variable `X`. (GELU, arXiv 1606.08415.)
    Gelu = "gelu" (x) is Gelu;
    /// The tanh approximation of `gelu`: `gelu_pytorch_tanh` and `gelu_new` in Hugging Face files.
    GeluTanh = "gelu_tanh" (x) is GeluTanh;
    /// `cap * tanh(x / cap)`: bounds logits by `cap`. (Gemma 2, arXiv 2408.00118.)
    Softcap = "softcap" (x) { cap } is Softcap;
    /// `min(max(x, low), high)`.
    Clamp = "clamp" (x) { low, high } is Clamp;
}

op! {
    /// The same values in another floating-point dtype, rounded to nearest even.
    pub struct Cast = "cast" (x) { to: DType }
}

/// A formula whose last step is its only result.
pub(super) fn chain(steps: Vec<Apply>, results: &[DType]) -> Option<Formula> {
    let value = steps.len().checked_sub(1).map_or(Term::Input(0), |last| Term::Step(last as u32));
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
