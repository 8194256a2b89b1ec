//! `kernels/rows`: copies of rows, and elementwise ops.

use ir::DeclaredOp;
use ir::ops::{Embedding, GatherRows, Split, Swiglu};
use plan::{Code, DType, Layout, Param, Scalar};

use super::body::{Body, c_type};
use super::element_grid::{self, THREADS};
use super::layout::layout_of;
use crate::cuda::flatten;
use crate::kernels::Row;
use crate::{Call, Refusal, Site};

pub(super) const SWIGLU: Row = Row::new("swiglu", &[Swiglu::MNEMONIC], "kernels/rows/elementwise.cuh", swiglu);

pub(super) const SPLIT: Row = Row::new("split", &[Split::MNEMONIC], "kernels/rows/split.cuh", split);

pub(super) const EMBEDDING: Row =
    Row::new("embedding", &[Embedding::MNEMONIC], "kernels/rows/embedding.cuh", embedding);

pub(super) const GATHER_ROWS: Row =
    Row::new("gather_rows", &[GatherRows::MNEMONIC], "kernels/rows/embedding.cuh", gather_rows);

fn swiglu(site: &Site<'_>) -> Result<Call, Refusal> {
    site.cast::<Swiglu>()?;
    let (rows, cols) = (site.row_count()?, site.width()?);
    let instance = format!("Swiglu<{}, {cols}>", c_type(site.result_type()?.dtype));
    let grid = element_grid::blocks(&rows, cols);
    Body::of(&SWIGLU, instance, THREADS, grid).scalar("rows", rows).call(site)
}

fn gather_rows(site: &Site<'_>) -> Result<Call, Refusal> {
    site.cast::<GatherRows>()?;
    let (cols, rows) = (site.width()?, site.row_count()?);
    let instance = format!("GatherRows<{}, {cols}>", c_type(site.result_type()?.dtype));
    let body = Body::of(&GATHER_ROWS, instance, THREADS, rows.clone());
    body.scalar("rows", rows).scalar("x_rows", site.dim(0, 0)?).call(site)
}

/// Reads the packed form of a table that a linear layer uses packed: one copy serves both.
fn embedding(site: &Site<'_>) -> Result<Call, Refusal> {
    site.cast::<Embedding>()?;
    let (cols, tokens) = (site.width()?, site.row_count()?);
    let layout = layout_of(site.graph, site.operand(1)?);
    let tiled = layout == Layout::Tiled;
    let instance = format!("Embedding<{}, {cols}, {tiled}>", c_type(site.result_type()?.dtype));
    let body = Body::of(&EMBEDDING, instance, THREADS, tokens.clone());
    let call = body.scalar("tokens", tokens).scalar("vocab", site.dim(1, 0)?).call(site)?;
    Ok(if tiled { call.layout(1, layout).int("tiled", 1) } else { call })
}

fn split(site: &Site<'_>) -> Result<Call, Refusal> {
    let split = site.cast::<Split>()?;
    let rows = site.row_count()?;
    let sizes: Vec<String> = split.sizes.iter().map(u32::to_string).collect();
    let instance = format!("Split<{}, {}>", c_type(site.result_type()?.dtype), sizes.join(", "));
    let mut body = Body::of(&SPLIT, instance, THREADS, rows.clone());
    body.outputs_in_array = true;
    body.scalar("rows", rows).call(site)
}

/// The kernel that generates random weights of this type and layout when a plan is loaded. No program launches it.
pub(crate) fn fill_random(dtype: DType, layout: Layout) -> plan::Kernel {
    let order = match layout {
        Layout::RowMajor => 0,
        Layout::Tiled => 1,
        Layout::TiledHalves => 2,
        Layout::Packed => 3,
    };
    let ty = c_type(dtype);
    let unit = format!(
        "#include \"common/body.cuh\"\n#include \"rows/fill_random.cuh\"\n\n\
         using Body = smelt::FillRandom<{ty}, {order}>;\nstatic_assert(Body::kThreads == {THREADS});\n\n\
         extern \"C\" __global__ void __launch_bounds__(Body::kThreads)\n\
         fill_random({ty}* out, smelt::u64 seed, float mean, float std, smelt::u64 first, smelt::u64 elements, \
         smelt::u64 rows, smelt::u64 cols) {{\n  smelt::run(Body{{out, seed, mean, std, first, elements, rows, cols}});\n}}\n"
    );
    let param = |name: &str, value: &str| Param { name: name.to_owned(), value: Scalar::Text(value.to_owned()) };
    plan::Kernel {
        name: "fill_random".to_owned(),
        params: vec![param("dtype", dtype.name()), param("layout", layout.name())],
        code: Some(Code { source: flatten(&unit, &[]), cubin: Vec::new(), threads: THREADS, shared_bytes: 0 }),
    }
}

/// Bytes of a tile of [`stream_read`].
pub(crate) const READ_TILE_BYTES: u64 = 32 * 4096;

/// The kernel that measures how fast memory is read: a sum in i32 of each tile of f32 words. No model launches it. Its
/// ring and tile were the fastest of those that an H200 was measured with (`bench/weight-layout.json`, "read alone").
pub(crate) fn stream_read() -> plan::Kernel {
    const STAGES: u64 = 16;
    let copies = READ_TILE_BYTES / 4096;
    let shared_bytes = STAGES * (4096 + 8);
    let unit = format!(
        "#include \"common/body.cuh\"\n#include \"rows/stream_read.cuh\"\n\n\
         using Body = smelt::StreamRead<{STAGES}, {copies}>;\n\
         static_assert(Body::kThreads == 32 && Body::kSharedBytes == {shared_bytes} && \
         Body::kTileBytes == {READ_TILE_BYTES});\n\n\
         extern \"C\" __global__ void __launch_bounds__(Body::kThreads)\n\
         stream_read(smelt::i32* sums, const smelt::f32* words) {{\n  smelt::run(Body{{sums, words}});\n}}\n"
    );
    let code = Code { source: flatten(&unit, &[]), cubin: Vec::new(), threads: 32, shared_bytes: shared_bytes as u32 };
    plan::Kernel { name: "stream_read".to_owned(), params: Vec::new(), code: Some(code) }
}
