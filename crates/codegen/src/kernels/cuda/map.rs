//! `kernels/rows/map.cuh`: elementwise ops and regions, by their formula.

use super::body::{Body, c_type};
use super::element_grid::{self, THREADS};
use super::functor::functor;
use crate::kernels::{Ops, Row};
use crate::{Call, Refusal, Site};

pub(super) const MAP: Row =
    Row { name: "map", ops: Ops::Elementwise, file: "kernels/rows/map.cuh", call: map, candidates: None };

fn map(site: &Site<'_>) -> Result<Call, Refusal> {
    let formula = site.graph.formula(site.op).ok_or(Refusal::OtherOp)?;
    let (rows, cols) = (site.row_count()?, site.width()?);
    let rank = site.result_type()?.shape.len();
    let mut inputs = Vec::new();
    for operand in site.graph.operands(site.op) {
        let ty = site.tensor(operand)?;
        let reach = if ty.shape.len() < rank { "Row" } else { "Full" };
        inputs.push(format!("smelt::{reach}<{}>", c_type(ty.dtype)));
    }
    let outputs: Vec<&str> = formula.stores().iter().map(|store| c_type(store.dtype)).collect();
    let (outputs, inputs) = (outputs.join(", "), inputs.join(", "));
    let instance = format!("Map<Formula, {cols}, smelt::Outputs<{outputs}>, smelt::Inputs<{inputs}>>");
    let mut body = Body::of(&MAP, instance, THREADS, element_grid::blocks(&rows, cols));
    (body.outputs_in_array, body.inputs_in_array) = (true, true);
    body.preamble = functor(&formula);
    Ok(body.scalar("rows", rows).call(site)?.text("f", formula.to_string()))
}
