//! `kernels/norm`: one block per row, or per head.

use ir::ops::{AddLayerNorm, AddRmsNorm, LayerNorm, RmsNorm};
use ir::{DeclaredOp, Value};
use plan::{DType, Dim};

use super::body::{Body, c_float, c_type};
use crate::kernels::Row;
use crate::{Call, Refusal, Site};

pub(super) const RMS_NORM: Row = Row::new("rms_norm", &[RmsNorm::MNEMONIC], "kernels/norm/norm.cuh", rms_norm);

pub(super) const ADD_RMS_NORM: Row =
    Row::new("add_rms_norm", &[AddRmsNorm::MNEMONIC], "kernels/norm/norm.cuh", add_rms_norm);

pub(super) const LAYER_NORM: Row = Row::new("layer_norm", &[LayerNorm::MNEMONIC], "kernels/norm/norm.cuh", layer_norm);

pub(super) const ADD_LAYER_NORM: Row =
    Row::new("add_layer_norm", &[AddLayerNorm::MNEMONIC], "kernels/norm/norm.cuh", add_layer_norm);

/// A body of the family.
struct Norm {
    kernel: &'static Row,
    ty: &'static str,
    /// Number of operands, and of results, with the shape of x.
    rows: usize,
    eps: f32,
    /// The head dimension, if it normalizes heads, not rows.
    head_dim: Option<u32>,
}

fn rms_norm(site: &Site<'_>) -> Result<Call, Refusal> {
    let RmsNorm { eps, head_dim, .. } = *site.cast::<RmsNorm>()?;
    Norm { kernel: &RMS_NORM, ty: "RmsNorm", rows: 1, eps, head_dim }.call(site, &[])
}

fn add_rms_norm(site: &Site<'_>) -> Result<Call, Refusal> {
    let eps = site.cast::<AddRmsNorm>()?.eps;
    Norm { kernel: &ADD_RMS_NORM, ty: "AddRmsNorm", rows: 2, eps, head_dim: None }.call(site, &[])
}

fn layer_norm(site: &Site<'_>) -> Result<Call, Refusal> {
    let eps = site.cast::<LayerNorm>()?.eps;
    Norm { kernel: &LAYER_NORM, ty: "LayerNorm", rows: 1, eps, head_dim: None }.call(site, &[2])
}

fn add_layer_norm(site: &Site<'_>) -> Result<Call, Refusal> {
    let eps = site.cast::<AddLayerNorm>()?.eps;
    Norm { kernel: &ADD_LAYER_NORM, ty: "AddLayerNorm", rows: 2, eps, head_dim: None }.call(site, &[3])
}

impl Norm {
    /// The call, with an index for each operand that may be absent.
    fn call(&self, site: &Site<'_>, optional: &[usize]) -> Result<Call, Refusal> {
        let (width, rows) = (site.width()?, site.row_count()?);
        let cols = self.head_dim.map_or(width, u64::from);
        // heads of a row are contiguous, as rows are
        let rows = rows * Dim::from(width / cols.max(1));
        let operands = site.graph.operands(site.op);
        let weight = c_type(weight_dtype(site, operands.get(self.rows..).unwrap_or_default())?);
        let threads = threads(cols);
        let value = c_type(site.operand_type(0)?.dtype);
        let normed = site.graph.results(site.op).last().map(|normed| site.tensor(normed)).transpose()?;
        let normed = normed.map_or(value, |ty| c_type(ty.dtype));
        let instance = format!("{}<{value}, {normed}, {weight}, {cols}, {}, {threads}>", self.ty, c_float(self.eps));
        let mut body = Body::of(self.kernel, instance, threads, rows.clone());
        body.absent = optional.iter().copied().filter(|place| *place >= operands.len()).collect();
        Ok(body.scalar("rows", rows).call(site)?.int("threads", threads))
    }
}

/// The dtype of the norm's weight and bias, which it reads before it waits for its rows.
pub(super) fn weight_dtype(site: &Site<'_>, factors: &[Value]) -> Result<DType, Refusal> {
    let mut dtypes = Vec::new();
    for factor in factors {
        if !site.graph.is_constant(*factor) {
            return Err(Refusal::because(
                "its weight or bias is computed in the step, but it reads them before it waits for the previous kernel",
            ));
        }
        dtypes.push(site.tensor(*factor)?.dtype);
    }
    match dtypes.as_slice() {
        [weight] => Ok(*weight),
        [weight, bias] if weight == bias => Ok(*weight),
        _ => Err(Refusal::because("requires a weight and a bias of one type")),
    }
}

/// Eight elements per thread, as far as a block has that many: one vector load, no loop.
pub(super) fn threads(cols: u64) -> u32 {
    (cols.div_ceil(8).next_multiple_of(32) as u32).clamp(32, 1024)
}
