//! The op: its name in text, its types, and its semantics.

use smelt::extend::ir::{HostTensor, KvState, OpClass, Semantics, Type, TypeError, type_error};
use smelt::extend::op;

op! {
    /// `limit * tanh(x / limit)`: about `x` while that is small, never beyond the limit.
    pub struct SoftClip = "soft_clip" (x) { limit: f32 }
}

impl Semantics for SoftClip {
    const CLASS: OpClass = OpClass::Elementwise;

    fn infer(&self, operands: &[&Type]) -> Result<Vec<Type>, TypeError> {
        let x = operands[0].tensor()?;
        if !x.dtype.is_float() {
            return type_error(format!("expected a floating-point tensor, found {x}"));
        }
        if !(self.limit > 0.0 && self.limit.is_finite()) {
            return type_error(format!("expected a positive limit, found {}", self.limit));
        }
        Ok(vec![x.clone().into()])
    }

    fn eval(&self, operands: &[&HostTensor], _: &mut KvState) -> Result<Vec<HostTensor>, String> {
        Ok(vec![operands[0].map(|x| self.limit * (x / self.limit).tanh())])
    }
}
