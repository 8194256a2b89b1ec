//! `kernels/linear`: streaming for few rows, wgmma for many, plain loops for everything else.

use ir::ops::Linear;
use ir::{Graph, Value};
use plan::{Dim, Layout, TensorMap};

use super::body::{Body, c_type};
use super::{dim, is, is_16_bit};
use crate::{Call, Refusal, Site};

/// Rows up to which a linear is a stream of weights.
const SKINNY_ROWS: u64 = 16;
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

pub(super) fn skinny(site: &Site<'_>) -> Result<Call, Refusal> {
    let shape = shape(site)?;
    check_tiled(site)?;
    let bound = site.program.bound(&shape.rows).unwrap_or(u64::MAX);
    if bound > SKINNY_ROWS {
        return Err(Refusal::because(format!("takes {SKINNY_ROWS} rows, this program has up to {bound}")));
    }
    let rows = bound.next_multiple_of(8);
    let config = SkinnyConfig::of(shape.n, rows);
    let SkinnyConfig { warps, strips, unroll } = config;
    let dtype = c_type(site.result_type()?.dtype);
    let instance = format!("LinearSkinny<{dtype}, {}, {}, {rows}, {warps}, {strips}, {unroll}>", shape.n, shape.k);
    let grid = shape.n.div_ceil(16 * strips).into();
    let mut body = Body::new("linear_skinny", "linear/skinny.cuh", instance, warps as u32 * 32, grid);
    body.says_blocks = true;
    // partial sums of each warp, padded so that they lie in different banks
    body.shared_bytes = (warps * rows * (16 * strips + 4) * 4) as u32;
    let call = shape.call(site, body)?.layout(1, Layout::Tiled);
    Ok(call
        .int("rows", rows as i64)
        .int("warps", warps as i64)
        .int("strips", strips as i64)
        .int("unroll", unroll as i64))
}

/// How few rows are spread over warps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct SkinnyConfig {
    /// Warps of a block, which share the columns of its strips.
    warps: u64,
    /// Strips of 16 outputs of a block.
    strips: u64,
    /// Units of 2 KiB that a warp has under way.
    unroll: u64,
}

impl SkinnyConfig {
    fn of(n: u64, rows: u64) -> SkinnyConfig {
        let (warps, strips, unroll) = match rows {
            // enough strips to fill the chip: two of them share what is read of x
            0..=8 if n >= 16384 => (8, 2, 2),
            0..=8 => (8, 1, 4),
            _ => (4, 2, 2),
        };
        SkinnyConfig { warps, strips, unroll }
    }
}

pub(super) fn wgmma(site: &Site<'_>) -> Result<Call, Refusal> {
    let shape = shape(site)?;
    check_tiled(site)?;
    if site.graph.inputs().contains(&site.operand(0)?) {
        return Err(Refusal::because("its activations are an input of the program, which has no fixed address"));
    }
    let bound = site.program.bound(&shape.rows).unwrap_or(u64::MAX);
    let WgmmaConfig { rows, cols, stages } = WgmmaConfig::of(shape.n, bound);
    let dtype = c_type(site.result_type()?.dtype);
    let instance = format!("LinearWgmma<{dtype}, {}, {}, {rows}, {cols}, {stages}>", shape.n, shape.k);
    let grid = shape.rows.ceil_div(rows) * shape.n.div_ceil(cols).into();
    let threads = 2 * rows as u32 + 32;
    let mut body = Body::new("linear_wgmma", "linear/wgmma.cuh", instance, threads, grid);
    body.says_blocks = true;
    // a ring of tiles of activations and weights, and two barriers for each
    body.shared_bytes = (stages * 128 * (rows + cols) + 16 * stages) as u32;
    body.maps = vec![TensorMap { input: 0, box_rows: rows as u32, box_cols: 64 }];
    let call = shape.call(site, body)?.layout(1, Layout::Tiled);
    Ok(call.int("rows", rows as i64).int("cols", cols as i64).int("stages", stages as i64))
}

/// The block of outputs of the wgmma kernel, and the depth of its ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct WgmmaConfig {
    rows: u64,
    cols: u64,
    stages: u64,
}

/// Multiprocessors that a product should keep busy: those of an H100 or H200.
const MULTIPROCESSORS: u64 = 132;

impl WgmmaConfig {
    /// The widest block that fills the chip, for `bound` rows at most: wide blocks read activations less often.
    fn of(n: u64, bound: u64) -> WgmmaConfig {
        let rows = if bound <= 64 { 64 } else { 128 };
        let blocks = |cols: u64| bound.div_ceil(rows) * n.div_ceil(cols);
        let fills = |cols: &u64| blocks(*cols) * 10 >= MULTIPROCESSORS * 9;
        let cols = [256, 128, 64, 32].into_iter().find(fills).unwrap_or(32);
        let stages = match cols {
            256 => 4,
            // two blocks on a multiprocessor
            _ => (98304 / (128 * (rows + cols))).clamp(3, 8),
        };
        WgmmaConfig { rows, cols, stages }
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
