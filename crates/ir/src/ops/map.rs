//! An elementwise region: several elementwise ops as one formula. Also what all those ops share.

use plan::{BLOCK, DType, Dim, Formula, Registers, Term};

use crate::{
    AttrValue, Attribute, HostTensor, KvState, OpClass, Semantics, TensorType, Type, TypeError, expect_same, op,
    type_error,
};

op! {
    /// An elementwise formula, computed in f32: `[silu(x0), mul(v0, x1), bf16(v1)]` is `silu(x0) * x1`, rounded to
    /// bf16. `x0` is the first operand, `v0` the value of the first step; each dtype stores a result. Operands have one
    /// shape, or are broadcast rows of it.
    pub struct Map = "map" (x..) { f: Formula }
}

impl Attribute for Formula {
    const EXPECTED: &'static str = "a formula such as `[silu(x0), mul(v0, x1), bf16(v1)]`";

    fn to_value(&self) -> AttrValue {
        let term = |term: &Term| match term {
            Term::Number(number) => number.to_value(),
            name => AttrValue::Word(name.to_string()),
        };
        let steps = self
            .steps()
            .iter()
            .map(|step| AttrValue::Call(step.function.name().to_owned(), step.args.iter().map(term).collect()));
        let stores = self.stores().iter();
        let stores = stores.map(|store| AttrValue::Call(store.dtype.name().to_owned(), vec![term(&store.value)]));
        AttrValue::List(steps.chain(stores).collect())
    }

    fn from_value(value: &AttrValue) -> Option<Formula> {
        // the text of a value is that of a formula
        value.to_string().parse().ok()
    }
}

/// The operand with the shape of the results: the one of highest rank. The others have that shape, or are a broadcast
/// row.
pub(super) fn full_type<'a>(operands: &[&'a TensorType]) -> Result<&'a TensorType, TypeError> {
    let mut full: Option<&TensorType> = None;
    for ty in operands {
        if !ty.dtype.is_float() {
            return type_error(format!("expected a floating-point tensor, found {ty}"));
        }
        full = full.filter(|full| full.shape.len() >= ty.shape.len()).or(Some(ty));
    }
    let Some(full) = full else { return type_error("expected at least 1 operand, found 0") };
    for ty in operands {
        let is_row = ty.shape.len() == 1 && full.shape.len() > 1 && ty.shape.last() == full.shape.last();
        if !is_row && ty.shape != full.shape {
            expect_same("the operands' types", full, *ty)?;
        }
    }
    Ok(full)
}

/// The results of a formula, not yet rounded. Operands have been type-checked.
pub(super) fn evaluate(formula: &Formula, operands: &[&HostTensor]) -> Vec<HostTensor> {
    let Some(full) = operands.iter().max_by_key(|operand| operand.shape.len()) else { return Vec::new() };
    let (width, elements) = (full.width(), full.floats().len());
    let mut results = vec![Vec::with_capacity(elements); formula.stores().len()];
    let mut registers = Registers::of(formula);
    for row in (0..elements).step_by(width.max(1)) {
        for column in (0..width).step_by(BLOCK) {
            let len = BLOCK.min(width - column);
            let blocks = operands.iter().map(|operand| {
                let start = if operand.shape.len() < full.shape.len() { column } else { row + column };
                &operand.floats()[start..start + len]
            });
            let inputs: Vec<&[f32]> = blocks.collect();
            formula.compute(&inputs, len, &mut registers);
            for (index, result) in results.iter_mut().enumerate() {
                result.extend_from_slice(formula.result(index, &inputs, len, &registers));
            }
        }
    }
    results.into_iter().map(|values| HostTensor::f32(full.shape.clone(), values)).collect()
}

impl Semantics for Map {
    const CLASS: OpClass = OpClass::Elementwise;

    fn infer(&self, operands: &[&Type]) -> Result<Vec<Type>, TypeError> {
        let types = operands.iter().map(|ty| ty.tensor()).collect::<Result<Vec<_>, _>>()?;
        if types.len() != self.f.inputs() {
            return type_error(format!("expected {} operands, found {}", self.f.inputs(), types.len()));
        }
        let shape: &Vec<Dim> = &full_type(&types)?.shape;
        let result = |dtype| TensorType { dtype, shape: shape.clone() }.into();
        Ok(self.f.stores().iter().map(|store| result(store.dtype)).collect())
    }

    fn eval(&self, operands: &[&HostTensor], _: &mut KvState) -> Result<Vec<HostTensor>, String> {
        Ok(evaluate(&self.f, operands))
    }

    fn formula(&self, _: &[DType]) -> Option<Formula> {
        Some(self.f.clone())
    }
}
