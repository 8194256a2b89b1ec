//! What a launch has to do, whichever kernel does it: arithmetic, and bytes that move. Written down when a plan is
//! made, so that a reader can say what a launch should cost without knowing the op.

use serde::{Deserialize, Serialize};

use crate::{Dim, DimError, Program, Symbol, SymbolValues, upper_bounds};

/// Name of the symbol that only [`Work`] mentions: cached tokens that attention reads, for each sequence.
pub const CONTEXT: &str = "context";

/// What a launch has to do. Each tensor counts once: caches may do better between launches, never within one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    /// Additions and multiplications.
    pub flops: Dim,
    /// Bytes that are read: activations, weights, keys and values.
    pub read: Dim,
    /// Bytes that are written.
    pub written: Dim,
}

/// The work of a launch in figures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Additions and multiplications.
    pub flops: u64,
    /// Bytes that are read.
    pub read: u64,
    /// Bytes that are written.
    pub written: u64,
}

impl Work {
    /// The figures under `values`, such as those of [`full_step`].
    pub fn eval(&self, values: &SymbolValues) -> Result<Cost, DimError> {
        let [flops, read, written] = [&self.flops, &self.read, &self.written].map(|dim| dim.eval(values));
        Ok(Cost { flops: flops?, read: read?, written: written? })
    }
}

impl Cost {
    /// Bytes that move.
    pub fn bytes(self) -> u64 {
        self.read.saturating_add(self.written)
    }
}

impl std::ops::Add for Cost {
    type Output = Cost;

    fn add(self, other: Cost) -> Cost {
        Cost {
            flops: self.flops.saturating_add(other.flops),
            read: self.read.saturating_add(other.read),
            written: self.written.saturating_add(other.written),
        }
    }
}

impl std::iter::Sum for Cost {
    fn sum<I: Iterator<Item = Cost>>(costs: I) -> Cost {
        costs.fold(Cost::default(), std::ops::Add::add)
    }
}

/// The context symbol.
pub fn context() -> Symbol {
    Symbol::new(CONTEXT).expect("a word is a symbol")
}

/// The largest step of a program over sequences with this many cached tokens. A program that has a symbol of its own
/// called `context` keeps its meaning.
pub fn full_step(program: &Program, tokens: u64) -> SymbolValues {
    let mut values = upper_bounds(&program.symbols);
    values.entry(context()).or_insert(tokens);
    values
}
