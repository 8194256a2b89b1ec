//! `kernels/linear/wgmma*.cuh`: many rows. No operand is quantized, or both are, or the weight alone.

use ir::Value;
use plan::{DType, Dim, TensorMap, Tiles};

use super::{LINEARS, QUANTIZED_LINEARS, Shape, WIDE, check_tiled, shape};
use crate::kernels::cuda::MULTIPROCESSORS;
use crate::kernels::cuda::body::{Body, c_type};
use crate::kernels::cuda::layout::layout_of;
use crate::kernels::cuda::quantized::{QuantizedOperands, ScaleBlock};
use crate::kernels::{Row, distinct};
use crate::{Call, Refusal, Site};

pub(in crate::kernels::cuda) const LINEAR_WGMMA: Row =
    Row::new("linear_wgmma", LINEARS, "kernels/linear/wgmma.cuh", |site| unquantized(site, None))
        .tuned(unquantized_candidates);

pub(in crate::kernels::cuda) const LINEAR_WGMMA_QUANTIZED: Row =
    Row::new("linear_wgmma_quantized", QUANTIZED_LINEARS, "kernels/linear/wgmma_quantized.cuh", |site| {
        both_quantized(site, None)
    })
    .tuned(both_quantized_candidates);

pub(in crate::kernels::cuda) const LINEAR_WGMMA_WEIGHTS: Row =
    Row::new("linear_wgmma_weights", QUANTIZED_LINEARS, "kernels/linear/wgmma_weights.cuh", |site| {
        weight_quantized(site, None)
    })
    .tuned(weight_quantized_candidates);

/// Columns that tensor cores add up before the sum is scaled.
const STEP: u64 = 128;
/// Columns of which products of 8-bit integers fit a sum of 32 bits.
pub(super) const EXACT_COLS: u64 = 1 << 17;

/// The block of outputs of a kernel, and the depth of its ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WgmmaConfig {
    rows: u64,
    cols: u64,
    stages: u64,
}

/// A width of blocks.
#[derive(Clone, Copy, Debug)]
struct Width {
    cols: u64,
    /// Time per column, in percent of the widest block's.
    cost: u64,
    stages: u64,
}

const fn width(cols: u64, cost: u64, stages: u64) -> Width {
    Width { cols, cost, stages }
}

/// Widths of blocks of 128 rows: the fastest on an H200 (`bench/weight-layout.json`).
const WIDTHS: [Width; 5] =
    [width(256, 100, 4), width(192, 102, 4), width(128, 106, 5), width(64, 135, 8), width(32, 300, 8)];
/// Those with room for two sums per thread.
const STEP_WIDTHS: &[Width] = WIDTHS.split_at(2).1;
/// Outputs of a block whose weight is widened in registers, and its widths: there rows are the columns of wgmma.
const WIDENED_OUTPUTS: u64 = 128;
const WIDENED_WIDTHS: [Width; 3] = [width(256, 100, 2), width(192, 102, 3), width(128, 104, 4)];
const WIDENED_STEP_WIDTHS: &[Width] = WIDENED_WIDTHS.split_at(2).1;

impl WgmmaConfig {
    /// Up to 64 rows weights stream, and a deep ring decides.
    fn few_rows(n: u64) -> WgmmaConfig {
        let (cols, stages) = if n >= WIDE { (128, 8) } else { (64, 12) };
        WgmmaConfig { rows: 64, cols, stages }
    }

    /// For more, blocks run in waves over the chip: the fewest columns in all waves win, with a cost of narrow blocks.
    fn many_rows(n: u64, bound: u64, widths: &[Width]) -> WgmmaConfig {
        WgmmaConfig::many_rows_of(n, bound, 128, widths)
    }

    /// The same for blocks of this many rows.
    fn many_rows_of(n: u64, bound: u64, rows: u64, widths: &[Width]) -> WgmmaConfig {
        let waves = |cols: u64| (bound.div_ceil(rows) * n.div_ceil(cols)).div_ceil(MULTIPROCESSORS);
        let best = widths.iter().min_by_key(|width| waves(width.cols) * width.cols * width.cost);
        let Width { cols, stages, .. } = best.copied().unwrap_or(WIDTHS[2]);
        WgmmaConfig { rows, cols, stages }
    }

    /// For a product that reads its operands from shared memory.
    fn of(n: u64, bound: u64, widths: &[Width]) -> WgmmaConfig {
        if bound <= 64 { WgmmaConfig::few_rows(n) } else { WgmmaConfig::many_rows(n, bound, widths) }
    }

    /// For a product that widens its weight.
    fn widened(n: u64, bound: u64, widths: &[Width]) -> WgmmaConfig {
        let few = |rows| match n >= WIDE {
            true => WgmmaConfig { rows, cols: WIDENED_OUTPUTS, stages: 6 },
            false => WgmmaConfig { rows, cols: 64, stages: 8 },
        };
        match bound {
            0..=32 => few(32),
            33..=64 => few(64),
            // the product is computed transposed: outputs take the place of rows
            _ => {
                let WgmmaConfig { rows, cols, stages } = WgmmaConfig::many_rows_of(bound, n, WIDENED_OUTPUTS, widths);
                WgmmaConfig { rows: cols, cols: rows, stages }
            }
        }
    }

    /// Each width that fits registers, in a ring as deep as fits shared memory, and a shallower one.
    fn others(bound: u64, widest: u64) -> Vec<WgmmaConfig> {
        let all: &[(u64, u64, u64)] = match bound {
            0..=64 => &[(64, 32, 16), (64, 64, 8), (64, 64, 12), (64, 128, 6), (64, 128, 8)],
            _ => &[(128, 256, 4), (128, 192, 4), (128, 192, 5), (128, 128, 5), (128, 128, 6), (128, 64, 8)],
        };
        configs(all).filter(|config| config.cols <= widest).collect()
    }

    fn others_widened(bound: u64, widest: u64) -> Vec<WgmmaConfig> {
        let all: &[(u64, u64, u64)] = match bound {
            0..=32 => &[(32, 64, 6), (32, 64, 8), (32, 128, 4), (32, 128, 6)],
            33..=64 => &[(64, 64, 6), (64, 64, 8), (64, 128, 4), (64, 128, 6)],
            _ => &[(256, 128, 2), (192, 128, 3), (128, 128, 3), (128, 128, 4), (128, 64, 4)],
        };
        configs(all).filter(|config| config.rows <= widest).collect()
    }
}

fn configs(all: &[(u64, u64, u64)]) -> impl Iterator<Item = WgmmaConfig> {
    all.iter().map(|&(rows, cols, stages)| WgmmaConfig { rows, cols, stages })
}

/// A product for wgmma: its shape, and the rows of the program.
pub(super) struct Product {
    pub shape: Shape,
    pub quantized: QuantizedOperands,
    pub bound: u64,
}

impl Product {
    /// Checks what all kernels that multiply by wgmma require.
    pub fn of(site: &Site<'_>) -> Result<Product, Refusal> {
        let shape = shape(site)?;
        check_tiled(site, &shape)?;
        if shape.parts.prologue.is_some() {
            return Err(Refusal::because("its activations are loaded by TMA, so it has no prologue"));
        }
        if site.graph.inputs().contains(&shape.parts.x) {
            return Err(Refusal::because("its activations are an input of the program, which has no fixed address"));
        }
        let bound = site.program.bound(&shape.rows).unwrap_or(u64::MAX);
        Ok(Product { quantized: QuantizedOperands::of(site.graph, &shape.parts)?, shape, bound })
    }

    /// The same for kernels that require a quantized weight.
    fn quantized_weight(site: &Site<'_>) -> Result<Product, Refusal> {
        match shape(site)?.parts.scales.weight {
            Some(_) => Product::of(site),
            None => Err(Refusal::OtherOp),
        }
    }

    fn unquantized_output(self) -> Result<Product, Refusal> {
        Ok(Product { shape: self.shape.unquantized_output()?, ..self })
    }

    /// Whether x and the weight are quantized.
    pub fn quantized_operands(&self) -> (bool, bool) {
        (self.quantized.x.is_some(), self.quantized.weight.is_some())
    }

    /// Whether the scales of an operand are in groups, and their type.
    pub fn scales(&self, sharing: Option<ScaleBlock>) -> Result<(bool, String), Refusal> {
        let cols = sharing.map_or(0, |sharing| sharing.cols);
        match cols.is_multiple_of(STEP) {
            true => Ok((cols != 0, ScaleBlock::argument(sharing, self.shape.k))),
            false => Err(Refusal::because(format!("requires groups of a multiple of {STEP} columns, found {cols}"))),
        }
    }

    /// The argument that names the functions of the epilogue, if any.
    pub fn formula(&self) -> &'static str {
        if self.shape.formula().is_some() { ", Formula" } else { "" }
    }

    /// The type of a bias, `other` without one.
    pub fn bias(&self, site: &Site<'_>, other: DType) -> Result<DType, Refusal> {
        self.shape.bias().map_or(Ok(other), |bias| Ok(site.tensor(bias)?.dtype))
    }

    /// The call of a body: boxes of so many rows of x and w in its maps, and the operands `more` after the weight, some
    /// of which may be absent.
    pub fn call(
        &self,
        site: &Site<'_>,
        mut body: Body,
        [rows, cols]: [u64; 2],
        more: &[Option<Value>],
    ) -> Result<Call, Refusal> {
        let parts = &self.shape.parts;
        let map = |input, value, box_rows: u64| {
            let box_cols = Tiles::cols_of(site.tensor(value)?.dtype);
            let box_cols = box_cols.ok_or_else(|| Refusal::because("requires 16-bit or quantized operands"))?;
            Ok::<_, Refusal>(TensorMap { input, box_rows: box_rows as u32, box_cols: box_cols as u32 })
        };
        body.says_blocks = true;
        body.maps = vec![map(0, parts.x, rows)?, map(1, parts.weight, cols)?];
        let call = self.shape.call(site, body, more)?.layout(1, layout_of(site.graph, parts.weight));
        Ok(call.int("rows", rows as i64))
    }

    /// The same for blocks of outputs that a grid covers.
    fn call_of_blocks(
        &self,
        site: &Site<'_>,
        body: Body,
        WgmmaConfig { rows, cols, stages }: WgmmaConfig,
        more: &[Option<Value>],
    ) -> Result<Call, Refusal> {
        let call = self.call(site, body, [rows, cols], more)?;
        Ok(call.int("cols", cols as i64).int("stages", stages as i64))
    }

    fn grid(&self, config: WgmmaConfig) -> Dim {
        self.shape.rows.ceil_div(config.rows) * self.shape.n.div_ceil(config.cols).into()
    }
}

/// Bytes of a ring of tiles of activations and weights, and of two barriers for each.
fn ring_bytes(WgmmaConfig { rows, cols, stages }: WgmmaConfig) -> u32 {
    (stages * 128 * (rows + cols) + 16 * stages) as u32
}

fn unquantized(site: &Site<'_>, config: Option<WgmmaConfig>) -> Result<Call, Refusal> {
    let product = Product::of(site)?.unquantized_output()?;
    if product.quantized_operands() != (false, false) {
        return Err(Refusal::because("requires unquantized operands"));
    }
    let Shape { n, k, .. } = product.shape;
    let config = config.unwrap_or_else(|| WgmmaConfig::of(n, product.bound, &WIDTHS));
    let WgmmaConfig { rows, cols, stages } = config;
    let more = match (product.shape.gated(), product.formula()) {
        (true, _) => ", true".to_owned(),
        (false, "") => String::new(),
        (false, formula) => format!(", false{formula}"),
    };
    let types = product.shape.types(site);
    let instance = format!("LinearWgmma<{types}, {n}, {k}, {rows}, {cols}, {stages}{more}>");
    let threads = 2 * rows as u32 + 32;
    let mut body = Body::of(&LINEAR_WGMMA, instance, threads, product.grid(config));
    body.shared_bytes = ring_bytes(config);
    product.call_of_blocks(site, body, config, &[product.shape.bias(), product.shape.residual()])
}

fn both_quantized(site: &Site<'_>, config: Option<WgmmaConfig>) -> Result<Call, Refusal> {
    let product = Product::quantized_weight(site)?;
    let parts = &product.shape.parts;
    if product.quantized_operands() != (true, true) {
        return Err(Refusal::because("requires quantized activations and a quantized weight"));
    }
    let (dtype, other) = (product.quantized.x_dtype, product.quantized.weight_dtype);
    if dtype != other || !matches!(dtype, DType::I8 | DType::F8E4M3) {
        return Err(Refusal::because(format!("requires two operands of i8 or of f8e4m3, found {dtype} and {other}")));
    }
    if product.quantized.zero_point {
        return Err(Refusal::because("does not support zero points"));
    }
    let Shape { n, k, .. } = product.shape;
    if dtype == DType::I8 && k >= EXACT_COLS {
        return Err(Refusal::because(format!("sums of {k} products would not fit 32 bits")));
    }
    let (x_grouped, x_scales) = product.scales(product.quantized.x)?;
    let (w_grouped, w_scales) = product.scales(product.quantized.weight)?;
    let in_steps = dtype == DType::F8E4M3 || x_grouped || w_grouped;
    let config =
        config.unwrap_or_else(|| WgmmaConfig::of(n, product.bound, if in_steps { STEP_WIDTHS } else { &WIDTHS }));
    let WgmmaConfig { rows, cols, stages } = config;
    let gated = product.shape.gated();
    let (half_cols, halves) = if gated { (cols / 2, n / 2) } else { (cols, 0) };
    let shared_rows = product.quantized.weight.map_or(0, |sharing| sharing.rows);
    if w_grouped && !(shared_rows.is_multiple_of(half_cols) && halves.is_multiple_of(half_cols)) {
        return Err(Refusal::because(format!(
            "blocks of {shared_rows} rows of weights end within {half_cols} outputs"
        )));
    }
    let (bias, y) = (c_type(product.bias(site, parts.result)?), product.shape.result_type());
    let types = [c_type(dtype), bias, y].join(", ");
    let formula = product.formula();
    let instance = format!(
        "LinearWgmmaQuantized<{types}, {x_scales}, {w_scales}, {n}, {k}, {rows}, {cols}, {stages}, {gated}{formula}>"
    );
    let threads = 2 * rows as u32 + 32;
    let grid = product.grid(config);
    let mut body = Body::of(&LINEAR_WGMMA_QUANTIZED, instance, threads, grid);
    body.shared_bytes = ring_bytes(config);
    let epilogue = [product.shape.bias(), product.shape.residual(), product.shape.output_scale()];
    product.call_of_blocks(site, body, config, &[&[parts.scales.x, parts.scales.weight][..], &epilogue].concat())
}

fn weight_quantized(site: &Site<'_>, config: Option<WgmmaConfig>) -> Result<Call, Refusal> {
    let product = Product::quantized_weight(site)?.unquantized_output()?;
    let parts = &product.shape.parts;
    if product.quantized_operands() != (false, true) {
        return Err(Refusal::because("requires unquantized activations and a quantized weight"));
    }
    let (x, weight) = (product.quantized.x_dtype, product.quantized.weight_dtype);
    if product.bias(site, x)? != x {
        return Err(Refusal::because(format!("requires a bias of the activations' type, {x}")));
    }
    let Shape { n, k, .. } = product.shape;
    let (grouped, w_scales) = product.scales(product.quantized.weight)?;
    let widths = if grouped { WIDENED_STEP_WIDTHS } else { &WIDENED_WIDTHS };
    let config = config.unwrap_or_else(|| WgmmaConfig::widened(n, product.bound, widths));
    let WgmmaConfig { rows, cols, stages } = config;
    let (gated, zero_points, formula) = (product.shape.gated(), product.quantized.zero_point, product.formula());
    let types = [x, weight, parts.result].map(c_type).join(", ");
    let instance = format!(
        "LinearWgmmaWeights<{types}, {w_scales}, {n}, {k}, {rows}, {cols}, {stages}, {zero_points}, {gated}{formula}>"
    );
    let threads = 2 * cols as u32 + 128;
    let grid = product.grid(config);
    let mut body = Body::of(&LINEAR_WGMMA_WEIGHTS, instance, threads, grid);
    // rings of activations and weights, and barriers
    body.shared_bytes = (stages * (256 * rows + 128 * cols + 32)) as u32;
    let more = [parts.scales.weight, parts.scales.zero_point, product.shape.bias(), product.shape.residual()];
    product.call_of_blocks(site, body, config, &more)
}

type Make = fn(&Site<'_>, Option<WgmmaConfig>) -> Result<Call, Refusal>;

/// All configurations that a kernel supports, its own choice first.
fn candidates(site: &Site<'_>, make: Make, others: impl Fn(u64) -> Vec<WgmmaConfig>) -> Result<Vec<Call>, Refusal> {
    let bound = site.program.bound(&shape(site)?.rows).unwrap_or(u64::MAX);
    let first = make(site, None)?;
    let taken = others(bound).into_iter().filter_map(|config| make(site, Some(config)).ok());
    distinct(Ok(first), taken.map(Ok))
}

fn unquantized_candidates(site: &Site<'_>) -> Result<Vec<Call>, Refusal> {
    candidates(site, unquantized, |bound| WgmmaConfig::others(bound, 256))
}

fn both_quantized_candidates(site: &Site<'_>) -> Result<Vec<Call>, Refusal> {
    let exact = in_one_sum(site)?;
    candidates(site, both_quantized, |bound| WgmmaConfig::others(bound, if exact { 256 } else { 128 }))
}

fn weight_quantized_candidates(site: &Site<'_>) -> Result<Vec<Call>, Refusal> {
    let one_sum = in_one_sum(site)?;
    candidates(site, weight_quantized, |bound| WgmmaConfig::others_widened(bound, if one_sum { 256 } else { 128 }))
}

/// Whether all columns are added up in one sum: neither groups nor products of two f8e4m3 operands.
fn in_one_sum(site: &Site<'_>) -> Result<bool, Refusal> {
    let QuantizedOperands { x_dtype, x, weight, .. } = Product::quantized_weight(site)?.quantized;
    let grouped = [x, weight].into_iter().flatten().any(|sharing| sharing.cols != 0);
    Ok(x_dtype != DType::F8E4M3 && !grouped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configurations_are_those_that_were_fastest() {
        // the linears of Llama-3.1-8B
        let outputs = [6144, 4096, 28672, 4096, 128256];
        let of = |bound| outputs.map(|n| WgmmaConfig::of(n, bound, &WIDTHS)).map(|c| (c.rows, c.cols, c.stages));
        assert_eq!(of(512), [(128, 192, 4), (128, 128, 5), (128, 128, 5), (128, 128, 5), (128, 256, 4)]);
        assert_eq!(of(32)[2], (64, 128, 8));
        let in_steps = outputs.map(|n| WgmmaConfig::of(n, 512, STEP_WIDTHS)).map(|c| (c.rows, c.cols, c.stages));
        assert!(in_steps.iter().all(|(_, cols, _)| *cols <= 128), "{in_steps:?}");
    }
}
