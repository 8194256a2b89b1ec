//! Symbolic sizes: sums of products of symbols in one normal form, so that equal text means equal size.

mod text;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Add, Mul};

use serde::{Deserialize, Serialize};

/// A named size that is bound at run time, such as `T`, the packed tokens of a step.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Symbol(String);

impl Symbol {
    /// A symbol of this name: a letter, then letters, digits and `_`.
    pub fn new(name: &str) -> Option<Symbol> {
        let mut chars = name.chars();
        let valid = chars.next().is_some_and(|c| c.is_ascii_alphabetic())
            && chars.all(|c| c.is_ascii_alphanumeric() || c == '_')
            && !["ceil", "max"].contains(&name);
        valid.then(|| Symbol(name.to_owned()))
    }

    /// The name as printed.
    pub fn name(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Symbol {
    type Error = String;

    fn try_from(name: String) -> Result<Symbol, String> {
        Symbol::new(&name).ok_or_else(|| format!("`{}` is not a symbol", name.escape_debug()))
    }
}

impl From<Symbol> for String {
    fn from(symbol: Symbol) -> String {
        symbol.0
    }
}

impl fmt::Display for Symbol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A symbol with its inclusive bounds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SymbolDecl {
    /// The symbol.
    pub symbol: Symbol,
    /// Smallest value.
    pub min: u64,
    /// Largest value: buffers are sized for it.
    pub max: u64,
}

/// Values of symbols during one evaluation.
pub type SymbolValues = BTreeMap<Symbol, u64>;

/// The largest value of every symbol, the one that buffers are sized for.
pub fn upper_bounds(symbols: &[SymbolDecl]) -> SymbolValues {
    symbols.iter().map(|decl| (decl.symbol.clone(), decl.max)).collect()
}

/// Why a size has no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DimError {
    /// The expression names a symbol that is not bound.
    #[error("symbol `{0}` has no value")]
    Unbound(Symbol),
    /// The value does not fit 64 bits.
    #[error("the size `{0}` overflows 64 bits")]
    Overflow(Dim),
}

/// A non-negative integer expression over symbols, in normal form: terms and factors are sorted, equal terms are
/// merged, constants are folded. Two dims are equal exactly when their normal forms are. In a file it is its text: the
/// parser restores the normal form and bounds the nesting, whoever wrote the file.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Dim {
    terms: Vec<Term>,
}

/// `coefficient * factors…`; no factors is a constant. Derived order puts more factors last, printing reverses it.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Term {
    factors: Vec<Factor>,
    coefficient: u64,
}

#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Factor {
    Symbol(Symbol),
    CeilDiv(Box<Dim>, u64),
    Max(Vec<Dim>),
}

impl Dim {
    /// The size of a symbol.
    pub fn symbol(symbol: &Symbol) -> Dim {
        Dim::from_factor(Factor::Symbol(symbol.clone()))
    }

    /// The value, if there are no symbols.
    pub fn as_const(&self) -> Option<u64> {
        match self.terms.as_slice() {
            [] => Some(0),
            [term] if term.factors.is_empty() => Some(term.coefficient),
            _ => None,
        }
    }

    /// `ceil(self / divisor)`.
    ///
    /// # Panics
    /// If `divisor` is zero.
    pub fn ceil_div(&self, divisor: u64) -> Dim {
        assert!(divisor > 0, "a dim is divided by zero");
        match self.as_const() {
            Some(value) => Dim::from(value.div_ceil(divisor)),
            None if divisor == 1 => self.clone(),
            None => Dim::from_factor(Factor::CeilDiv(Box::new(self.clone()), divisor)),
        }
    }

    /// The larger of two sizes.
    pub fn at_least(&self, other: &Dim) -> Dim {
        Dim::largest([self.clone(), other.clone()])
    }

    /// The largest of some sizes; 0 of none.
    pub fn largest(dims: impl IntoIterator<Item = Dim>) -> Dim {
        let mut items: Vec<Dim> = Vec::new();
        let mut constant = 0;
        let mut add = |dim: Dim| match dim.as_const() {
            Some(value) => constant = constant.max(value),
            None => items.push(dim),
        };
        for dim in dims {
            match dim.into_largest_of() {
                Ok(inner) => inner.into_iter().for_each(&mut add),
                Err(dim) => add(dim),
            }
        }
        items.sort_unstable();
        items.dedup();
        if items.is_empty() {
            return Dim::from(constant);
        }
        if constant > 0 {
            items.push(Dim::from(constant));
        }
        if items.len() == 1 {
            return items.remove(0);
        }
        Dim::from_factor(Factor::Max(items))
    }

    /// The operands, if it is a single `max`.
    fn into_largest_of(mut self) -> Result<Vec<Dim>, Dim> {
        match self.terms.as_mut_slice() {
            [Term { factors, coefficient: 1 }] => match factors.as_mut_slice() {
                [Factor::Max(items)] => Ok(std::mem::take(items)),
                _ => Err(self),
            },
            _ => Err(self),
        }
    }

    /// The sum of some sizes.
    fn sum(dims: impl IntoIterator<Item = Dim>) -> Dim {
        Dim::normalize(dims.into_iter().flat_map(|dim| dim.terms))
    }

    /// The product of some sizes; `None` if one is a sum.
    fn product(dims: Vec<Dim>) -> Option<Dim> {
        let mut product = Term { factors: Vec::with_capacity(dims.len()), coefficient: 1 };
        for Dim { mut terms } in dims {
            match (terms.pop(), terms.as_slice()) {
                (None, _) => product.coefficient = 0,
                (Some(term), []) => {
                    product.factors.extend(term.factors);
                    product.coefficient = product.coefficient.saturating_mul(term.coefficient);
                }
                _ => return None,
            }
        }
        product.factors.sort_unstable();
        Some(Dim::normalize([product]))
    }

    /// The value under `values`.
    pub fn eval(&self, values: &SymbolValues) -> Result<u64, DimError> {
        let overflow = || DimError::Overflow(self.clone());
        let mut sum: u64 = 0;
        for term in &self.terms {
            let mut product = term.coefficient;
            for factor in &term.factors {
                let value = match factor {
                    Factor::Symbol(symbol) => *values.get(symbol).ok_or_else(|| DimError::Unbound(symbol.clone()))?,
                    Factor::CeilDiv(dim, divisor) => dim.eval(values)?.div_ceil((*divisor).max(1)),
                    Factor::Max(items) => {
                        let mut largest = 0;
                        for item in items {
                            largest = largest.max(item.eval(values)?);
                        }
                        largest
                    }
                };
                product = product.checked_mul(value).ok_or_else(overflow)?;
            }
            sum = sum.checked_add(product).ok_or_else(overflow)?;
        }
        Ok(sum)
    }

    /// The expression with some symbols replaced by others or by constants; symbols that are not named stay.
    pub fn substitute(&self, replacements: &BTreeMap<Symbol, Dim>) -> Dim {
        let mut sum = Dim::from(0);
        for term in &self.terms {
            let mut product = Dim::from(term.coefficient);
            for factor in &term.factors {
                let factor = match factor {
                    Factor::Symbol(symbol) => replacements.get(symbol).cloned().unwrap_or_else(|| Dim::symbol(symbol)),
                    Factor::CeilDiv(dim, divisor) => dim.substitute(replacements).ceil_div(*divisor),
                    Factor::Max(items) => Dim::largest(items.iter().map(|item| item.substitute(replacements))),
                };
                product = product * factor;
            }
            sum = sum + product;
        }
        sum
    }

    /// Every symbol that occurs.
    pub fn symbols(&self) -> Vec<Symbol> {
        let mut found = Vec::new();
        self.visit_symbols(&mut |symbol| found.push(symbol.clone()));
        found.sort();
        found.dedup();
        found
    }

    fn visit_symbols(&self, visit: &mut impl FnMut(&Symbol)) {
        for factor in self.terms.iter().flat_map(|term| &term.factors) {
            match factor {
                Factor::Symbol(symbol) => visit(symbol),
                Factor::CeilDiv(dim, _) => dim.visit_symbols(visit),
                Factor::Max(items) => items.iter().for_each(|item| item.visit_symbols(visit)),
            }
        }
    }

    fn from_factor(factor: Factor) -> Dim {
        Dim { terms: vec![Term { factors: vec![factor], coefficient: 1 }] }
    }

    /// Restores the normal form. Sizes of tensors are far below 2^64; a coefficient that is not saturates, and
    /// evaluation then reports the overflow.
    fn normalize(terms: impl IntoIterator<Item = Term>) -> Dim {
        let mut merged: BTreeMap<Vec<Factor>, u64> = BTreeMap::new();
        for term in terms {
            let coefficient = merged.entry(term.factors).or_insert(0);
            *coefficient = coefficient.saturating_add(term.coefficient);
        }
        let terms = merged.into_iter().filter(|(_, coefficient)| *coefficient > 0);
        Dim { terms: terms.map(|(factors, coefficient)| Term { factors, coefficient }).collect() }
    }
}

impl TryFrom<String> for Dim {
    type Error = String;

    fn try_from(text: String) -> Result<Dim, String> {
        // far above any size of a model
        const LONGEST: usize = 1024;
        if text.len() > LONGEST {
            return Err(format!("a size of {} characters, expected at most {LONGEST}", text.len()));
        }
        text.parse()
    }
}

impl From<Dim> for String {
    fn from(dim: Dim) -> String {
        dim.to_string()
    }
}

impl From<u64> for Dim {
    fn from(value: u64) -> Dim {
        Dim::normalize([Term { factors: Vec::new(), coefficient: value }])
    }
}

impl Add for Dim {
    type Output = Dim;

    fn add(self, other: Dim) -> Dim {
        Dim::normalize(self.terms.into_iter().chain(other.terms))
    }
}

impl Mul for Dim {
    type Output = Dim;

    fn mul(self, other: Dim) -> Dim {
        let mut terms = Vec::new();
        for a in &self.terms {
            for b in &other.terms {
                let mut factors: Vec<Factor> = a.factors.iter().chain(&b.factors).cloned().collect();
                factors.sort();
                terms.push(Term { factors, coefficient: a.coefficient.saturating_mul(b.coefficient) });
            }
        }
        Dim::normalize(terms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dim(text: &str) -> Dim {
        text.parse().unwrap()
    }

    #[test]
    fn equal_sizes_have_one_spelling() {
        for (a, b) in [
            ("B + 1", "1 + B"),
            ("T * 2 * 3", "6 * T"),
            ("T + T", "2 * T"),
            ("ceil(128, 64)", "2"),
            ("ceil(T, 1)", "T"),
            ("max(T, max(4, 8))", "max(8, T)"),
            ("max(T, T)", "T"),
            ("T * B", "B * T"),
            ("max(2 * max(T, B), max(B, 9, T), 3)", "max(9, 2 * max(B, T), T, B)"),
            ("max(ceil(T, 8), max(0))", "ceil(T, 8)"),
            ("T * ceil(B, 1) * 0 + 1", "1"),
            ("0 * T", "0"),
        ] {
            assert_eq!(dim(a), dim(b));
            assert_eq!(dim(a).to_string(), dim(b).to_string());
            assert_eq!(dim(&dim(a).to_string()), dim(a));
        }
    }

    #[test]
    fn evaluates_and_substitutes() {
        let t = Symbol::new("T").unwrap();
        let values = SymbolValues::from([(t.clone(), 65)]);
        assert_eq!(dim("ceil(T, 64) * 16 + max(T, 70)").eval(&values), Ok(102));
        assert_eq!(dim("ceil(T, 64)").substitute(&BTreeMap::from([(t, Dim::from(65))])), Dim::from(2));
        assert_eq!(dim("B").eval(&values), Err(DimError::Unbound(Symbol::new("B").unwrap())));
        assert!(matches!(dim("18446744073709551615 * T").eval(&values), Err(DimError::Overflow(_))));
    }

    #[test]
    fn refuses_bad_text() {
        for text in ["", "T -", "ceil(T, 0)", "T T", "9x", "(T)", "max()", "max(T + 1) * B"] {
            assert!(text.parse::<Dim>().is_err(), "{text} was accepted");
        }
        assert!("max(".repeat(10_000).parse::<Dim>().is_err());
        let long = Dim::try_from(vec!["T"; 600].join(" * ")).expect_err("long");
        assert_eq!(long, "a size of 2397 characters, expected at most 1024");
    }

    /// Sizes whose parsing was once quadratic or worse are parsed quickly: a megabyte in less than a
    /// second. The bound is that of a slow machine without optimization, under a sanitizer.
    #[test]
    fn sizes_are_read_in_little_time() {
        let some = |count: usize, item: fn(usize) -> String, separator: &str| {
            (0..count).map(item).collect::<Vec<_>>().join(separator)
        };
        let texts = [
            format!("max({})", some(250, |index| format!("x{}", 249 - index), ",")),
            format!("{}x{}", "max(".repeat(60), ",y,z,w,v)".repeat(60)),
            some(500, |_| "T".to_owned(), "*"),
            some(250, |index| format!("x{index}"), "+"),
            some(60, |index| format!("max(a{index}+b{index})"), "*"),
            some(100, |index| format!("ceil(b+{index},8)"), "*"),
        ];
        let start = std::time::Instant::now();
        for text in &texts {
            for _ in 0..(1 << 17) / text.len() {
                drop(text.parse::<Dim>());
            }
        }
        let took = start.elapsed();
        assert!(took.as_secs() < 30, "{took:?}");
    }
}
