//! Queries about ops that most kernels need, and the calls that follow from them.

use plan::Dim;

use crate::kernels::cpu::ROWS;
use crate::{Call, Refusal, Site};

impl Site<'_> {
    /// The innermost size of the first result, for kernels that are instantiated for it.
    pub fn width(&self) -> Result<u64, Refusal> {
        self.result_type()?.width().ok_or_else(|| Refusal::because("its rows have a symbolic width"))
    }

    /// The rows of the first result: all sizes except the innermost.
    pub fn row_count(&self) -> Result<Dim, Refusal> {
        let shape = &self.result_type()?.shape;
        let outer = shape.split_last().map_or(&[][..], |(_, outer)| outer);
        Ok(outer.iter().cloned().fold(Dim::from(1), |product, dim| product * dim))
    }

    /// A call of a CPU kernel with a few rows of the first result per task.
    pub fn by_rows(&self) -> Result<Call, Refusal> {
        Ok(Call::grid(self.row_count()?.ceil_div(ROWS)))
    }
}
