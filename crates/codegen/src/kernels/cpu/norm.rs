//! `runtime/src/cpu/norm.rs`: norms, a few rows per task.

use ir::ops::{AddLayerNorm, AddRmsNorm, LayerNorm, RmsNorm};
use ir::{DeclaredOp, OpDef};

use crate::kernels::{Choose, Row};
use crate::{Call, Refusal, Site};

pub(super) const ADD_RMS_NORM: Row = row(&[AddRmsNorm::MNEMONIC], |site| norm::<AddRmsNorm>(site, |op| op.eps));
pub(super) const RMS_NORM: Row = row(&[RmsNorm::MNEMONIC], |site| norm::<RmsNorm>(site, |op| op.eps));
pub(super) const ADD_LAYER_NORM: Row = row(&[AddLayerNorm::MNEMONIC], |site| norm::<AddLayerNorm>(site, |op| op.eps));
pub(super) const LAYER_NORM: Row = row(&[LayerNorm::MNEMONIC], |site| norm::<LayerNorm>(site, |op| op.eps));

/// A kernel with the name of its op.
const fn row(ops: &'static [&'static str], call: Choose) -> Row {
    Row::new(ops[0], ops, "crates/runtime/src/cpu/norm.rs", call)
}

fn norm<T: OpDef>(site: &Site<'_>, eps: fn(&T) -> f32) -> Result<Call, Refusal> {
    let eps = eps(site.cast::<T>()?);
    Ok(site.by_rows()?.float("eps", eps))
}
