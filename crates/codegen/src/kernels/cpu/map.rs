//! `runtime/src/cpu/map.rs`: elementwise ops and regions, by their formula.

use crate::kernels::{Ops, Row};
use crate::{Call, Refusal, Site};

pub(super) const MAP: Row =
    Row { name: "map", ops: Ops::Elementwise, file: "crates/runtime/src/cpu/map.rs", call: map, candidates: None };

fn map(site: &Site<'_>) -> Result<Call, Refusal> {
    let formula = site.graph.formula(site.op).ok_or(Refusal::OtherOp)?;
    Ok(site.by_rows()?.text("f", formula.to_string()))
}
