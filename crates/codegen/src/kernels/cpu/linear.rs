//! `runtime/src/cpu/linear.rs`: a product with a bias, elementwise functions and a residual. Other prologues and
//! epilogues are separate ops here.

use ir::DeclaredOp;
use ir::ops::{FusedLinear, Linear, LinearParts, Quantized};
use plan::{DType, Dim, Layout};

use crate::kernels::{Row, distinct};
use crate::{Call, Refusal, Site};

pub(super) const LINEAR: Row =
    Row::new("linear", &[Linear::MNEMONIC, FusedLinear::MNEMONIC], "crates/runtime/src/cpu/linear.rs", |site| {
        in_tasks(site, TASK_BYTES)
    })
    .tuned(candidates);

/// Bytes of weights per task, if there are enough columns.
const TASK_BYTES: u64 = 64 << 10;
/// Minimum number of columns per task, since each task dequantizes its rows of x.
const TASK_COLUMNS: u64 = 24;

/// Larger tasks read longer runs of memory, smaller ones balance the load between threads.
fn candidates(site: &Site<'_>) -> Result<Vec<Call>, Refusal> {
    let sizes = [TASK_BYTES / 4, TASK_BYTES * 4, TASK_BYTES * 16];
    distinct(in_tasks(site, TASK_BYTES), sizes.into_iter().map(|bytes| in_tasks(site, bytes)))
}

fn in_tasks(site: &Site<'_>, task_bytes: u64) -> Result<Call, Refusal> {
    let parts = LinearParts::of(site.graph, site.op).ok_or(Refusal::OtherOp)?;
    let Some(epilogue) = parts.in_order().filter(|_| parts.prologue.is_none() && parts.quantize_to.is_none()) else {
        return Err(Refusal::because(
            "requires an epilogue of bias, elementwise functions and a residual, in this order",
        ));
    };
    let weight = site.tensor(parts.weight)?;
    let Some([columns, width]) = weight.const_shape().and_then(|shape| <[u64; 2]>::try_from(shape).ok()) else {
        return Err(Refusal::because("the weight has a symbolic size"));
    };
    let packed = weight.dtype == DType::I4;
    if packed && width % 2 != 0 {
        return Err(Refusal::because("4-bit values are packed in pairs, but its rows have an odd width"));
    }
    // widening a quantized value takes as long as reading two bytes: a task has as many as of bf16
    let line = width * weight.dtype.bytes().max(2);
    let least = (task_bytes / line.max(1)).max(TASK_COLUMNS);
    // a power of two, since threads halve the tasks between them; multiples of 8 columns, a tile of one row
    let tasks = 1 << (columns / least).max(1).ilog2();
    let per_task = columns.div_ceil(tasks).next_multiple_of(8).max(8);
    let call = Call::grid(Dim::from(columns.div_ceil(per_task))).int("columns_per_task", per_task as i64);
    let call = if packed { call.layout(1, Layout::Packed) } else { call };
    let quantized = parts.scales.quantized();
    let call = if quantized == Quantized::default() { call } else { call.text("quantized", words(quantized)) };
    let call = if epilogue.residual.is_some() { call.text("epilogue", "add") } else { call };
    Ok(match epilogue.formula {
        Some(formula) => call.text("f", formula.to_string()),
        None => call,
    })
}

/// The quantized operands, as a parameter of the kernel.
fn words(quantized: Quantized) -> String {
    let words = [("x", quantized.x), ("weight", quantized.weight), ("zero_point", quantized.zero_point)];
    words.iter().filter(|word| word.1).map(|word| word.0).collect::<Vec<_>>().join(", ")
}
