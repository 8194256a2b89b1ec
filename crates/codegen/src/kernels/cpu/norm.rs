//! `runtime/src/cpu/norm.rs`: norms, a few rows per task.

use ir::DeclaredOp;
use ir::ops::{AddLayerNorm, AddRmsNorm, LayerNorm, RmsNorm};

use crate::kernels::{Ops, Row};
use crate::{Call, Refusal, Site};

pub(super) const ADD_RMS_NORM: Row = row(AddRmsNorm::MNEMONIC, &[AddRmsNorm::MNEMONIC], |site| {
    let eps = site.cast::<AddRmsNorm>()?.eps;
    Ok(site.by_rows()?.float("eps", eps))
});

pub(super) const RMS_NORM: Row = row(RmsNorm::MNEMONIC, &[RmsNorm::MNEMONIC], |site| {
    let eps = site.cast::<RmsNorm>()?.eps;
    Ok(site.by_rows()?.float("eps", eps))
});

pub(super) const ADD_LAYER_NORM: Row = row(AddLayerNorm::MNEMONIC, &[AddLayerNorm::MNEMONIC], |site| {
    let eps = site.cast::<AddLayerNorm>()?.eps;
    Ok(site.by_rows()?.float("eps", eps))
});

pub(super) const LAYER_NORM: Row = row(LayerNorm::MNEMONIC, &[LayerNorm::MNEMONIC], |site| {
    let eps = site.cast::<LayerNorm>()?.eps;
    Ok(site.by_rows()?.float("eps", eps))
});

const fn row(name: &'static str, ops: &'static [&'static str], call: fn(&Site<'_>) -> Result<Call, Refusal>) -> Row {
    Row { name, ops: Ops::Named(ops), file: "crates/runtime/src/cpu/norm.rs", call, candidates: None }
}
