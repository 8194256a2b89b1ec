//! `kernels/linear`: streaming for few rows, wgmma for many, plain loops for everything else.

mod codes;
mod plain;
mod skinny;

use ir::ops::{Epilogue, LinearParts};
use ir::{Graph, Value};
use plan::{DType, Dim, Formula, Layout, TensorMap};

use super::body::{Body, c_type};
use super::map::functor;
use super::{dim, is_16_bit};
use crate::kernels::distinct;
use crate::{Call, Refusal, Site};

pub(super) use plain::{plain, plain_few};
pub(super) use skinny::{skinny, skinny_candidates};

/// A weight with as many outputs keeps the chip busy in wide blocks, too.
const WIDE: u64 = 16384;
/// Multiprocessors that a product should keep busy: those of an H100 or H200.
const MULTIPROCESSORS: u64 = 132;

/// A linear, `[rows, k]` by `[n, k]`, and what stands before and behind it.
struct Shape {
    parts: LinearParts,
    rows: Dim,
    n: u64,
    k: u64,
}

fn shape(site: &Site<'_>) -> Result<Shape, Refusal> {
    let parts = LinearParts::of(site.graph, site.op).ok_or(Refusal::OtherOp)?;
    let [n, k] = sizes(site.graph, parts.weight).ok_or_else(|| Refusal::because("the weight has a symbolic size"))?;
    Ok(Shape { rows: dim(site, 0, 0)?, n, k, parts })
}

fn sizes(graph: &Graph, weight: Value) -> Option<[u64; 2]> {
    graph.tensor(weight)?.const_shape()?.try_into().ok()
}

/// The order in which kernels of `linear` want a weight, whatever the program: tiles where each of its users can read
/// them, so that one copy serves few rows and many; with the rows of the two halves in turn where a gate is applied to
/// the product.
pub(super) fn layout_of(graph: &Graph, weight: Value) -> Layout {
    let users = graph.uses(weight).into_iter().filter_map(|user| LinearParts::of(graph, user.op));
    let users: Vec<LinearParts> = users.filter(|parts| parts.weight == weight).collect();
    if users.is_empty() || !users.iter().all(|parts| tensor_cores(graph, parts).is_ok()) {
        return Layout::RowMajor;
    }
    let gated = users.iter().filter(|parts| parts.epilogues().contains(&Epilogue::Swiglu)).count();
    match gated {
        0 => Layout::Tiled,
        _ if gated == users.len() => Layout::TiledHalves,
        _ => Layout::RowMajor,
    }
}

/// Whether tensor cores can take a linear, or why not.
fn tensor_cores(graph: &Graph, parts: &LinearParts) -> Result<(), Refusal> {
    let [n, k] = sizes(graph, parts.weight).ok_or_else(|| Refusal::because("the weight has a symbolic size"))?;
    if parts.scales.iter().next().is_some() {
        codes::tensor_cores(graph, parts)?;
    } else {
        let dtypes = [Some(parts.weight), parts.operand(Epilogue::Bias)].into_iter().flatten();
        let mut dtypes = dtypes.filter_map(|value| graph.tensor(value)).map(|ty| ty.dtype);
        let first = parts.product_dtype(graph).filter(|dtype| is_16_bit(*dtype));
        if first.is_none_or(|first| dtypes.any(|dtype| dtype != first)) {
            return Err(Refusal::because("takes activations, weight and bias of one 16-bit type"));
        }
        if k % 8 != 0 {
            return Err(Refusal::because(format!("rows of {k} elements are no whole 16-byte chunks")));
        }
    }
    if !graph.is_constant(parts.weight) {
        return Err(Refusal::because("the weight is no constant that could be packed"));
    }
    match parts.epilogues().as_slice() {
        [Epilogue::Swiglu] | [Epilogue::Bias, Epilogue::Swiglu] if n % 16 == 0 => Ok(()),
        [Epilogue::Swiglu] | [Epilogue::Bias, Epilogue::Swiglu] => {
            Err(Refusal::because(format!("halves of {n} outputs are no whole strips of 8")))
        }
        _ if parts.in_order().is_some() => Ok(()),
        _ => Err(Refusal::because("does a bias, and then either a gate, or functions of elements and a residual")),
    }
}

/// Checks that a weight comes in tiles here, and says in which.
fn check_tiled(site: &Site<'_>, shape: &Shape) -> Result<Layout, Refusal> {
    tensor_cores(site.graph, &shape.parts)?;
    match layout_of(site.graph, shape.parts.weight) {
        Layout::RowMajor => Err(Refusal::because("another user of the weight wants it in another order")),
        tiled => Ok(tiled),
    }
}

impl Shape {
    /// The 16-bit type in which tensor cores multiply: that of the activations, and where those are codes, one in which
    /// all codes are exact.
    fn product_type(&self, site: &Site<'_>) -> &'static str {
        let product = self.parts.product_dtype(site.graph).unwrap_or(self.parts.result);
        c_type(if product.is_code() { DType::F16 } else { product })
    }

    /// The types of products and of the result.
    fn types(&self, site: &Site<'_>) -> String {
        [self.product_type(site), c_type(self.parts.result)].join(", ")
    }

    /// The scales of the activations and of the weight, and the latter's zeros.
    fn scales(&self) -> [Option<Value>; 3] {
        [self.parts.scales.x, self.parts.scales.weight, self.parts.scales.zero]
    }

    fn gated(&self) -> bool {
        self.parts.epilogues().contains(&Epilogue::Swiglu)
    }

    /// The call of a body that takes x, the weight, and then what `more` lists, of which some may be absent.
    fn call(&self, site: &Site<'_>, mut body: Body, more: &[Option<Value>]) -> Result<Call, Refusal> {
        let absent = more.iter().enumerate().filter(|(_, operand)| operand.is_none());
        body.absent = absent.map(|(place, _)| 2 + place).collect();
        body.preamble = self.formula().map_or_else(String::new, |formula| functor(&formula));
        let mut call = body.scalar("rows", self.rows.clone()).call(site)?;
        call = call.int("n", self.n as i64).int("k", self.k as i64);
        if let Some((prologue, _)) = &self.parts.before {
            call = call.text("before", prologue.norm.name());
        }
        let behind: Vec<String> = self.parts.epilogues().iter().map(Epilogue::to_string).collect();
        Ok(if behind.is_empty() { call } else { call.text("behind", behind.join(", ")) })
    }

    fn bias(&self) -> Option<Value> {
        self.parts.operand(Epilogue::Bias)
    }

    /// The functions behind the product.
    fn formula(&self) -> Option<Formula> {
        self.parts.in_order()?.formula
    }

    fn residual(&self) -> Option<Value> {
        self.parts.operand(Epilogue::Add)
    }
}

pub(super) fn wgmma(site: &Site<'_>, config: Option<WgmmaConfig>) -> Result<Call, Refusal> {
    let shape = shape(site)?;
    let layout = check_tiled(site, &shape)?;
    if shape.parts.scales.iter().next().is_some() {
        return Err(Refusal::because("takes no codes"));
    }
    if shape.parts.before.is_some() {
        return Err(Refusal::because("the copy engine brings its activations, and norms nothing"));
    }
    if site.graph.inputs().contains(&shape.parts.x) {
        return Err(Refusal::because("its activations are an input of the program, which has no fixed address"));
    }
    let bound = site.program.bound(&shape.rows).unwrap_or(u64::MAX);
    let WgmmaConfig { rows, cols, stages } = config.unwrap_or_else(|| WgmmaConfig::of(shape.n, bound));
    let Shape { n, k, .. } = shape;
    let more = match (shape.gated(), shape.formula()) {
        (true, _) => ", true",
        (false, Some(_)) => ", false, Formula",
        (false, None) => "",
    };
    let instance = format!("LinearWgmma<{}, {n}, {k}, {rows}, {cols}, {stages}{more}>", shape.types(site));
    let grid = shape.rows.ceil_div(rows) * n.div_ceil(cols).into();
    let threads = 2 * rows as u32 + 32;
    let mut body = Body::new("linear_wgmma", "linear/wgmma.cuh", instance, threads, grid);
    body.says_blocks = true;
    // a ring of tiles of activations and weights, and two barriers for each
    body.shared_bytes = (stages * 128 * (rows + cols) + 16 * stages) as u32;
    let map = |input, rows: u64| TensorMap { input, box_rows: rows as u32, box_cols: 64 };
    body.maps = vec![map(0, rows), map(1, cols)];
    let call = shape.call(site, body, &[shape.bias(), shape.residual()])?.layout(1, layout);
    Ok(call.int("rows", rows as i64).int("cols", cols as i64).int("stages", stages as i64))
}

pub(super) fn wgmma_candidates(site: &Site<'_>) -> Result<Vec<Call>, Refusal> {
    let bound = site.program.bound(&shape(site)?.rows).unwrap_or(u64::MAX);
    let others = WgmmaConfig::others(bound).into_iter();
    distinct(wgmma(site, None), others.map(|config| wgmma(site, Some(config))))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configurations_are_those_that_were_fastest() {
        // the linears of Llama-3.1-8B
        let shapes = [(6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336), (128256, 4096)];
        let wgmma = |bound| shapes.map(|(n, _)| WgmmaConfig::of(n, bound)).map(|c| (c.rows, c.cols, c.stages));
        assert_eq!(wgmma(512), [(128, 192, 4), (128, 128, 5), (128, 128, 5), (128, 128, 5), (128, 256, 4)]);
        assert_eq!(wgmma(32)[2], (64, 128, 8));
    }
}
