//! `kernels/sampling`: the most likely token of each row.

use ir::DeclaredOp;
use ir::ops::Argmax;

use super::body::{Body, c_type};
use crate::kernels::Row;
use crate::{Call, Refusal, Site};

pub(super) const ARGMAX: Row = Row::new("argmax", &[Argmax::MNEMONIC], "kernels/sampling/argmax.cuh", argmax);

/// From this width on a row is spread over a cluster: one block reads some 100 GB/s.
const CLUSTER_CLASSES: u32 = 16 << 10;
const CLUSTER: u32 = 8;

fn argmax(site: &Site<'_>) -> Result<Call, Refusal> {
    let classes = site.cast::<Argmax>()?.classes;
    let x = site.operand_type(0)?;
    let cols = x.width().ok_or_else(|| Refusal::because("its rows have a symbolic width"))?;
    let cluster = if classes >= CLUSTER_CLASSES { CLUSTER } else { 1 };
    let rows = site.dim(0, 0)?;
    let instance = format!("Argmax<{}, {cols}, {classes}, {cluster}>", c_type(x.dtype));
    let grid = rows.clone() * u64::from(cluster).into();
    let mut body = Body::of(&ARGMAX, instance, 512, grid);
    body.cluster = cluster;
    Ok(body.scalar("rows", rows).call(site)?.int("cluster", cluster))
}
