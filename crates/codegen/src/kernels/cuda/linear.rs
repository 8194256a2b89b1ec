//! `kernels/linear`: rings for up to eight rows, streaming for few rows, wgmma for many, and reference loops for everything
//! else.

mod arguments;
mod few;
mod quantized;
mod reference;
mod skinny;
mod wgmma;

use ir::ops::{Epilogue, LinearParts};
use ir::{Graph, Value};
use plan::{DType, Dim, Formula, Layout};

use super::body::{Body, c_type};
use super::map::functor;
use super::quantize::check_quantized;
use super::{dim, is_16_bit};
use crate::{Call, Refusal, Site};

pub(super) use few::{few, few_candidates, takes as few_takes};
pub(super) use reference::{reference, reference_few};
pub(super) use skinny::{skinny, skinny_candidates};
pub(super) use wgmma::{
    both_quantized as wgmma_quantized, both_quantized_candidates as wgmma_quantized_candidates, unquantized as wgmma,
    unquantized_candidates as wgmma_candidates, weight_quantized as wgmma_weights,
    weight_quantized_candidates as wgmma_weights_candidates,
};

/// A weight with this many outputs occupies the GPU in wide blocks, too.
const WIDE: u64 = 16384;
/// Multiprocessors to occupy: those of an H100 or H200.
pub(super) const MULTIPROCESSORS: u64 = 132;

/// A linear layer, `[rows, k]` by `[n, k]`, with prologue and epilogue.
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

/// The layout of a weight for `linear` kernels, whatever the program: tiled if all its users can read tiles, so that
/// one copy serves few rows and many; with the rows of the two halves interleaved if a gate is applied to the product.
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

/// Whether tensor cores support a linear layer, or why not.
fn tensor_cores(graph: &Graph, parts: &LinearParts) -> Result<(), Refusal> {
    let [n, k] = sizes(graph, parts.weight).ok_or_else(|| Refusal::because("the weight has a symbolic size"))?;
    if let Some((dtype, scale)) = parts.quantize_to {
        check_quantized(dtype)?;
        if graph.tensor(scale).is_none_or(|scale| scale.dtype != DType::F32) || parts.operand(Epilogue::Add).is_some() {
            return Err(Refusal::because("can quantize its output only with an f32 scale and without a residual"));
        }
    }
    if parts.scales.iter().next().is_some() {
        quantized::tensor_cores(graph, parts)?;
    } else {
        let dtypes = [Some(parts.weight), parts.operand(Epilogue::Bias)].into_iter().flatten();
        let mut dtypes = dtypes.filter_map(|value| graph.tensor(value)).map(|ty| ty.dtype);
        let first = parts.product_dtype(graph).filter(|dtype| is_16_bit(*dtype));
        if first.is_none_or(|first| dtypes.any(|dtype| dtype != first)) {
            return Err(Refusal::because("requires activations, weight and bias of one 16-bit type"));
        }
        if k % 8 != 0 {
            return Err(Refusal::because(format!("requires rows that are a multiple of 16 bytes, found {k} elements")));
        }
    }
    if !graph.is_constant(parts.weight) {
        return Err(Refusal::because("requires a constant weight, which can be packed"));
    }
    match parts.epilogues().as_slice() {
        [Epilogue::Swiglu] | [Epilogue::Bias, Epilogue::Swiglu] if n % 16 == 0 => Ok(()),
        [Epilogue::Swiglu] | [Epilogue::Bias, Epilogue::Swiglu] => {
            Err(Refusal::because(format!("requires halves of a multiple of 8 outputs, found {n} outputs in all")))
        }
        _ if parts.in_order().is_some() => Ok(()),
        _ => Err(Refusal::because(
            "requires an epilogue of a bias, then either a gate, or elementwise functions and a residual",
        )),
    }
}

/// Checks that a weight is tiled, and returns the tiled layout.
fn check_tiled(site: &Site<'_>, shape: &Shape) -> Result<Layout, Refusal> {
    tensor_cores(site.graph, &shape.parts)?;
    match layout_of(site.graph, shape.parts.weight) {
        Layout::RowMajor => Err(Refusal::because("another user of the weight requires another layout")),
        tiled => Ok(tiled),
    }
}

impl Shape {
    /// The 16-bit type in which tensor cores multiply: that of the activations, or if those are quantized, one that
    /// represents all quantized values exactly.
    fn product_type(&self, site: &Site<'_>) -> &'static str {
        let product = self.parts.product_dtype(site.graph).unwrap_or(self.parts.result);
        c_type(if product.is_code() { DType::F16 } else { product })
    }

    /// The types of products and of the result.
    fn types(&self, site: &Site<'_>) -> String {
        [self.product_type(site), self.result_type()].join(", ")
    }

    /// The type of the result, after quantization if it is quantized.
    fn result_type(&self) -> &'static str {
        c_type(self.parts.quantize_to.map_or(self.parts.result, |(dtype, _)| dtype))
    }

    /// The scale of a quantized result.
    fn output_scale(&self) -> Option<Value> {
        self.parts.quantize_to.map(|(_, scale)| scale)
    }

    /// Refuses a quantized result.
    fn unquantized_output(self) -> Result<Shape, Refusal> {
        match self.parts.quantize_to {
            Some((dtype, _)) => Err(Refusal::because(format!("cannot quantize its output to {dtype}"))),
            None => Ok(self),
        }
    }

    /// The scales of the activations and of the weight, and the weight's zero points.
    fn scales(&self) -> [Option<Value>; 3] {
        [self.parts.scales.x, self.parts.scales.weight, self.parts.scales.zero_point]
    }

    fn gated(&self) -> bool {
        self.parts.epilogues().contains(&Epilogue::Swiglu)
    }

    /// The call of a body with inputs x, the weight, and those of `more`, some of which may be absent.
    fn call(&self, site: &Site<'_>, mut body: Body, more: &[Option<Value>]) -> Result<Call, Refusal> {
        let absent = more.iter().enumerate().filter(|(_, operand)| operand.is_none());
        body.absent = absent.map(|(place, _)| 2 + place).collect();
        body.preamble = self.formula().map_or_else(String::new, |formula| functor(&formula));
        let mut call = body.scalar("rows", self.rows.clone()).call(site)?;
        call = call.int("n", self.n as i64).int("k", self.k as i64);
        if let Some((prologue, _)) = &self.parts.prologue {
            call = call.text("prologue", prologue.norm.name());
        }
        let epilogue: Vec<String> = self.parts.epilogues().iter().map(Epilogue::to_string).collect();
        let call = if epilogue.is_empty() { call } else { call.text("epilogue", epilogue.join(", ")) };
        Ok(match self.parts.quantize_to {
            Some((dtype, _)) => call.text("quantize_to", dtype.to_string()),
            None => call,
        })
    }

    fn bias(&self) -> Option<Value> {
        self.parts.operand(Epilogue::Bias)
    }

    /// The elementwise functions of the epilogue.
    fn formula(&self) -> Option<Formula> {
        self.parts.in_order()?.formula
    }

    fn residual(&self) -> Option<Value> {
        self.parts.operand(Epilogue::Add)
    }
}
