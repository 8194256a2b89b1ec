//! `kernels/linear/stream.cuh`: 9 to 128 rows; weights stream through a ring in shared memory into wgmma, and clusters
//! share the columns of few outputs.

use std::ops::RangeInclusive;

use plan::devices::sm90;
use plan::{DType, Tiles};

use super::wgmma::{EXACT_COLS, Product};
use super::{LINEARS, WIDE};
use crate::kernels::cuda::body::{Body, c_type};
use crate::kernels::cuda::{MULTIPROCESSORS, is_16_bit};
use crate::kernels::{Row, distinct};
use crate::{Call, Refusal, Site};

/// Rows for which it is faster than other kernels on an H200 (docs/performance-log.md). `linear_skinny` reads unquantized
/// weights as fast for up to 16 rows, and `linear_wgmma_quantized` multiplies two quantized operands as fast from 65 on.
const ROWS: RangeInclusive<u64> = 9..=128;
const UNQUANTIZED_ROWS: RangeInclusive<u64> = 17..=128;
const BOTH_QUANTIZED_ROWS: RangeInclusive<u64> = 9..=64;
/// Numbers of rows of activations that a tile may have.
const TILE_ROWS: [u64; 4] = [16, 32, 64, 128];
/// Blocks of a cluster.
const MOST_SPLIT: u64 = 8;
/// Blocks that a launch may have if they wait for each other: some more than run at once.
const MOST_BLOCKS: u64 = 3 * MULTIPROCESSORS;

/// Outputs of a block, blocks of a cluster, and places: those that came close on an H200, or won.
const SHAPES: [[u64; 3]; 10] = [
    [64, 1, 3],
    [64, 2, 3],
    [64, 4, 3],
    [64, 1, 2],
    [64, 4, 2],
    [128, 1, 2],
    [128, 2, 2],
    [128, 4, 2],
    [128, 1, 3],
    [256, 1, 2],
];

pub(in crate::kernels::cuda) const LINEAR_STREAM: Row =
    Row::new("linear_stream", LINEARS, "kernels/linear/stream.cuh", |site| stream(site, None)).tuned(candidates);

/// Whether this kernel supports a linear layer.
pub(in crate::kernels::cuda) fn supports(site: &Site<'_>) -> bool {
    stream(site, None).is_ok()
}

fn stream(site: &Site<'_>, shape: Option<[u64; 3]>) -> Result<Call, Refusal> {
    let product = Product::of(site)?;
    let (bound, x, weight) = (product.bound, product.quantized.x_dtype, product.quantized.weight_dtype);
    let supported = match product.quantized_operands() {
        (false, false) => UNQUANTIZED_ROWS,
        (true, true) => BOTH_QUANTIZED_ROWS,
        _ => ROWS,
    };
    if !supported.contains(&bound) {
        let (least, most) = supported.into_inner();
        return Err(Refusal::because(format!("supports {least} to {most} rows, this program has up to {bound}")));
    }
    let (widened, zero_point) = (x != weight, product.quantized.zero_point);
    if widened && !(is_16_bit(x) && product.quantized.weight.is_some()) {
        return Err(Refusal::because(format!("does not multiply activations of {x} by weights of {weight}")));
    }
    if zero_point && !widened {
        return Err(Refusal::because("supports zero points only of weights that are widened"));
    }
    let (n, k) = (product.shape.n, product.shape.k);
    if x == DType::I8 && k >= EXACT_COLS {
        return Err(Refusal::because(format!("sums of {k} products would not fit 32 bits")));
    }
    let (x_grouped, x_scales) = product.scales(product.quantized.x)?;
    let (w_grouped, w_scales) = product.scales(product.quantized.weight)?;
    if x_grouped {
        return Err(Refusal::because("requires one scale per row of activations"));
    }
    let unit_cols = Tiles::cols_of(weight).ok_or_else(|| Refusal::because("requires 16-bit or quantized operands"))?;
    let work = Work {
        n,
        units: k.div_ceil(unit_cols),
        rows: TILE_ROWS.into_iter().find(|rows| *rows >= bound).unwrap_or(bound),
        x_bytes: unit_cols * x.bytes(),
        widened,
        in_steps: w_grouped || x == DType::F8E4M3,
    };
    if n >= WIDE && !work.fits_registers(128) {
        return Err(Refusal::because("linear_wgmma_weights is faster for wide weights in groups"));
    }
    let config = shape.map_or_else(|| work.config(), |[cols, split, places]| work.with_stages(cols, split, places));
    let bytes = work.checked_bytes(config)?;
    let (StreamConfig { cols, split, stages, places }, rows) = (config, work.rows);
    let bias = product.bias(site, if is_16_bit(x) { x } else { product.shape.parts.result })?;
    let types =
        [product.shape.product_type(site), c_type(x), c_type(weight), c_type(bias), product.shape.result_type()];
    let more = match (zero_point, product.shape.gated(), product.formula()) {
        (false, false, "") => String::new(),
        (_, gated, formula) => format!(", {zero_point}, {gated}{formula}"),
    };
    let types = types.join(", ");
    let instance = format!(
        "LinearStream<{types}, {x_scales}, {w_scales}, {n}, {k}, {rows}, {cols}, {split}, {stages}, {places}{more}>"
    );
    let mut body = Body::of(&LINEAR_STREAM, instance, 2 * cols as u32 + 32, (n.div_ceil(cols) * split).into());
    (body.shared_bytes, body.cluster) = (bytes as u32, split as u32);
    let epilogue = [product.shape.bias(), product.shape.residual(), product.shape.output_scale()];
    let call = product.call(site, body, [rows, cols], &[&product.shape.scales()[..], &epilogue].concat())?;
    let call = call.int("cols", cols as i64).int("split", split as i64).int("stages", stages as i64);
    Ok(call.int("places", places as i64))
}

fn candidates(site: &Site<'_>) -> Result<Vec<Call>, Refusal> {
    let others = SHAPES.into_iter().filter_map(|shape| stream(site, Some(shape)).ok());
    distinct(stream(site, None), others.map(Ok))
}

/// The shape of a block, and how many share a multiprocessor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct StreamConfig {
    /// Outputs of a block.
    cols: u64,
    /// Blocks that share their columns.
    split: u64,
    /// Depth of the ring.
    stages: u64,
    /// Blocks for which a multiprocessor has room.
    places: u64,
}

impl StreamConfig {
    /// The least shared memory of a block, so that no more than its places fit, and the most, so that they do. Of the 228
    /// KB of a multiprocessor the system takes one for each block.
    const fn bytes(places: u64) -> [u64; 2] {
        if places == 3 { [75 << 10, 75 << 10] } else { [100 << 10, 113 << 10] }
    }
}

/// What a launch has to do.
#[derive(Clone, Copy, Debug)]
struct Work {
    n: u64,
    /// Units of a strip of weights.
    units: u64,
    /// Rows of a tile of activations.
    rows: u64,
    /// Bytes of a row of them beside a unit of weights.
    x_bytes: u64,
    /// Whether weights are widened in registers.
    widened: bool,
    /// Whether the sums of 128 columns are added up apart.
    in_steps: bool,
}

impl Work {
    /// The fastest on an H200, in a whole step (docs/performance-log.md): all blocks run at once, and up to 64 rows the
    /// first ones of the next launch beside them. Wide weights have the largest blocks, which read x the least.
    fn config(&self) -> StreamConfig {
        if self.n >= WIDE {
            let cols = if self.x_bytes > 128 && self.rows <= 32 { 256 } else { 128 };
            return self.with_stages(cols, 1, 2);
        }
        let most = (2 * MULTIPROCESSORS / self.n.div_ceil(64)).clamp(1, MOST_SPLIT).min(self.units);
        self.with_stages(64, 1 << most.ilog2(), if self.rows <= 64 { 3 } else { 2 })
    }

    /// As many stages as fit, but no more than there are units.
    fn with_stages(&self, cols: u64, split: u64, places: u64) -> StreamConfig {
        let config = |stages| StreamConfig { cols, split, stages, places };
        let units = self.units.div_ceil(split).max(2);
        let fits = |stages: &u64| self.used_bytes(config(*stages)) <= StreamConfig::bytes(places)[1];
        config((2..=units.min(8)).rev().find(fits).unwrap_or(2))
    }

    /// The ring, which sums replace, and its barriers.
    fn used_bytes(&self, StreamConfig { cols, stages, .. }: StreamConfig) -> u64 {
        let ring = stages * (128 * cols + self.rows * self.x_bytes);
        let sums = (self.rows * (cols + 4) * 4).next_multiple_of(128);
        ring.max(sums) + 16 * stages
    }

    /// Bytes of shared memory of a block, or why it cannot run.
    fn checked_bytes(&self, config: StreamConfig) -> Result<u64, Refusal> {
        let StreamConfig { cols, split, places, .. } = config;
        let blocks = self.n.div_ceil(cols) * split;
        if split > 1 && (blocks > MOST_BLOCKS || split > self.units) {
            return Err(Refusal::because(format!("{blocks} blocks, of {split} in a cluster, would not run at once")));
        }
        if !self.fits_registers(cols) {
            return Err(Refusal::because(format!("sums of {} rows by {cols} outputs do not fit registers", self.rows)));
        }
        let bytes = self.used_bytes(config).max(StreamConfig::bytes(places)[0]);
        match bytes <= sm90::SHARED_BYTES.into() {
            true => Ok(bytes),
            false => Err(Refusal::because(format!("its ring takes {bytes} bytes of shared memory"))),
        }
    }

    /// Whether a thread has the registers for its sums, and for its weights if they are widened.
    fn fits_registers(&self, cols: u64) -> bool {
        let values = self.rows / 2 * if self.in_steps { 2 } else { 1 } + if self.widened { 32 } else { 0 };
        values
            <= match cols {
                64 => 192,
                128 => 128,
                _ => 64,
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A linear layer of this many rows in bf16, or with int4 weights.
    fn work(n: u64, k: u64, rows: u64, int4: bool) -> Work {
        let (unit_cols, x_bytes) = if int4 { (256, 512) } else { (64, 128) };
        Work { n, units: k.div_ceil(unit_cols), rows, x_bytes, widened: int4, in_steps: int4 }
    }

    #[test]
    fn configurations_are_those_that_were_fastest() {
        // the linears of Llama-3.1-8B
        let of = |rows, int4| {
            let shapes = [(6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336)];
            shapes.map(|(n, k)| work(n, k, rows, int4).config()).map(|c| (c.cols, c.split, c.stages, c.places))
        };
        assert_eq!(of(32, false), [(64, 2, 6, 3), (64, 4, 6, 3), (128, 1, 5, 2), (64, 4, 6, 3)]);
        assert_eq!(of(128, false), [(64, 2, 4, 2), (64, 4, 4, 2), (128, 1, 3, 2), (64, 4, 4, 2)]);
        assert_eq!(of(32, true), [(64, 2, 3, 3), (64, 4, 3, 3), (256, 1, 2, 2), (64, 4, 3, 3)]);
    }

    #[test]
    fn blocks_run_at_once() {
        for (n, k) in [(6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336), (2048, 8192), (256, 64)] {
            for (rows, int4) in TILE_ROWS.into_iter().flat_map(|rows| [(rows, false), (rows, true)]) {
                let work = work(n, k, rows, int4);
                if n >= WIDE && !work.fits_registers(128) {
                    // another kernel has it
                    assert!(int4 && rows > 64);
                    continue;
                }
                let config = work.config();
                let bytes = work.checked_bytes(config).expect("a block that can run");
                let blocks = n.div_ceil(config.cols) * config.split;
                assert!(blocks <= 2 * MULTIPROCESSORS, "{work:?} {config:?}");
                assert!(bytes <= StreamConfig::bytes(config.places)[1] || config.stages == 2, "{work:?} {config:?}");
            }
        }
    }
}
