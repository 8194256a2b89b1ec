//! `kernels/norm`: one block for each row, or for each head of one.

use ir::ops::{AddRmsNorm, RmsNorm};
use plan::Dim;

use super::body::{Body, c_float, c_type};
use super::{row_count, width};
use crate::{Call, Refusal, Site};

pub(super) fn rms_norm(site: &Site<'_>) -> Result<Call, Refusal> {
    let RmsNorm { eps, head_dim, .. } = *site.cast::<RmsNorm>()?;
    body(site, "rms_norm", "RmsNorm", 1, (eps, head_dim))
}

pub(super) fn add_rms_norm(site: &Site<'_>) -> Result<Call, Refusal> {
    let eps = site.cast::<AddRmsNorm>()?.eps;
    body(site, "add_rms_norm", "AddRmsNorm", 2, (eps, None))
}

/// A body that norms rows, or each head of them.
fn body(
    site: &Site<'_>,
    name: &'static str,
    ty: &str,
    gain: usize,
    (eps, head_dim): (f32, Option<u32>),
) -> Result<Call, Refusal> {
    let (width, rows) = (width(site)?, row_count(site)?);
    let cols = head_dim.map_or(width, u64::from);
    // heads of a row lie behind each other, as rows do
    let rows = rows * Dim::from(width / cols.max(1));
    if !site.graph.is_constant(site.operand(gain)?) {
        return Err(Refusal::because(
            "its gain is computed in the step, and it reads the gain before it waits for that",
        ));
    }
    let threads = threads(cols);
    let (value, gain) = (c_type(site.operand_type(0)?.dtype), c_type(site.operand_type(gain)?.dtype));
    let normed = site.graph.results(site.op).last().map(|normed| site.tensor(normed)).transpose()?;
    let normed = normed.map_or(value, |ty| c_type(ty.dtype));
    let instance = format!("{ty}<{value}, {normed}, {gain}, {cols}, {}, {threads}>", c_float(eps));
    let body = Body::new(name, "norm/rms_norm.cuh", instance, threads, rows.clone());
    Ok(body.scalar("rows", rows).call(site)?.int("threads", threads))
}

/// A vector of eight elements for each thread, as long as a block has that many: one load, no second trip.
fn threads(cols: u64) -> u32 {
    (cols.div_ceil(8).next_multiple_of(32) as u32).clamp(32, 1024)
}
