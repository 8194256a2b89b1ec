//! `runtime/src/cpu/rows.rs`: simple kernels with a few rows per task.

use ir::ops::{Argmax, Embedding, GatherRows, Split, Swiglu};
use ir::{DeclaredOp, OpDef};

use crate::kernels::{Choose, Row};
use crate::{Call, Refusal, Site};

pub(super) const SWIGLU: Row = row(&[Swiglu::MNEMONIC], by_rows::<Swiglu>);
pub(super) const EMBEDDING: Row = row(&[Embedding::MNEMONIC], by_rows::<Embedding>);
pub(super) const GATHER_ROWS: Row = row(&[GatherRows::MNEMONIC], by_rows::<GatherRows>);
pub(super) const SPLIT: Row = row(&[Split::MNEMONIC], by_rows::<Split>);
pub(super) const ARGMAX: Row = row(&[Argmax::MNEMONIC], argmax);

/// A kernel with the name of its op.
const fn row(ops: &'static [&'static str], call: Choose) -> Row {
    Row::new(ops[0], ops, "crates/runtime/src/cpu/rows.rs", call)
}

fn by_rows<T: OpDef>(site: &Site<'_>) -> Result<Call, Refusal> {
    site.cast::<T>()?;
    site.by_rows()
}

fn argmax(site: &Site<'_>) -> Result<Call, Refusal> {
    let classes = site.cast::<Argmax>()?.classes;
    Ok(Call::grid(site.dim(0, 0)?).int("classes", classes))
}
