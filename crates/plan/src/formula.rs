//! Elementwise formulas of `map` ops: steps in order, then results. As text, `[silu(x0), mul(v0, x1), bf16(v1)]`: `x0`
//! is an operand, `v0` the value of the first step, and a dtype stores a value. Formulas of a plan are hostile input:
//! sizes, names, numbers of arguments and order are checked on construction.

use std::fmt;
use std::str::FromStr;

use crate::DType;
use crate::scalar::{MAX_ARITY, ScalarFn};

/// Elements per block: the values of a step stay in the L1 cache.
pub const BLOCK: usize = 256;

/// An argument.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Term {
    /// An element of an operand.
    Input(u32),
    /// The value of an earlier step.
    Step(u32),
    /// A number.
    Number(f32),
}

/// A step: a function and its arguments.
#[derive(Clone, Debug, PartialEq)]
pub struct Apply {
    /// The function.
    pub function: ScalarFn,
    /// As many as it takes.
    pub args: Vec<Term>,
}

/// A result.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Store {
    /// The dtype that it is rounded to; steps are f32.
    pub dtype: DType,
    /// The value.
    pub value: Term,
}

/// A checked formula.
#[derive(Clone, Debug, PartialEq)]
pub struct Formula {
    steps: Vec<Apply>,
    stores: Vec<Store>,
}

impl Formula {
    /// Maximum number of operands: their elements are in registers of a GPU thread at the same time, eight of each.
    pub const MAX_INPUTS: usize = 8;
    /// Maximum number of steps.
    pub const MAX_STEPS: usize = 32;
    /// Maximum number of results.
    pub const MAX_RESULTS: usize = 4;

    /// A formula of these steps and results; the error says what is wrong with them.
    pub fn new(steps: Vec<Apply>, stores: Vec<Store>) -> Result<Formula, String> {
        if steps.len() > Formula::MAX_STEPS || !(1..=Formula::MAX_RESULTS).contains(&stores.len()) {
            return Err(format!(
                "expected at most {} steps and 1 to {} results, found {} and {}",
                Formula::MAX_STEPS,
                Formula::MAX_RESULTS,
                steps.len(),
                stores.len()
            ));
        }
        for (index, Apply { function, args }) in steps.iter().enumerate() {
            let (name, arity) = (function.name(), function.arity());
            if args.len() != arity {
                return Err(format!("expected {arity} arguments of `{name}`, found {}", args.len()));
            }
            args.iter().try_for_each(|term| check(*term, index))?;
        }
        for store in &stores {
            check(store.value, steps.len())?;
            if !store.dtype.is_float() {
                return Err(format!("expected a result of a floating-point dtype, found {}", store.dtype));
            }
        }
        let formula = Formula { steps, stores };
        match formula.inputs() {
            0 => Err("expected a formula of at least one operand".to_owned()),
            _ => Ok(formula),
        }
    }

    /// The steps, in order.
    pub fn steps(&self) -> &[Apply] {
        &self.steps
    }

    /// The results, in order.
    pub fn stores(&self) -> &[Store] {
        &self.stores
    }

    /// Number of operands: one more than the largest index.
    pub fn inputs(&self) -> usize {
        let args = self.steps.iter().flat_map(|step| &step.args);
        let terms = args.chain(self.stores.iter().map(|store| &store.value));
        let named = terms.filter_map(|term| match term {
            Term::Input(index) => Some(*index as usize + 1),
            _ => None,
        });
        named.max().unwrap_or(0)
    }

    /// Computes all steps for `len` elements, at most [`BLOCK`], of each operand.
    pub fn compute(&self, inputs: &[&[f32]], len: usize, registers: &mut Registers) {
        let numbers = registers.numbers.len();
        for (index, step) in self.steps.iter().enumerate() {
            let (known, rest) = registers.blocks.split_at_mut(numbers + index);
            let mut args: [&[f32]; MAX_ARITY] = [&[]; MAX_ARITY];
            for (arg, term) in args.iter_mut().zip(&step.args) {
                *arg = block(*term, inputs, &registers.numbers, known, len);
            }
            step.function.apply(args, &mut rest[0][..len]);
        }
    }

    /// The result of this index, not yet rounded, for the latest block.
    pub fn result<'a>(&self, index: usize, inputs: &[&'a [f32]], len: usize, registers: &'a Registers) -> &'a [f32] {
        block(self.stores[index].value, inputs, &registers.numbers, &registers.blocks, len)
    }
}

fn check(term: Term, steps: usize) -> Result<(), String> {
    let most = Formula::MAX_INPUTS;
    match term {
        Term::Input(index) if index as usize >= most => {
            Err(format!("expected at most {most} operands, found `x{index}`"))
        }
        Term::Step(index) if index as usize >= steps => Err(format!("`v{index}` is used before it is computed")),
        Term::Number(value) if !value.is_finite() => Err(format!("expected a finite number, found {value}")),
        _ => Ok(()),
    }
}

/// Buffers for the values of a formula over one block.
#[derive(Clone, Debug)]
pub struct Registers {
    /// The constants of the formula; their blocks come first.
    numbers: Vec<f32>,
    blocks: Vec<[f32; BLOCK]>,
}

impl Registers {
    /// Registers of a formula.
    pub fn of(formula: &Formula) -> Registers {
        let mut numbers: Vec<f32> = Vec::new();
        let args = formula.steps.iter().flat_map(|step| &step.args);
        for term in args.chain(formula.stores.iter().map(|store| &store.value)) {
            if let Term::Number(value) = term
                && !numbers.iter().any(|known| known.to_bits() == value.to_bits())
            {
                numbers.push(*value);
            }
        }
        let mut blocks: Vec<[f32; BLOCK]> = numbers.iter().map(|number| [*number; BLOCK]).collect();
        blocks.resize(numbers.len() + formula.steps.len(), [0.0; BLOCK]);
        Registers { numbers, blocks }
    }
}

/// The elements of a term. `blocks` are those of the constants, then of the steps so far.
fn block<'a>(term: Term, inputs: &[&'a [f32]], numbers: &[f32], blocks: &'a [[f32; BLOCK]], len: usize) -> &'a [f32] {
    match term {
        Term::Input(index) => &inputs[index as usize][..len],
        Term::Step(index) => &blocks[numbers.len() + index as usize][..len],
        Term::Number(value) => {
            let index = numbers.iter().position(|known| known.to_bits() == value.to_bits());
            &blocks[index.unwrap_or(0)][..len]
        }
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Term::Input(index) => write!(f, "x{index}"),
            Term::Step(index) => write!(f, "v{index}"),
            // Debug prints the shortest digits that read back equal.
            Term::Number(value) => write!(f, "{value:?}"),
        }
    }
}

impl fmt::Display for Apply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let args: Vec<String> = self.args.iter().map(Term::to_string).collect();
        write!(f, "{}({})", self.function.name(), args.join(", "))
    }
}

impl fmt::Display for Formula {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let steps = self.steps.iter().map(Apply::to_string);
        let stores = self.stores.iter().map(|store| format!("{}({})", store.dtype, store.value));
        write!(f, "[{}]", steps.chain(stores).collect::<Vec<_>>().join(", "))
    }
}

/// Longest accepted text: more than the largest formula needs.
const MAX_TEXT: usize = 8 << 10;

impl FromStr for Formula {
    type Err = String;

    fn from_str(text: &str) -> Result<Formula, String> {
        if text.len() > MAX_TEXT {
            return Err(format!("expected a formula of at most {MAX_TEXT} characters, found {}", text.len()));
        }
        let inner = text.trim().strip_prefix('[').and_then(|text| text.strip_suffix(']'));
        let mut rest = inner.ok_or("expected a formula in `[` and `]`")?.trim();
        let (mut steps, mut stores) = (Vec::new(), Vec::new());
        while !rest.is_empty() {
            let (call, tail) = rest.split_once(')').ok_or("expected a `)` after the arguments of a step")?;
            let (name, args) = call.split_once('(').ok_or("expected a function and its arguments in `(` and `)`")?;
            let args = args.split(',').map(|arg| term(arg.trim())).collect::<Result<Vec<Term>, String>>()?;
            match (name.trim().parse::<DType>(), ScalarFn::find(name.trim()), args.as_slice()) {
                (Ok(dtype), _, [value]) => stores.push(Store { dtype, value: *value }),
                (Ok(dtype), _, _) => return Err(format!("expected 1 value to store as {dtype}, found {}", args.len())),
                (_, Some(_), _) if !stores.is_empty() => return Err("expected results after all steps".to_owned()),
                (_, Some(function), _) => steps.push(Apply { function, args }),
                (_, None, _) => return Err(unknown(name.trim())),
            }
            rest = tail.trim_start();
            rest = match rest.strip_prefix(',') {
                Some(more) if !more.trim().is_empty() => more.trim_start(),
                None if rest.is_empty() => rest,
                _ => return Err("expected `, ` between steps".to_owned()),
            };
        }
        Formula::new(steps, stores)
    }
}

fn unknown(name: &str) -> String {
    let known: Vec<&str> = ScalarFn::ALL.iter().map(|function| function.name()).collect();
    format!("unknown function `{name}`, expected a dtype or one of {}", known.join(", "))
}

fn term(text: &str) -> Result<Term, String> {
    let index = |prefix: char| text.strip_prefix(prefix).and_then(|digits| digits.parse::<u32>().ok());
    let number = || text.parse::<f32>().ok().map(Term::Number);
    let term = index('x').map(Term::Input).or_else(|| index('v').map(Term::Step)).or_else(number);
    term.ok_or_else(|| format!("expected `x0`, `v0` or a number, found `{text}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_reads_back_equal() {
        for text in ["[f32(x0)]", "[silu(x0), mul(v0, x1), bf16(v1), f32(v0)]", "[clamp(x0, -1e-7, 0.1), f16(v0)]"] {
            assert_eq!(text.parse::<Formula>().map(|formula| formula.to_string()), Ok(text.to_owned()));
        }
    }

    #[test]
    fn bad_text_is_refused() {
        let refused = |text: &str, expected: &str| {
            let error = text.parse::<Formula>().expect_err(text);
            assert!(error.contains(expected), "`{text}`: {error}");
        };
        refused("silu(x0)", "in `[` and `]`");
        refused("[silu(x0)]", "1 to 4 results, found 1 and 0");
        refused("[]", "1 to 4 results");
        refused("[f32(1.0)]", "at least one operand");
        refused("[exp(x0), f32(v0)]", "unknown function `exp`");
        refused("[add(x0), f32(v0)]", "expected 2 arguments of `add`, found 1");
        refused("[add(x0, v0), f32(v0)]", "`v0` is used before it is computed");
        refused("[silu(x0), f32(v1)]", "`v1` is used before it is computed");
        refused("[f32(x8)]", "at most 8 operands");
        refused("[f32(x99999999999)]", "found `x99999999999`");
        refused("[i32(x0)]", "floating-point dtype, found i32");
        refused("[f32(x0), silu(x0)]", "after all steps");
        refused("[f32(x0, x1)]", "expected 1 value");
        refused("[mul(x0, inf), f32(v0)]", "finite number");
        refused("[mul(x0, NaN), f32(v0)]", "finite number");
        refused("[f32(x0) f32(x0)]", "between steps");
        refused("[f32(x0),]", "between steps");
        refused("[f32(x0), ]", "between steps");
        refused("[f32 x0]", "expected a `)`");
        refused("[f32)x0(]", "in `(` and `)`");
        refused(&format!("[{}f32(v0)]", "silu(x0), ".repeat(33)), "at most 32 steps");
        refused(&format!("[{}f32(v0)]", "silu(x0), ".repeat(1000)), "at most 8192 characters");
    }

    #[test]
    fn blocks_of_any_length_are_computed() {
        let formula: Formula = "[mul(x0, 2.0), add(v0, x1), f32(v1), f32(v0)]".parse().expect("a formula");
        let mut registers = Registers::of(&formula);
        let (x, y) = ([1.0, 2.0, 3.0], [0.5, 0.25, 0.125]);
        formula.compute(&[&x, &y], 3, &mut registers);
        assert_eq!(formula.result(0, &[&x, &y], 3, &registers), [2.5, 4.25, 6.125]);
        assert_eq!(formula.result(1, &[&x, &y], 3, &registers), [2.0, 4.0, 6.0]);
    }
}
