//! `kernels/linear/few.cuh`: one to eight rows; weights stream through rings in shared memory.

use plan::{DType, Tiles};

use super::arguments::{Arguments, operands};
use super::{LINEARS, Shape, check_tiled, shape};
use crate::kernels::cuda::MULTIPROCESSORS;
use crate::kernels::cuda::body::Body;
use crate::kernels::cuda::quantized::{QuantizedOperands, ScaleBlock};
use crate::kernels::{Row, distinct};
use crate::{Call, Refusal, Site};

/// Rows that are the columns of one MMA.
const FEW_ROWS: u64 = 8;
/// Rows up to which 4-bit weights are faster here than in `skinny`: with more, x, which is twice as large as a strip of
/// them, is read for each strip of 16 outputs, there for two (docs/performance-log.md).
const FEW_ROWS_OF_4_BITS: u64 = 4;
/// Blocks of a multiprocessor, all resident for a whole launch.
const BLOCKS: u64 = 2;
/// Shared memory of a block, so that exactly two fit a multiprocessor: the least and the most. Of 228 KB the system
/// takes one per block, and a norm another one, for sums in static shared memory.
const LEAST_BYTES: u64 = 100 << 10;
const MOST_BYTES: u64 = 113 << 10;
const MOST_BYTES_NORMED: u64 = 112 << 10;
/// Bytes of a unit of a strip.
const UNIT_BYTES: u64 = 2048;

pub(in crate::kernels::cuda) const LINEAR_FEW: Row =
    Row::new("linear_few", LINEARS, "kernels/linear/few.cuh", |site| few(site, None)).tuned(candidates);

/// Whether this kernel supports a linear layer.
pub(in crate::kernels::cuda) fn supports(site: &Site<'_>) -> bool {
    few(site, None).is_ok()
}

fn few(site: &Site<'_>, config: Option<FewConfig>) -> Result<Call, Refusal> {
    let shape = shape(site)?;
    let layout = check_tiled(site, &shape)?;
    let quantized = QuantizedOperands::of(site.graph, &shape.parts)?;
    let of_4_bits = quantized.weight_dtype == DType::I4;
    let rows = site.program.bound(&shape.rows).unwrap_or(u64::MAX);
    let most = if of_4_bits { FEW_ROWS_OF_4_BITS } else { FEW_ROWS };
    if rows > most {
        return Err(Refusal::because(format!("supports {most} rows, this program has up to {rows}")));
    }
    let normed = shape.parts.prologue.is_some();
    if normed && rows > 1 {
        return Err(Refusal::because(format!("norms one row, this program has up to {rows}")));
    }
    let work = Work::of(&shape, &quantized, rows)?;
    let config = config.unwrap_or_else(|| FewConfig::of(rows));
    let most = if normed { MOST_BYTES_NORMED } else { MOST_BYTES };
    let staged = work.bytes(&config, true) <= most;
    if !staged && (normed || quantized.zero_point) {
        return Err(Refusal::because("its row does not fit in shared memory beside the rings"));
    }
    let bytes = work.bytes(&config, staged);
    if bytes > most {
        return Err(Refusal::because(format!("its rings take {bytes} bytes of shared memory")));
    }
    let FewConfig { strips, shares, stages } = config;
    let (Shape { n, k, .. }, types) = (&shape, shape.types(site));
    let more = Arguments::of(site, &shape, &quantized, rows)?.text();
    let instance = format!("LinearFew<{types}, {n}, {k}, {rows}, {strips}, {shares}, {stages}, {staged}{more}>");
    let grid = n.div_ceil(16 * strips).min(BLOCKS * MULTIPROCESSORS);
    let mut body = Body::of(&LINEAR_FEW, instance, (strips * shares) as u32 * 32, grid.into());
    body.says_blocks = true;
    body.shared_bytes = bytes.max(LEAST_BYTES) as u32;
    let call = shape.call(site, body, &operands(&shape))?.layout(1, layout).int("rows", rows as i64);
    Ok(call.int("strips", strips as i64).int("shares", shares as i64).int("stages", stages as i64))
}

fn candidates(site: &Site<'_>) -> Result<Vec<Call>, Refusal> {
    distinct(few(site, None), FewConfig::ALL.into_iter().map(|config| few(site, Some(config))))
}

/// What a block keeps in shared memory.
#[derive(Clone, Copy, Debug)]
struct Work {
    rows: u64,
    /// Units of a strip.
    units: u64,
    /// Bytes of a row of x, padded to whole units.
    x_bytes: u64,
    /// Groups of columns of a row, each with a scale; 0 if the row has one.
    groups: u64,
    /// Bytes of such a scale.
    scale_bytes: u64,
    zero_points: bool,
    /// Whether sums of x are needed.
    sums: bool,
}

impl Work {
    fn of(shape: &Shape, quantized: &QuantizedOperands, rows: u64) -> Result<Work, Refusal> {
        let cols = Tiles::cols_of(quantized.weight_dtype);
        let cols =
            cols.ok_or_else(|| Refusal::because(format!("does not support weights of {}", quantized.weight_dtype)))?;
        let (mut groups, mut scale_bytes) = (0, 0);
        if let Some(ScaleBlock { rows, cols, dtype }) = quantized.weight.filter(|sharing| sharing.cols > 0) {
            if rows != 1 {
                return Err(Refusal::because("requires scales of one row, not of several"));
            }
            (groups, scale_bytes) = (shape.k.div_ceil(cols), dtype.bytes());
        }
        if quantized.x.is_some_and(|x| x.cols > 0) {
            return Err(Refusal::because("requires one scale per row of activations"));
        }
        let whole = |bytes: u64| bytes.is_multiple_of(Tiles::CHUNK_BYTES);
        if !whole(groups * scale_bytes) || quantized.zero_point && (groups == 0 || !whole(groups)) {
            return Err(Refusal::because("requires rows of scales and zero points that are a multiple of 16 bytes"));
        }
        let units = shape.k.div_ceil(cols);
        let x_bytes = units * cols * if quantized.x.is_some() { 1 } else { 2 };
        let (zero_points, sums) = (quantized.zero_point, quantized.zero_point || quantized.weight_dtype == DType::I4);
        Ok(Work { rows, units, x_bytes, groups, scale_bytes, zero_points, sums })
    }

    /// Bytes of shared memory that the body uses: rings, barriers, partial sums, scales and zero points, x, sums of x.
    fn bytes(&self, config: &FewConfig, staged: bool) -> u64 {
        let FewConfig { strips, shares, stages } = *config;
        let pitch = |bytes: u64| if bytes == 0 { 0 } else { bytes.next_multiple_of(128) + 16 };
        let units = strips * shares * stages;
        let barriers = ((units + 2 * strips) * 8).next_multiple_of(128);
        let partials = (2 * strips * shares * self.rows * 18 * 4).next_multiple_of(128);
        let zero_points = if self.zero_points { self.groups } else { 0 };
        let scales = 2 * strips * 16 * (pitch(self.groups * self.scale_bytes) + pitch(zero_points));
        let x = self.rows * (self.x_bytes.next_multiple_of(128) + 64);
        let sums = if self.sums { 2 * self.units * 64 } else { 0 };
        units * UNIT_BYTES + barriers + partials + scales + if staged { x + sums } else { 0 }
    }
}

/// The shape of a block, and the depth of its rings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FewConfig {
    /// Strips of 16 outputs that a block takes at a time.
    strips: u64,
    /// Warps that share the columns of a strip.
    shares: u64,
    /// Units of 2 KiB that a warp has in flight.
    stages: u64,
}

impl FewConfig {
    const ALL: [FewConfig; 4] = [
        FewConfig { strips: 1, shares: 8, stages: 2 },
        FewConfig { strips: 1, shares: 8, stages: 3 },
        FewConfig { strips: 2, shares: 4, stages: 2 },
        FewConfig { strips: 4, shares: 2, stages: 2 },
    ];

    /// The fastest on an H200, in a whole step (`docs/performance-log.md`).
    fn of(rows: u64) -> FewConfig {
        FewConfig { strips: 1, shares: 8, stages: if rows == 1 { 3 } else { 2 } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_blocks_of_an_8b_shape_fit_a_multiprocessor() {
        let work = |rows: u64, k: u64, groups: u64| Work {
            rows,
            units: k / 64,
            x_bytes: 2 * k,
            groups,
            scale_bytes: 4,
            zero_points: false,
            sums: false,
        };
        let bytes = |rows: u64, k: u64| work(rows, k, 0).bytes(&FewConfig::of(rows), true);
        assert_eq!([bytes(1, 4096), bytes(8, 4096), bytes(1, 14336)], [58_816, 108_288, 79_296]);
        assert!(bytes(8, 4096) <= MOST_BYTES && bytes(4, 14336) > MOST_BYTES);
        // two places for the scales of a strip
        let scales = work(1, 4096, 32).bytes(&FewConfig::of(1), true) - bytes(1, 4096);
        assert_eq!(scales, 2 * 16 * (32 * 4 + 16));
    }
}
