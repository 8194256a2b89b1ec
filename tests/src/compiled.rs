//! Graphs as plan files on disk, opened as an executor gets them.

use std::sync::Arc;

use codegen::{Catalog, Lowered, PlanSpec, Selected, Target};
use ir::{Graph, Stage};
use passes::PassReport;
use plan::{Limits, Model, PlanFile};
use smelt::Driver;
use tempfile::TempDir;

use crate::{SeededWeights, device, run_passes};

/// A fully compiled graph.
pub struct Compiled {
    /// After the pipeline.
    pub graph: Graph,
    /// Statistics of each pass.
    pub passes: Vec<PassReport>,
    /// The kernel of each op.
    pub selection: String,
    /// The plan, written and opened.
    pub file: Arc<PlanFile>,
    _folder: TempDir,
}

/// Runs the standard pipeline and lowers the result. Limits are the bounds of the graph's symbols.
pub fn compile(graph: &Graph, target: Target, weights: &SeededWeights, kv_blocks: u32) -> Result<Compiled, String> {
    compile_with(&Driver::new(), graph, target, weights, kv_blocks)
}

/// As [`compile`], with a driver's pipeline and kernels.
pub fn compile_with(
    driver: &Driver,
    graph: &Graph,
    target: Target,
    weights: &SeededWeights,
    kv_blocks: u32,
) -> Result<Compiled, String> {
    compile_for(driver, graph, target, driver.catalog(target), weights, kv_blocks)
}

/// As [`compile_with`], with kernels that are not the driver's, or with timings.
pub fn compile_for(
    driver: &Driver,
    graph: &Graph,
    target: Target,
    catalog: Catalog,
    weights: &SeededWeights,
    kv_blocks: u32,
) -> Result<Compiled, String> {
    let (graph, passes) = run_passes(&driver.pipeline(), graph, weights)?;
    let (verified, spec) = prepare(&graph, target, kv_blocks)?;
    let lowered = Selected::new(verified, catalog, spec).and_then(|selected| selected.lower(weights));
    let mut lowered = lowered.map_err(|error| error.to_string())?;
    if target.is_gpu() {
        (lowered, _) = lowered.build(weights, &device::compiler()?).map_err(|error| error.to_string())?;
    }
    let selection = lowered.selection().print();
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let path = folder.path().join("case.plan");
    lowered.write(&path, weights, &mut |_| {}, &|| Ok(())).map_err(|error| error.to_string())?;
    let file = PlanFile::open(&path).map_err(|error| error.to_string())?;
    Ok(Compiled { graph, passes, selection, file: Arc::new(file), _folder: folder })
}

/// Lowers a graph after the passes.
pub fn lower(
    driver: &Driver,
    graph: &Graph,
    target: Target,
    weights: &SeededWeights,
    kv_blocks: u32,
) -> Result<Lowered, String> {
    let (verified, spec) = prepare(graph, target, kv_blocks)?;
    let selected = Selected::new(verified, driver.catalog(target), spec);
    selected.and_then(|selected| selected.lower(weights)).map_err(|error| error.to_string())
}

fn prepare(graph: &Graph, target: Target, kv_blocks: u32) -> Result<(ir::Verified<'_>, PlanSpec), String> {
    let list = |found: Vec<ir::Diagnostic>| found.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    let verified = ir::verify(graph, Stage::Fused).map_err(list)?;
    let model =
        Model { architecture: graph.name().to_owned(), vocab_size: 1, parameters: 0, bos: None, eos: Vec::new() };
    let spec = PlanSpec {
        target: target.name().to_owned(),
        model,
        limits: limits(graph),
        kv_blocks,
        files: Vec::new(),
        config: Vec::new(),
        inputs: Vec::new(),
    };
    Ok((verified, spec))
}

/// The bounds of a graph's symbols.
pub fn limits(graph: &Graph) -> Limits {
    let bound = |name: &str| graph.symbols().iter().find(|decl| decl.symbol.name() == name).map_or(1, |decl| decl.max);
    Limits {
        max_batch_size: bound("B") as u32,
        max_input_len: bound("T") as u32,
        max_seq_len: bound("T") as u32,
        max_num_tokens: bound("T") as u32,
        max_logit_rows: bound("R") as u32,
    }
}
