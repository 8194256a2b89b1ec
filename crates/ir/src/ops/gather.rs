//! Rows of a tensor by index.

use plan::DType;

use crate::{
    HostTensor, KvState, OpClass, Semantics, TensorType, Type, TypeError, expect_dtype, expect_rank, op, type_error,
};

op! {
    /// Row `rows[r]` of `x` for each `r`: `[T, H]` and i32 `[R]` to `[R, H]`. Only these rows reach `lm_head`.
    pub struct GatherRows = "gather_rows" (x, rows) {}
}

impl Semantics for GatherRows {
    const CLASS: OpClass = OpClass::Movement;

    fn infer(&self, operands: &[&Type]) -> Result<Vec<Type>, TypeError> {
        let (x, rows) = (operands[0].tensor()?, operands[1].tensor()?);
        expect_rank("x", x, 2)?;
        expect_rank("rows", rows, 1)?;
        expect_dtype("rows", rows, DType::I32)?;
        if !x.dtype.is_float() {
            return type_error(format!("expected a floating-point tensor, found {x}"));
        }
        let shape = vec![rows.shape[0].clone(), x.shape[1].clone()];
        Ok(vec![TensorType { dtype: x.dtype, shape }.into()])
    }

    fn eval(&self, operands: &[&HostTensor], _: &mut KvState) -> Result<Vec<HostTensor>, String> {
        let (x, rows) = (operands[0], operands[1].ints());
        let mut values = Vec::with_capacity(rows.len() * x.width());
        for index in rows {
            let row = usize::try_from(*index).ok().and_then(|index| x.rows().nth(index));
            values.extend_from_slice(row.ok_or_else(|| format!("row {index} is outside {} rows", x.shape[0]))?);
        }
        Ok(vec![HostTensor::f32([rows.len(), x.width()], values)])
    }
}
