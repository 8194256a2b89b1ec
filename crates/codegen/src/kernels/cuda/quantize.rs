//! `kernels/rows/quantize.cuh`: quantization of activations, with computed or given scales.

use ir::ops::{Quantize, QuantizeBlocks, RmsNormQuantize};
use ir::{DeclaredOp, Value, scale_block};
use plan::{DType, Dim};

use super::body::{Body, c_float, c_type};
use super::element_grid::{self, THREADS};
use super::norm;
use super::quantized::check_quantized;
use crate::kernels::Row;
use crate::{Call, Refusal, Site};

const FILE: &str = "kernels/rows/quantize.cuh";

pub(super) const RMS_NORM_QUANTIZE: Row =
    Row::new("rms_norm_quantize", &[RmsNormQuantize::MNEMONIC], FILE, rms_norm_quantize);

pub(super) const QUANTIZE_BLOCKS: Row = Row::new("quantize_blocks", &[QuantizeBlocks::MNEMONIC], FILE, quantize_blocks);

pub(super) const QUANTIZE: Row = Row::new("quantize", &[Quantize::MNEMONIC], FILE, quantize);

/// Kernels that quantize their output read an f32 scale.
fn check_scale(site: &Site<'_>, scale: Value) -> Result<(), Refusal> {
    match site.tensor(scale)?.dtype {
        DType::F32 => Ok(()),
        dtype => Err(Refusal::because(format!("requires a scale in f32, found {dtype}"))),
    }
}

/// Columns that share a scale, for rows with this many scales.
fn part(cols: u64, scales: Option<u64>) -> Result<u64, Refusal> {
    let scales = scales.ok_or_else(|| Refusal::because("rows have a symbolic number of scales"))?;
    scale_block(cols, scales)
        .ok_or_else(|| Refusal::because(format!("{scales} scales do not divide {cols} columns into blocks")))
}

/// Columns that share a scale, by the second result.
fn part_of_result(site: &Site<'_>) -> Result<u64, Refusal> {
    let scales = site.graph.results(site.op).nth(1).ok_or(Refusal::OtherOp)?;
    part(site.width()?, site.tensor(scales)?.width())
}

/// The widest vector of columns per thread: 16 bytes that divide a row and a group.
fn vector(dtype: DType, cols: u64, part: u64) -> u64 {
    let widest = 16 / dtype.bytes();
    let divides = 1 << cols.trailing_zeros().min(widest.trailing_zeros());
    if part == cols { divides } else { part.min(divides) }
}

fn quantize_blocks(site: &Site<'_>) -> Result<Call, Refusal> {
    let op = site.cast::<QuantizeBlocks>()?;
    check_quantized(op.to)?;
    if op.block().0 != 1 {
        return Err(Refusal::because(format!("computes scales of one row, not of {}", op.block().0)));
    }
    let (rows, cols, part) = (site.row_count()?, site.width()?, part_of_result(site)?);
    let x = site.operand_type(0)?.dtype;
    let vector = vector(x, cols, part);
    // a group that is wider than a warp has its own block
    let span = if part == cols || part / vector <= 32 { cols } else { part };
    let threads = norm::threads(span * 8 / vector.max(1));
    let instance = format!("QuantizeBlocks<{}, {}, {cols}, {part}, {threads}>", c_type(x), c_type(op.to));
    let grid = rows.clone() * cols.div_ceil(span).into();
    let body = Body::of(&QUANTIZE_BLOCKS, instance, threads, grid);
    Ok(body.scalar("rows", rows).call(site)?.int("part", part as i64).int("threads", threads))
}

fn rms_norm_quantize(site: &Site<'_>) -> Result<Call, Refusal> {
    let op = site.cast::<RmsNormQuantize>()?;
    check_quantized(op.to)?;
    if !site.graph.is_constant(site.operand(1)?) {
        return Err(Refusal::because(
            "its weight is computed in the step, but it reads it before it waits for the previous kernel",
        ));
    }
    let (rows, cols) = (site.row_count()?, site.width()?);
    let (x, weight, threads) = (site.operand_type(0)?.dtype, site.operand_type(1)?.dtype, norm::threads(cols));
    let types = [x, op.norm, weight, op.to].map(c_type).join(", ");
    let eps = c_float(op.eps);
    if site.graph.operands(site.op).len() > 2 {
        check_scale(site, site.operand(2)?)?;
        let instance = format!("RmsNormQuantizeBy<{types}, {cols}, {eps}, {threads}>");
        let body = Body::of(&RMS_NORM_QUANTIZE, instance, threads, rows.clone());
        return Ok(body.scalar("rows", rows).call(site)?.int("threads", threads));
    }
    let (part, vector) = (part_of_result(site)?, vector(x, cols, cols));
    if part != cols && (part < vector || part / vector > 32) {
        return Err(Refusal::because(format!("groups of {part} columns are not whole vectors of a warp's lanes")));
    }
    let instance = format!("RmsNormQuantize<{types}, {cols}, {eps}, {part}, {threads}>");
    let body = Body::of(&RMS_NORM_QUANTIZE, instance, threads, rows.clone());
    Ok(body.scalar("rows", rows).call(site)?.int("part", part as i64).int("threads", threads))
}

fn quantize(site: &Site<'_>) -> Result<Call, Refusal> {
    let op = site.cast::<Quantize>()?;
    check_quantized(op.to)?;
    if site.graph.operands(site.op).len() > 2 {
        return Err(Refusal::because("does not support zero points"));
    }
    let (rows, cols) = (site.row_count()?, site.width()?);
    let (x, scale) = (site.operand_type(0)?, site.operand_type(1)?);
    let part = part(cols, scale.width())?;
    let each_row = scale.shape.first() == x.shape.first() && rows != Dim::from(1);
    if !each_row && scale.shape.first() != Some(&Dim::from(1)) {
        return Err(Refusal::because("requires scales per row or per tensor, not per block of rows"));
    }
    let types = [x.dtype, op.to, scale.dtype].map(c_type).join(", ");
    let instance = format!("Quantize<{types}, {cols}, {part}, {each_row}>");
    let grid = element_grid::blocks(&rows, cols);
    let body = Body::of(&QUANTIZE, instance, THREADS, grid);
    Ok(body.scalar("rows", rows).call(site)?.int("part", part as i64))
}
