//! The CPU kernels: supported ops, and numbers of tasks. Each file mirrors one of `runtime/src/cpu`, with its code.
//!
//! Values are f32; weights and the KV cache may be narrower. A task should take some microseconds, since handing one to
//! another thread takes one: so tasks have several rows, and those of linear layers some 64 KiB of weights.

mod attention;
mod linear;
mod map;
mod norm;
mod rope;
mod rows;
mod scales;

use ir::ops::{Embedding, GatherRows};
use plan::DType;

use super::Row;
use crate::{About, Call, Catalog, Kernel, Refusal, Site};

/// The kernels of the `cpu` target.
pub(crate) fn catalog() -> Catalog {
    let kernels = [
        linear::LINEAR,
        scales::QUANTIZE,
        scales::QUANTIZE_BLOCKS,
        attention::PAGED_ATTENTION,
        rope::ROPE_APPEND_KV,
        norm::ADD_RMS_NORM,
        norm::RMS_NORM,
        norm::ADD_LAYER_NORM,
        norm::LAYER_NORM,
        rows::SWIGLU,
        rows::EMBEDDING,
        rows::GATHER_ROWS,
        rows::ARGMAX,
        rows::SPLIT,
        map::MAP,
        rope::ROPE,
        rope::APPEND_KV,
    ];
    Catalog::new(kernels.into_iter().map(|row| -> Box<dyn Kernel> { Box::new(OverF32(row)) }).collect())
}

/// A kernel whose values must be f32.
#[derive(Debug)]
struct OverF32(Row);

impl Kernel for OverF32 {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn call(&self, site: &Site<'_>) -> Result<Call, Refusal> {
        let call = self.0.call(site)?;
        values_are_f32(site)?;
        Ok(call)
    }

    fn candidates(&self, site: &Site<'_>) -> Result<Vec<Call>, Refusal> {
        values_are_f32(site)?;
        self.0.candidates(site)
    }

    fn about(&self) -> About {
        self.0.about()
    }
}

/// Results, and operands that are not constant, are f32 or quantized to one byte; ids and positions are i32. Rows of a
/// table come in its dtype, also after a gather, and the next region widens them.
fn values_are_f32(site: &Site<'_>) -> Result<(), Refusal> {
    let (graph, op) = (site.graph, site.op);
    let gathers = graph.cast::<GatherRows>(op).is_some();
    let widens = gathers || graph.formula(op).is_some();
    let operands = graph.operands(op).into_iter().filter(|operand| !widens && !graph.is_constant(*operand));
    let looks_up = gathers || graph.cast::<Embedding>(op).is_some();
    for value in operands.chain(graph.results(op).filter(|_| !looks_up)) {
        let dtype = graph.tensor(value).map_or(DType::F32, |ty| ty.dtype);
        if !matches!(dtype, DType::F32 | DType::I32 | DType::I8 | DType::F8E4M3) {
            let name = graph.value_name(value);
            return Err(Refusal::Because(format!("`%{name}` is {dtype}, CPU kernels require f32 values")));
        }
    }
    Ok(())
}
