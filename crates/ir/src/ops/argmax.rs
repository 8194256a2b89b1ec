//! The index of the largest element: greedy sampling.

use plan::DType;

use crate::{HostTensor, KvState, OpClass, Semantics, TensorType, Type, TypeError, expect_rank, op, type_error};

op! {
    /// The index of the largest of the first `classes` elements of each row, the smallest such index on a tie: `[R, V]`
    /// to i32 `[R]`. -1 if they contain NaN or positive infinity, or nothing finite. `classes` excludes the rows that
    /// pad an embedding table past its tokenizer.
    pub struct Argmax = "argmax" (x) { classes: u32 }
}

impl Semantics for Argmax {
    const CLASS: OpClass = OpClass::Reduction;

    fn infer(&self, operands: &[&Type]) -> Result<Vec<Type>, TypeError> {
        let x = operands[0].tensor()?;
        expect_rank("x", x, 2)?;
        if self.classes == 0 {
            return type_error("expected at least 1 class, found 0");
        }
        match x.width() {
            Some(width) if u64::from(self.classes) <= width && x.dtype.is_float() => {
                Ok(vec![TensorType { dtype: DType::I32, shape: vec![x.shape[0].clone()] }.into()])
            }
            _ => type_error(format!("expected a floating-point tensor at least {} wide, found {x}", self.classes)),
        }
    }

    fn eval(&self, operands: &[&HostTensor], _: &mut KvState) -> Result<Vec<HostTensor>, String> {
        let best = |row: &[f32]| plan::most_likely(&row[..self.classes as usize]);
        let values: Vec<i32> = operands[0].rows().map(best).collect();
        Ok(vec![HostTensor::i32([values.len()], values)])
    }
}
