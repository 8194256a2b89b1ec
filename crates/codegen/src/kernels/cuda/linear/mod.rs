//! `kernels/linear`: rings for up to eight rows, streams of weights for up to 128, wgmma for many, and reference loops
//! for everything else.

mod arguments;
pub(super) mod few;
pub(super) mod reference;
pub(super) mod skinny;
pub(super) mod stream;
pub(super) mod wgmma;

use ir::ops::{Epilogue, FusedLinear, Linear, LinearParts};
use ir::{DeclaredOp, Value};
use plan::{DType, Dim, Formula, Layout};

use super::body::{Body, c_type};
use super::functor::functor;
use super::layout::{layout_of, sizes, tensor_cores};
use crate::{Call, Refusal, Site};

/// The ops of kernels with a weight of any kind, and of those that require a quantized one.
const LINEARS: &[&str] = &[Linear::MNEMONIC, FusedLinear::MNEMONIC];
const QUANTIZED_LINEARS: &[&str] = &[FusedLinear::MNEMONIC];

/// A weight with this many outputs occupies the GPU in wide blocks, too.
const WIDE: u64 = 16384;

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
    Ok(Shape { rows: site.dim(0, 0)?, n, k, parts })
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
