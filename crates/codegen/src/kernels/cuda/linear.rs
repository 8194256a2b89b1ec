//! `kernels/linear`: streaming for few rows, wgmma for many, plain loops for everything else.

use std::iter::once;

use ir::ops::Linear;
use ir::{Graph, Value};
use plan::{Dim, Layout, TensorMap};

use super::body::{Body, c_type};
use super::{dim, is, is_16_bit};
use crate::kernels::distinct;
use crate::{Call, Refusal, Site};

/// Rows up to which a linear is a stream of weights.
const SKINNY_ROWS: u64 = 32;
/// A weight with as many outputs keeps the chip busy in wide blocks, too: from 17 rows on these read x less often.
const WIDE: u64 = 16384;
const WIDE_ROWS: u64 = 16;
/// Multiprocessors that a product should keep busy: those of an H100 or H200.
const MULTIPROCESSORS: u64 = 132;
/// Rows up to which the plain kernel takes a warp for each column.
const PLAIN_FEW_ROWS: u64 = 8;
const PLAIN_TILE: u64 = 64;

/// Sizes of a linear: `[rows, k]` by `[n, k]`.
struct Shape {
    rows: Dim,
    n: u64,
    k: u64,
    has_bias: bool,
}

fn shape(site: &Site<'_>) -> Result<Shape, Refusal> {
    is::<Linear>(site)?;
    let [n, k] =
        sizes(site.graph, site.operand(1)?).ok_or_else(|| Refusal::because("the weight has a symbolic size"))?;
    Ok(Shape { rows: dim(site, 0, 0)?, n, k, has_bias: site.graph.operands(site.op).len() > 2 })
}

fn sizes(graph: &Graph, weight: Value) -> Option<[u64; 2]> {
    graph.tensor(weight)?.const_shape()?.try_into().ok()
}

/// The order in which kernels of `linear` want a weight, whatever the program: tiles where each of its users can read
/// them, so that one copy serves few rows and many.
pub(super) fn layout_of(graph: &Graph, weight: Value) -> Layout {
    let users: Vec<_> = graph.uses(weight).into_iter().filter(|user| graph.cast::<Linear>(user.op).is_some()).collect();
    let tiled = users.iter().all(|user| tensor_cores(graph, &graph.operands(user.op)).is_ok());
    if tiled && !users.is_empty() { Layout::Tiled } else { Layout::RowMajor }
}

/// Whether tensor cores can take a linear of these operands, or why not.
fn tensor_cores(graph: &Graph, operands: &[Value]) -> Result<(), Refusal> {
    let dtypes: Vec<_> = operands.iter().filter_map(|value| graph.tensor(*value)).map(|ty| ty.dtype).collect();
    if !dtypes.first().is_some_and(|first| is_16_bit(*first) && dtypes.iter().all(|dtype| dtype == first)) {
        return Err(Refusal::because("takes activations, weight and bias of one 16-bit type"));
    }
    let [_, k] = sizes(graph, operands[1]).ok_or_else(|| Refusal::because("the weight has a symbolic size"))?;
    if k % 8 != 0 {
        return Err(Refusal::because(format!("rows of {k} elements are no whole 16-byte chunks")));
    }
    match graph.is_constant(operands[1]) {
        true => Ok(()),
        false => Err(Refusal::because("the weight is no constant that could be packed")),
    }
}

/// Template arguments: the type of activations and weight, and that of the result.
fn types(site: &Site<'_>) -> Result<String, Refusal> {
    Ok([site.operand_type(0)?.dtype, site.result_type()?.dtype].map(c_type).join(", "))
}

/// Checks that a weight comes in tiles here.
fn check_tiled(site: &Site<'_>) -> Result<(), Refusal> {
    tensor_cores(site.graph, &site.graph.operands(site.op))?;
    match layout_of(site.graph, site.operand(1)?) {
        Layout::Tiled => Ok(()),
        Layout::RowMajor => Err(Refusal::because("another user of the weight wants it row-major")),
    }
}

impl Shape {
    /// The call of a body, with the argument that stands for a bias.
    fn call(&self, site: &Site<'_>, mut body: Body) -> Result<Call, Refusal> {
        body.absent_inputs = usize::from(!self.has_bias);
        let call = body.scalar("rows", self.rows.clone()).call(site)?;
        Ok(call.int("n", self.n as i64).int("k", self.k as i64))
    }
}

pub(super) fn skinny(site: &Site<'_>, config: Option<SkinnyConfig>) -> Result<Call, Refusal> {
    let shape = shape(site)?;
    check_tiled(site)?;
    let bound = site.program.bound(&shape.rows).unwrap_or(u64::MAX);
    let most = if shape.n >= WIDE { WIDE_ROWS } else { SKINNY_ROWS };
    if bound > most {
        let n = shape.n;
        return Err(Refusal::because(format!("takes {most} rows of {n} outputs, this program has up to {bound}")));
    }
    let rows = bound.next_multiple_of(8);
    let config = config.unwrap_or_else(|| SkinnyConfig::of(shape.n, shape.k, rows));
    let SkinnyConfig { warps, strips, depth } = config;
    let types = types(site)?;
    let instance = format!("LinearSkinny<{types}, {}, {}, {rows}, {warps}, {strips}, {depth}>", shape.n, shape.k);
    let grid = shape.n.div_ceil(16 * strips).into();
    let mut body = Body::new("linear_skinny", "linear/skinny.cuh", instance, warps as u32 * 32, grid);
    body.says_blocks = true;
    // partial sums of each warp, padded so that they lie in different banks
    body.shared_bytes = (warps * rows * (16 * strips + 4) * 4) as u32;
    let call = shape.call(site, body)?.layout(1, Layout::Tiled);
    Ok(call.int("rows", rows as i64).int("warps", warps as i64).int("strips", strips as i64).int("depth", depth as i64))
}

pub(super) fn skinny_candidates(site: &Site<'_>) -> Result<Vec<Call>, Refusal> {
    let shape = shape(site)?;
    let rows = site.program.bound(&shape.rows).unwrap_or(u64::MAX);
    let configs = once(None).chain(SkinnyConfig::others(shape.n, rows).into_iter().map(Some));
    distinct(configs.map(|config| skinny(site, config)))
}

/// How few rows are spread over warps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SkinnyConfig {
    /// Warps of a block, which share the columns of its strips.
    warps: u64,
    /// Strips of 16 outputs of a block.
    strips: u64,
    /// Units of 2 KiB that a warp has under way in each strip.
    depth: u64,
}

impl SkinnyConfig {
    /// What was fastest on an H200 for weights of these sizes and this many rows (`bench/weight-layout.json`). Two strips
    /// share what is read of x; a multiprocessor wants some 100 KB under way, and all blocks should run at once.
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

    /// What came close for some sizes, or won (`bench/weight-layout.json`).
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

pub(super) fn wgmma(site: &Site<'_>, config: Option<WgmmaConfig>) -> Result<Call, Refusal> {
    let shape = shape(site)?;
    check_tiled(site)?;
    if site.graph.inputs().contains(&site.operand(0)?) {
        return Err(Refusal::because("its activations are an input of the program, which has no fixed address"));
    }
    let bound = site.program.bound(&shape.rows).unwrap_or(u64::MAX);
    let WgmmaConfig { rows, cols, stages } = config.unwrap_or_else(|| WgmmaConfig::of(shape.n, bound));
    let types = types(site)?;
    let instance = format!("LinearWgmma<{types}, {}, {}, {rows}, {cols}, {stages}>", shape.n, shape.k);
    let grid = shape.rows.ceil_div(rows) * shape.n.div_ceil(cols).into();
    let threads = 2 * rows as u32 + 32;
    let mut body = Body::new("linear_wgmma", "linear/wgmma.cuh", instance, threads, grid);
    body.says_blocks = true;
    // a ring of tiles of activations and weights, and two barriers for each
    body.shared_bytes = (stages * 128 * (rows + cols) + 16 * stages) as u32;
    let map = |input, rows: u64| TensorMap { input, box_rows: rows as u32, box_cols: 64 };
    body.maps = vec![map(0, rows), map(1, cols)];
    let call = shape.call(site, body)?.layout(1, Layout::Tiled);
    Ok(call.int("rows", rows as i64).int("cols", cols as i64).int("stages", stages as i64))
}

pub(super) fn wgmma_candidates(site: &Site<'_>) -> Result<Vec<Call>, Refusal> {
    let bound = site.program.bound(&shape(site)?.rows).unwrap_or(u64::MAX);
    let configs = once(None).chain(WgmmaConfig::others(bound).into_iter().map(Some));
    distinct(configs.map(|config| wgmma(site, config)))
}

/// The block of outputs of the wgmma kernel, and the depth of its ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WgmmaConfig {
    rows: u64,
    cols: u64,
    stages: u64,
}

impl WgmmaConfig {
    /// What was fastest on an H200 (`bench/weight-layout.json`). Up to 64 rows weights stream, and a deep ring counts.
    /// Beyond, blocks run in waves over the chip: the fewest columns in all waves win, with a price on narrow blocks.
    fn of(n: u64, bound: u64) -> WgmmaConfig {
        if bound <= 64 {
            let (cols, stages) = if n >= WIDE { (128, 8) } else { (64, 12) };
            return WgmmaConfig { rows: 64, cols, stages };
        }
        let rows = 128;
        let waves = |cols: u64| (bound.div_ceil(rows) * n.div_ceil(cols)).div_ceil(MULTIPROCESSORS);
        // columns of a block, what a column costs in percent, stages
        let blocks = [(256, 100, 4), (192, 102, 4), (128, 106, 5), (64, 135, 8), (32, 300, 8)];
        let best = blocks.into_iter().min_by_key(|(cols, price, _)| waves(*cols) * cols * price);
        let (cols, _, stages) = best.unwrap_or(blocks[0]);
        WgmmaConfig { rows, cols, stages }
    }

    /// Each width that registers hold, in a ring as deep as shared memory has room for, and a shallower one.
    fn others(bound: u64) -> Vec<WgmmaConfig> {
        let all: &[(u64, u64, u64)] = match bound {
            0..=64 => &[(64, 32, 16), (64, 64, 8), (64, 64, 12), (64, 128, 6), (64, 128, 8)],
            _ => &[(128, 256, 4), (128, 192, 4), (128, 192, 5), (128, 128, 5), (128, 128, 6), (128, 64, 8)],
        };
        all.iter().map(|&(rows, cols, stages)| WgmmaConfig { rows, cols, stages }).collect()
    }
}

pub(super) fn plain_few(site: &Site<'_>) -> Result<Call, Refusal> {
    let shape = shape(site)?;
    let bound = site.program.bound(&shape.rows).unwrap_or(u64::MAX);
    if bound > PLAIN_FEW_ROWS {
        return Err(Refusal::because(format!("takes {PLAIN_FEW_ROWS} rows, this program has up to {bound}")));
    }
    let instance = plain_instance(site, "LinearPlainFew", &shape)?;
    let grid = shape.n.div_ceil(8).into();
    shape.call(site, Body::new("linear_plain_few", "linear/plain.cuh", instance, 256, grid))
}

pub(super) fn plain(site: &Site<'_>) -> Result<Call, Refusal> {
    let shape = shape(site)?;
    let instance = plain_instance(site, "LinearPlain", &shape)?;
    let grid = shape.rows.ceil_div(PLAIN_TILE) * shape.n.div_ceil(PLAIN_TILE).into();
    shape.call(site, Body::new("linear_plain", "linear/plain.cuh", instance, 256, grid))
}

fn plain_instance(site: &Site<'_>, ty: &str, shape: &Shape) -> Result<String, Refusal> {
    let (x, weight, y) = (site.operand_type(0)?, site.operand_type(1)?, site.result_type()?);
    let bias = if shape.has_bias { site.operand_type(2)?.dtype } else { weight.dtype };
    let types = [x.dtype, weight.dtype, bias, y.dtype].map(c_type).join(", ");
    Ok(format!("{ty}<{types}, {}, {}, {}>", shape.n, shape.k, shape.has_bias))
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
        let wgmma = |bound| shapes.map(|(n, _)| WgmmaConfig::of(n, bound)).map(|c| (c.rows, c.cols, c.stages));
        assert_eq!(wgmma(512), [(128, 192, 4), (128, 128, 5), (128, 128, 5), (128, 128, 5), (128, 256, 4)]);
        assert_eq!(wgmma(32)[2], (64, 128, 8));
    }
}
