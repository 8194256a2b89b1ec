//! The cost of a launch, independent of the kernel: arithmetic and bytes moved. It is written when a plan is made, so
//! that readers can predict times without knowing the op.

use serde::{Deserialize, Serialize};

use crate::{Dim, DimError, Symbol, SymbolValues};

/// Name of the symbol that only [`Work`] mentions: cached tokens per sequence that attention reads.
pub const CONTEXT: &str = "context";

/// The cost of a launch. Each tensor counts once: caches may do better between launches, never within one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    /// Floating-point operations.
    pub flops: Dim,
    /// Bytes read: activations, weights, keys and values.
    pub read: Dim,
    /// Bytes written.
    pub written: Dim,
}

/// The cost of a launch in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Floating-point operations.
    pub flops: u64,
    /// Bytes read.
    pub read: u64,
    /// Bytes written.
    pub written: u64,
}

impl Work {
    /// The numbers under `values`, such as those of [`full_step`](crate::full_step).
    pub fn eval(&self, values: &SymbolValues) -> Result<Cost, DimError> {
        let [flops, read, written] = [&self.flops, &self.read, &self.written].map(|dim| dim.eval(values));
        Ok(Cost { flops: flops?, read: read?, written: written? })
    }
}

impl Cost {
    /// Bytes moved.
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
