//! `runtime/src/cpu/scales.rs`: quantization of activations.

use ir::DeclaredOp;
use ir::ops::{Quantize, QuantizeBlocks};

use crate::kernels::Row;
use crate::{Call, Refusal, Site};

const FILE: &str = "crates/runtime/src/cpu/scales.rs";

pub(super) const QUANTIZE: Row = Row::new("quantize", &[Quantize::MNEMONIC], FILE, quantize);

pub(super) const QUANTIZE_BLOCKS: Row = Row::new("quantize_blocks", &[QuantizeBlocks::MNEMONIC], FILE, quantize_blocks);

fn quantize(site: &Site<'_>) -> Result<Call, Refusal> {
    site.cast::<Quantize>()?;
    match site.graph.operands(site.op).len() {
        2 => site.by_rows(),
        _ => Err(Refusal::because("does not support zero points")),
    }
}

fn quantize_blocks(site: &Site<'_>) -> Result<Call, Refusal> {
    let quantize = site.cast::<QuantizeBlocks>()?;
    if quantize.block().0 != 1 {
        return Err(Refusal::because("supports only scales per row"));
    }
    let call = site.by_rows()?;
    Ok(match quantize.cols {
        Some(cols) => call.int("cols", cols),
        None => call,
    })
}
