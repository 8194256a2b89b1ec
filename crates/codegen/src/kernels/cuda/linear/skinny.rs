//! `kernels/linear/skinny.cuh`: few rows; weights stream into registers.

use plan::DType;
use plan::devices::sm90;

use super::arguments::{Arguments, operands};
use super::{LINEARS, Shape, WIDE, check_tiled, few, shape, stream};
use crate::kernels::cuda::MULTIPROCESSORS;
use crate::kernels::cuda::body::Body;
use crate::kernels::cuda::quantized::QuantizedOperands;
use crate::kernels::{Row, distinct};
use crate::{Call, Refusal, Site};

/// Rows up to which the bytes of the weight decide.
const SKINNY_ROWS: u64 = 32;
/// The same for wide weights: with more rows, `wgmma` reads x less often.
const WIDE_ROWS: u64 = 16;
/// Rows that every block may norm for itself: with two or more, a launch that norms them once costs less.
const NORM_ROWS: u64 = 1;

pub(in crate::kernels::cuda) const LINEAR_SKINNY: Row =
    Row::new("linear_skinny", LINEARS, "kernels/linear/skinny.cuh", |site| skinny(site, None)).tuned(candidates);

fn skinny(site: &Site<'_>, config: Option<SkinnyConfig>) -> Result<Call, Refusal> {
    let shape = shape(site)?;
    let layout = check_tiled(site, &shape)?;
    let bound = site.program.bound(&shape.rows).unwrap_or(u64::MAX);
    let most = if shape.n >= WIDE { WIDE_ROWS } else { SKINNY_ROWS };
    if bound > most {
        let n = shape.n;
        return Err(Refusal::because(format!("supports {most} rows of {n} outputs, this program has up to {bound}")));
    }
    let rows = bound.next_multiple_of(8);
    let quantized = QuantizedOperands::of(site.graph, &shape.parts)?;
    let config = config.unwrap_or_else(|| match quantized.any {
        false => SkinnyConfig::of(shape.n, shape.k, rows),
        true => SkinnyConfig::of_quantized(shape.n, shape.k, rows, &quantized),
    });
    let SkinnyConfig { warps, strips, depth } = config;
    let Shape { n, k, .. } = shape;
    // partial sums of each warp, padded so that they lie in different banks
    let mut shared_bytes = warps * rows * (16 * strips + 4) * 4;
    if shape.parts.prologue.is_some() {
        if bound > NORM_ROWS {
            return Err(Refusal::because(format!("norms {NORM_ROWS} rows, this program has up to {bound}")));
        }
        shared_bytes += bound * (k + 32) * 2;
    }
    let more = Arguments::of(site, &shape, &quantized, bound)?.text();
    if shared_bytes > sm90::SHARED_BYTES.into() {
        return Err(Refusal::because(format!("its normed rows take {shared_bytes} bytes of shared memory")));
    }
    let types = shape.types(site);
    let instance = format!("LinearSkinny<{types}, {n}, {k}, {rows}, {warps}, {strips}, {depth}{more}>");
    let grid = n.div_ceil(16 * strips).into();
    let mut body = Body::of(&LINEAR_SKINNY, instance, warps as u32 * 32, grid);
    body.says_blocks = true;
    body.shared_bytes = shared_bytes as u32;
    let call = shape.call(site, body, &operands(&shape))?.layout(1, layout);
    Ok(call.int("rows", rows as i64).int("warps", warps as i64).int("strips", strips as i64).int("depth", depth as i64))
}

fn candidates(site: &Site<'_>) -> Result<Vec<Call>, Refusal> {
    if few::supports(site) || stream::supports(site) {
        // beside rings in shared memory, this kernel would have a small L1, through which its weights go
        return Err(Refusal::because(
            "a kernel with rings in shared memory supports it, and a program has one of both",
        ));
    }
    let shape = shape(site)?;
    let rows = site.program.bound(&shape.rows).unwrap_or(u64::MAX);
    let others = SkinnyConfig::others(shape.n, rows).into_iter();
    distinct(skinny(site, None), others.map(|config| skinny(site, Some(config))))
}

/// The shape of a block, and the loads that its warps have in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SkinnyConfig {
    /// Warps of a block, which share the columns of its strips.
    warps: u64,
    /// Strips of 16 outputs of a block.
    strips: u64,
    /// Units of 2 KiB that a warp has in flight in each strip.
    depth: u64,
}

impl SkinnyConfig {
    /// The fastest on an H200 for weights of these sizes and this many rows (`bench/weight-layout.json`). Two strips
    /// share their reads of x; a multiprocessor needs some 100 KB in flight, and all blocks should run at once.
    fn of(n: u64, k: u64, rows: u64) -> SkinnyConfig {
        let strips = n.div_ceil(16);
        let even = strips.is_multiple_of(2);
        let (warps, strips, depth) = match rows {
            0..=8 if (2 * MULTIPROCESSORS + 1..=3 * MULTIPROCESSORS).contains(&strips) => (8, 1, 2),
            0..=8 if even && (strips > 3 * MULTIPROCESSORS || (strips > 200 && k < 8192)) => (8, 2, 4),
            0..=8 => (8, 1, 4),
            _ if even && n >= WIDE => (8, 2, 1),
            _ if even => (16, 2, 1),
            _ => (8, 1, 1),
        };
        SkinnyConfig { warps, strips, depth }
    }

    /// For quantized weights, which take registers to widen: fewer units are in flight, so that two blocks still share
    /// a multiprocessor. Not timed yet.
    fn of_quantized(n: u64, k: u64, rows: u64, quantized: &QuantizedOperands) -> SkinnyConfig {
        let strips = n.div_ceil(16);
        let even = strips.is_multiple_of(2);
        let (of_4_bits, many) = (quantized.weight_dtype == DType::I4, strips > 3 * MULTIPROCESSORS);
        let (warps, strips, depth) = match rows {
            0..=8 if quantized.zero_point => (8, 1, 1),
            0..=8 if quantized.x.is_some_and(|x| x.cols > 0) => (8, 1, 3),
            // scales of blocks take registers, and widening e4m3 takes more than integers
            0..=8
                if quantized.weight_dtype == DType::F8E4M3
                    && quantized.weight.is_some_and(|weight| weight.cols > 0) =>
            {
                (8, 1, 2)
            }
            0..=8 if even && many && quantized.x.is_none() => (8, 2, if of_4_bits { 1 } else { 2 }),
            0..=8 if strips > 2 * MULTIPROCESSORS && !many => (8, 1, 2),
            0..=8 if even && strips > 200 && k < 8192 && quantized.x.is_none() => (8, 2, if of_4_bits { 2 } else { 4 }),
            // 4-bit rows as long as this, on few strips, would spill with more in flight
            0..=8 if of_4_bits && k >= 8192 && strips < 64 => (8, 1, 1),
            0..=8 => (8, 1, if of_4_bits { 2 } else { 3 }),
            _ if even => (8, 2, 1),
            _ => (8, 1, 1),
        };
        SkinnyConfig { warps, strips, depth }
    }

    /// Those that came close for some sizes, or won (`bench/weight-layout.json`).
    fn others(n: u64, rows: u64) -> Vec<SkinnyConfig> {
        let all: &[(u64, u64, u64)] = match rows {
            0..=8 => &[(8, 1, 2), (8, 1, 4), (16, 1, 1), (16, 1, 2), (4, 1, 4), (8, 2, 1), (8, 2, 2), (8, 2, 4)],
            _ => &[(8, 1, 1), (8, 1, 2), (16, 1, 1), (8, 2, 1), (16, 2, 1)],
        };
        let even = n.div_ceil(16).is_multiple_of(2);
        let fits = |(_, strips, _): &&(u64, u64, u64)| *strips == 1 || even;
        let config = |&(warps, strips, depth): &_| SkinnyConfig { warps, strips, depth };
        all.iter().filter(fits).map(config).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configurations_are_those_that_were_fastest() {
        // the linears of Llama-3.1-8B
        let shapes = [(6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336), (128256, 4096)];
        let skinny = |rows| shapes.map(|(n, k)| SkinnyConfig::of(n, k, rows)).map(|c| (c.warps, c.strips, c.depth));
        assert_eq!(skinny(8), [(8, 1, 2), (8, 2, 4), (8, 2, 4), (8, 1, 4), (8, 2, 4)]);
        assert_eq!(skinny(16), [(16, 2, 1), (16, 2, 1), (8, 2, 1), (16, 2, 1), (8, 2, 1)]);
    }

    #[test]
    fn weights_of_4_bits_have_half_as_many_units_in_flight() {
        let quantized = |weight_dtype| QuantizedOperands {
            any: true,
            x_dtype: DType::BF16,
            x: None,
            weight_dtype,
            weight: None,
            zero_point: false,
        };
        let depth = |dtype, n, k| SkinnyConfig::of_quantized(n, k, 8, &quantized(dtype)).depth;
        assert_eq!([depth(DType::I8, 28672, 4096), depth(DType::I4, 28672, 4096)], [2, 1]);
        assert_eq!([depth(DType::I8, 4096, 4096), depth(DType::I4, 4096, 4096)], [4, 2]);
    }
}
