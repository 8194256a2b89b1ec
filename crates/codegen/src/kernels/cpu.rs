//! The CPU kernels: supported ops and numbers of tasks. Their code is in `runtime/src/cpu`.
//!
//! Values are f32; weights and the KV cache may be narrower. A task should take some microseconds, since handing one to
//! another thread takes one: so tasks have several rows, and those of linear layers some 64 KiB of weights.

use ir::ops::{
    AddLayerNorm, AddRmsNorm, AppendKv, Argmax, Embedding, GatherRows, LayerNorm, LinearParts, PagedAttention,
    Quantize, QuantizeBlocks, Quantized, RmsNorm, Rope, RopeAppendKv, Split, Swiglu,
};
use ir::{Graph, OpDef, OpId, TensorType, Value};
use plan::{DType, Dim, Layout};

use super::distinct;
use crate::kernels::about::about;
use crate::{About, Call, Catalog, Kernel, Refusal, Site, Target};

/// Bytes of weights per task of a linear layer, if there are enough columns.
const LINEAR_TASK_BYTES: u64 = 64 << 10;
/// Minimum number of columns per task, since each task dequantizes its rows of x.
const LINEAR_TASK_COLUMNS: u64 = 24;
/// Rows per task of a row-wise kernel.
pub(crate) const ROWS: u64 = 8;

type Candidates = fn(&Graph, OpId) -> Result<Vec<Call>, Refusal>;

/// A row of the catalog.
#[derive(Debug)]
struct CpuKernel {
    name: &'static str,
    call: fn(&Graph, OpId) -> Result<Call, Refusal>,
    /// Its configurations, if it has several.
    candidates: Option<Candidates>,
}

impl Kernel for CpuKernel {
    fn name(&self) -> &'static str {
        self.name
    }

    fn call(&self, site: &Site<'_>) -> Result<Call, Refusal> {
        let (graph, op) = (site.graph, site.op);
        let call = (self.call)(graph, op)?;
        values_are_f32(graph, op)?;
        Ok(call)
    }

    fn candidates(&self, site: &Site<'_>) -> Result<Vec<Call>, Refusal> {
        let call = self.call(site)?;
        self.candidates.map_or_else(|| Ok(vec![call]), |candidates| candidates(site.graph, site.op))
    }

    fn about(&self) -> About {
        about(Target::Cpu, self.name)
    }
}

/// The kernels of the `cpu` target.
pub(crate) fn catalog() -> Catalog {
    let kernel = |name, call| -> Box<dyn Kernel> { Box::new(CpuKernel { name, call, candidates: None }) };
    Catalog::new(vec![
        Box::new(CpuKernel { name: "linear", call: linear, candidates: Some(linear_candidates) }),
        kernel("quantize", quantize),
        kernel("quantize_blocks", quantize_blocks),
        kernel("paged_attention", paged_attention),
        kernel("rope_append_kv", rope_append_kv),
        kernel("add_rms_norm", |graph, op| Ok(rows(graph, op)?.float("eps", attr::<AddRmsNorm>(graph, op)?.eps))),
        kernel("rms_norm", |graph, op| Ok(rows(graph, op)?.float("eps", attr::<RmsNorm>(graph, op)?.eps))),
        kernel("add_layer_norm", |graph, op| Ok(rows(graph, op)?.float("eps", attr::<AddLayerNorm>(graph, op)?.eps))),
        kernel("layer_norm", |graph, op| Ok(rows(graph, op)?.float("eps", attr::<LayerNorm>(graph, op)?.eps))),
        kernel("swiglu", rows_of::<Swiglu>),
        kernel("embedding", rows_of::<Embedding>),
        kernel("gather_rows", rows_of::<GatherRows>),
        kernel("argmax", argmax),
        kernel("split", rows_of::<Split>),
        kernel("map", map),
        kernel("rope", |graph, op| Ok(rows(graph, op)?.int("head_dim", attr::<Rope>(graph, op)?.head_dim))),
        kernel("append_kv", |graph, op| {
            let append = attr::<AppendKv>(graph, op)?;
            Ok(Call::grid(tokens(graph, op)?.ceil_div(ROWS)).kv(append.group, append.layer, true))
        }),
    ])
}

/// Results, and operands that are not constant, are f32 or quantized to one byte; ids and positions are i32. Rows of a
/// table come in its dtype, also after a gather, and the next region widens them.
fn values_are_f32(graph: &Graph, op: OpId) -> Result<(), Refusal> {
    let gathers = graph.cast::<GatherRows>(op).is_some();
    let widens = gathers || graph.formula(op).is_some();
    let operands = graph.operands(op).into_iter().filter(|operand| !widens && !graph.is_constant(*operand));
    let looks_up = gathers || graph.cast::<Embedding>(op).is_some();
    for value in operands.chain(graph.results(op).filter(|_| !looks_up)) {
        let dtype = graph.tensor(value).map_or(DType::F32, |ty| ty.dtype);
        if !matches!(dtype, DType::F32 | DType::I32 | DType::I8 | DType::F8E4M3) {
            let name = graph.value_name(value);
            return Err(Refusal::Because(format!("`%{name}` is {dtype}, CPU kernels require f32 values")));
        }
    }
    Ok(())
}

fn attr<T: OpDef>(graph: &Graph, op: OpId) -> Result<&T, Refusal> {
    graph.cast::<T>(op).ok_or(Refusal::OtherOp)
}

fn tensor(graph: &Graph, value: Value) -> Result<&TensorType, Refusal> {
    graph.tensor(value).ok_or_else(|| Refusal::Because("an operand is an effect".to_owned()))
}

/// The first dimension of the first operand.
fn tokens(graph: &Graph, op: OpId) -> Result<Dim, Refusal> {
    let first = graph.operands(op).first().copied().ok_or(Refusal::OtherOp)?;
    let ty = tensor(graph, first)?;
    ty.shape.first().cloned().ok_or_else(|| Refusal::Because("an operand is a scalar".to_owned()))
}

/// A task per group of rows of the result.
fn rows(graph: &Graph, op: OpId) -> Result<Call, Refusal> {
    let ty = graph.tensor(graph.result(op)).ok_or(Refusal::OtherOp)?;
    let outer = ty.shape.split_last().map_or(&[][..], |(_, outer)| outer);
    let rows = outer.iter().cloned().fold(Dim::from(1), |product, dim| product * dim);
    Ok(Call::grid(rows.ceil_div(ROWS)))
}

fn rows_of<T: OpDef>(graph: &Graph, op: OpId) -> Result<Call, Refusal> {
    attr::<T>(graph, op)?;
    rows(graph, op)
}

fn map(graph: &Graph, op: OpId) -> Result<Call, Refusal> {
    let formula = graph.formula(op).ok_or(Refusal::OtherOp)?;
    Ok(rows(graph, op)?.text("f", formula.to_string()))
}

fn argmax(graph: &Graph, op: OpId) -> Result<Call, Refusal> {
    let argmax = attr::<Argmax>(graph, op)?;
    Ok(Call::grid(tokens(graph, op)?).int("classes", argmax.classes))
}

/// A product with a bias, elementwise functions and a residual; other neighbours are separate ops here.
fn linear(graph: &Graph, op: OpId) -> Result<Call, Refusal> {
    linear_in_tasks(graph, op, LINEAR_TASK_BYTES)
}

/// Larger tasks read longer runs of memory, smaller ones balance the load between threads.
fn linear_candidates(graph: &Graph, op: OpId) -> Result<Vec<Call>, Refusal> {
    let sizes = [LINEAR_TASK_BYTES / 4, LINEAR_TASK_BYTES * 4, LINEAR_TASK_BYTES * 16];
    distinct(linear(graph, op), sizes.into_iter().map(|bytes| linear_in_tasks(graph, op, bytes)))
}

fn linear_in_tasks(graph: &Graph, op: OpId, task_bytes: u64) -> Result<Call, Refusal> {
    let parts = LinearParts::of(graph, op).ok_or(Refusal::OtherOp)?;
    let Some(epilogue) = parts.in_order().filter(|_| parts.prologue.is_none() && parts.quantize_to.is_none()) else {
        return Err(Refusal::because(
            "requires an epilogue of bias, elementwise functions and a residual, in this order",
        ));
    };
    let weight = tensor(graph, parts.weight)?;
    let Some([columns, width]) = weight.const_shape().and_then(|shape| <[u64; 2]>::try_from(shape).ok()) else {
        return Err(Refusal::Because("the weight has a symbolic size".to_owned()));
    };
    let packed = weight.dtype == DType::I4;
    if packed && width % 2 != 0 {
        return Err(Refusal::because("4-bit values are packed in pairs, but its rows have an odd width"));
    }
    // widening a quantized value takes as long as reading two bytes: a task has as many as of bf16
    let line = width * weight.dtype.bytes().max(2);
    let least = (task_bytes / line.max(1)).max(LINEAR_TASK_COLUMNS);
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

/// The quantized operands, as a parameter of a kernel.
fn words(quantized: Quantized) -> String {
    let words = [("x", quantized.x), ("weight", quantized.weight), ("zero_point", quantized.zero_point)];
    words.iter().filter(|word| word.1).map(|word| word.0).collect::<Vec<_>>().join(", ")
}

fn quantize(graph: &Graph, op: OpId) -> Result<Call, Refusal> {
    match graph.operands(op).len() {
        2 => rows_of::<Quantize>(graph, op),
        _ => Err(attr::<Quantize>(graph, op)
            .map_or_else(|other| other, |_| Refusal::because("does not support zero points"))),
    }
}

fn quantize_blocks(graph: &Graph, op: OpId) -> Result<Call, Refusal> {
    let quantize = attr::<QuantizeBlocks>(graph, op)?;
    if quantize.block().0 != 1 {
        return Err(Refusal::because("supports only scales per row"));
    }
    let call = rows(graph, op)?;
    Ok(quantize.cols.map_or(call.clone(), |cols| call.int("cols", cols)))
}

fn paged_attention(graph: &Graph, op: OpId) -> Result<Call, Refusal> {
    let attention = attr::<PagedAttention>(graph, op)?;
    let grid = tokens(graph, op)? * Dim::from(u64::from(attention.kv_heads));
    let call = Call::grid(grid).float("scale", attention.scale);
    Ok(call.kv(attention.group, attention.layer, false))
}

fn rope_append_kv(graph: &Graph, op: OpId) -> Result<Call, Refusal> {
    let rope = attr::<RopeAppendKv>(graph, op)?;
    let call = Call::grid(tokens(graph, op)?.ceil_div(ROWS)).int("heads", rope.heads);
    let call = match rope.norm_eps {
        Some(eps) => call.float("norm_eps", eps),
        None => call,
    };
    Ok(call.kv(rope.group, rope.layer, true))
}
