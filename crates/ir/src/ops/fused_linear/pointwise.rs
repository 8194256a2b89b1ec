//! Elementwise functions of an epilogue, such as `gelu_tanh` or `scale(0.5)`: any scalar function of one element and
//! constants.

use plan::{Apply, DType, Formula, ScalarFn, Store, Term};

use crate::{AttrValue, Attribute};

/// Maximum number of constants: `clamp` has two.
const NUMBERS: usize = 2;

/// A scalar function of each element.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pointwise {
    function: ScalarFn,
    /// The constants of the function; zeros after those.
    numbers: [f32; NUMBERS],
}

impl Pointwise {
    /// The function of a formula, if it is a single one of one operand and constants.
    pub fn of(formula: &Formula) -> Option<Pointwise> {
        let ([Apply { function, args }], [Store { value: Term::Step(0), .. }]) = (formula.steps(), formula.stores())
        else {
            return None;
        };
        let (Term::Input(0), args) = args.split_first()? else { return None };
        let number = |term: &Term| match term {
            Term::Number(number) => Some(*number),
            _ => None,
        };
        Pointwise::with(*function, args.iter().map(number))
    }

    /// The formula of several in sequence, with a result of this dtype; `None` for an empty list.
    pub fn formula(functions: &[Pointwise], dtype: DType) -> Option<Formula> {
        let last = Term::Step(functions.len().checked_sub(1)? as u32);
        let step = |(index, pointwise): (usize, &Pointwise)| {
            let x = index.checked_sub(1).map_or(Term::Input(0), |before| Term::Step(before as u32));
            let args = [x].into_iter().chain(pointwise.numbers().iter().copied().map(Term::Number));
            Apply { function: pointwise.function, args: args.collect() }
        };
        Formula::new(functions.iter().enumerate().map(step).collect(), vec![Store { dtype, value: last }]).ok()
    }

    /// The spelling in attributes, by the name of the op.
    pub(super) fn to_value(self) -> AttrValue {
        let name = match self.function {
            ScalarFn::Mul => "scale",
            ScalarFn::Add => "offset",
            function => function.name(),
        };
        match self.numbers() {
            [] => AttrValue::Word(name.to_owned()),
            numbers => AttrValue::Call(name.to_owned(), numbers.iter().map(Attribute::to_value).collect()),
        }
    }

    pub(super) fn from_value(value: &AttrValue) -> Option<Pointwise> {
        let (name, numbers) = match value {
            AttrValue::Word(name) => (name, &[][..]),
            AttrValue::Call(name, numbers) => (name, numbers.as_slice()),
            _ => return None,
        };
        let function = match name.as_str() {
            "scale" => ScalarFn::Mul,
            "offset" => ScalarFn::Add,
            "mul" | "add" => return None,
            name => ScalarFn::find(name)?,
        };
        Pointwise::with(function, numbers.iter().map(f32::from_value))
    }

    fn with(function: ScalarFn, found: impl ExactSizeIterator<Item = Option<f32>>) -> Option<Pointwise> {
        (found.len() + 1 == function.arity()).then_some(())?;
        let mut numbers = [0.0; NUMBERS];
        for (number, found) in numbers.iter_mut().zip(found) {
            *number = found?;
        }
        Some(Pointwise { function, numbers })
    }

    fn numbers(&self) -> &[f32] {
        &self.numbers[..self.function.arity() - 1]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_function_has_a_spelling_that_reads_back() {
        for function in ScalarFn::ALL {
            let numbers = (1..function.arity()).map(|number| Some(number as f32));
            let pointwise = Pointwise::with(*function, numbers).expect("as many numbers as it takes");
            assert_eq!(Pointwise::from_value(&pointwise.to_value()), Some(pointwise));
            let formula = Pointwise::formula(&[pointwise], DType::F32).expect("a formula");
            assert_eq!(Pointwise::of(&formula), Some(pointwise));
        }
    }

    #[test]
    fn what_is_no_function_of_one_element_is_none() {
        for text in ["[f32(x0)]", "[mul(x0, x0), f32(v0)]", "[gelu(x0), silu(v0), f32(v1)]", "[gelu(x0), f32(x0)]"] {
            assert_eq!(Pointwise::of(&text.parse().expect("a formula")), None, "{text}");
        }
    }
}
