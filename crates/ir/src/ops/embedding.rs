//! Rows of a table by token id.

use plan::DType;

use crate::{
    HostTensor, KvState, OpClass, Semantics, TensorType, Type, TypeError, expect_dtype, expect_rank, op, type_error,
};

op! {
    /// Row `tokens[t]` of `table` for each token: i32 `[T]` and `[V, H]` to `[T, H]`.
    pub struct Embedding = "embedding" (tokens, table) {}
}

impl Semantics for Embedding {
    const CLASS: OpClass = OpClass::Movement;

    fn infer(&self, operands: &[&Type]) -> Result<Vec<Type>, TypeError> {
        let (tokens, table) = (operands[0].tensor()?, operands[1].tensor()?);
        expect_rank("tokens", tokens, 1)?;
        expect_dtype("tokens", tokens, DType::I32)?;
        expect_rank("table", table, 2)?;
        if !table.dtype.is_float() {
            return type_error(format!("expected a floating-point table, found {table}"));
        }
        let shape = vec![tokens.shape[0].clone(), table.shape[1].clone()];
        Ok(vec![TensorType { dtype: table.dtype, shape }.into()])
    }

    fn eval(&self, operands: &[&HostTensor], _: &mut KvState) -> Result<Vec<HostTensor>, String> {
        let (tokens, table) = (operands[0].ints(), operands[1]);
        let mut values = Vec::with_capacity(tokens.len() * table.width());
        for token in tokens {
            let row = usize::try_from(*token).ok().and_then(|index| table.rows().nth(index));
            let row = row.ok_or_else(|| format!("token {token} is outside the vocabulary of {}", table.shape[0]))?;
            values.extend_from_slice(row);
        }
        Ok(vec![HostTensor::f32([tokens.len(), table.width()], values)])
    }
}
