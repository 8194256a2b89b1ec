//! Weights that are computed elementwise from others, of any size: a range is computed from the same range of each
//! operand.

use std::ops::Range;

use ir::{Formula, WeightSource};
use plan::{BLOCK, DType, Registers};

use crate::Recipe;

/// One result of a formula over recipes.
#[derive(Clone, Debug, PartialEq)]
pub struct Mapped {
    /// The formula.
    pub formula: Formula,
    /// The index of the result.
    pub result: usize,
    /// The operands. One with fewer elements than the result is a broadcast row.
    pub parts: Vec<Recipe>,
    /// Elements per row.
    pub width: u64,
    /// Number of elements of the result.
    pub elements: u64,
}

impl Mapped {
    /// Type of an element.
    pub fn dtype(&self) -> DType {
        self.formula.stores()[self.result].dtype
    }

    /// Computes a range of elements as little-endian bytes.
    pub fn read(&self, weights: &dyn WeightSource, range: Range<u64>, out: &mut [u8]) -> Result<(), String> {
        let is_row = |part: &Recipe| part.elements() < self.elements;
        let operand = |part: &Recipe| match is_row(part) {
            true => part.floats(weights, 0..self.width),
            false => part.floats(weights, range.clone()),
        };
        let inputs = self.parts.iter().map(operand).collect::<Result<Vec<_>, _>>()?;
        let line = if self.parts.iter().any(is_row) { self.width } else { self.elements };
        let mut registers = Registers::of(&self.formula);
        let bytes = self.dtype().bytes() as usize;
        let mut at = range.start;
        while at < range.end {
            let column = at % line;
            let len = (BLOCK as u64).min(line - column).min(range.end - at) as usize;
            let first = (at - range.start) as usize;
            let blocks = self.parts.iter().zip(&inputs).map(|(part, values)| {
                let start = if is_row(part) { column as usize } else { first };
                &values[start..start + len]
            });
            let blocks: Vec<&[f32]> = blocks.collect();
            self.formula.compute(&blocks, len, &mut registers);
            let values = self.formula.result(self.result, &blocks, len, &registers);
            self.dtype().encode(values.iter().copied(), &mut out[first * bytes..(first + len) * bytes]);
            at += len as u64;
        }
        Ok(())
    }
}
