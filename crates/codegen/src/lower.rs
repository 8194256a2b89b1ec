//! A verified graph to a plan: one program for each substitution of the graph's symbols.

use std::collections::{BTreeMap, HashMap};

use ir::{EvalError, Graph, Stage, TensorType, Type, Value, Verified, WeightSource};
use plan::{
    Arg, Buffer, Dim, Input, KvGroup, Launch, Limits, Model, Plan, PlanError, PlanWriter, Port, Program, ProgramKind,
    Step, Symbol, SymbolDecl, SymbolValues, TextFile, WEIGHT_ALIGN, Weight, WeightData, upper_bounds,
};

use crate::memory::{Request, place};
use crate::recipe::{Recipe, WriteError};
use crate::{Catalog, Choice, Selection, select};

/// What a plan holds beside the graph.
#[derive(Clone, Debug)]
pub struct PlanSpec {
    /// Name of the target.
    pub target: String,
    /// What requests need to know of the model.
    pub model: Model,
    /// Largest loads.
    pub limits: Limits,
    /// Blocks of each KV group.
    pub kv_blocks: u32,
    /// Files that travel with the plan.
    pub files: Vec<TextFile>,
    /// The effective configuration.
    pub config: Vec<(String, String)>,
    /// What the plan is made from.
    pub inputs: Vec<Input>,
}

/// Why a graph did not become a plan.
#[derive(Debug, thiserror::Error)]
pub enum CodegenError {
    /// Ops that no kernel takes.
    #[error("target `{target}`: {}", .problems.join("\n"))]
    NoKernel {
        /// Name of the target.
        target: String,
        /// A line for each op.
        problems: Vec<String>,
    },
    /// A constant could not be computed.
    #[error("weights: {0}")]
    Constant(#[from] EvalError),
    /// The checkpoint could not be read.
    #[error("weights: {0}")]
    Weights(String),
    /// The plan could not be written.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The graph is not what a step can run.
    #[error("{0}")]
    Graph(String),
}

impl From<WriteError> for CodegenError {
    fn from(error: WriteError) -> CodegenError {
        match error {
            WriteError::Weights(reason) => CodegenError::Weights(reason),
            WriteError::Plan(error) => CodegenError::Plan(error),
        }
    }
}

/// A plan whose weights are still recipes.
#[derive(Debug)]
pub struct Lowered {
    /// The plan; offsets of stored weights are set when it is written.
    pub plan: Plan,
    /// The kernels, for `--emit kernels`.
    pub selection: Selection,
    recipes: Vec<Recipe>,
}

/// Lowers a fused graph for the kernels of a catalog.
pub fn lower(
    verified: Verified<'_>,
    catalog: &Catalog,
    spec: PlanSpec,
    weights: &dyn WeightSource,
) -> Result<Lowered, CodegenError> {
    if verified.stage() < Stage::Fused {
        let stage = verified.stage().name();
        return Err(CodegenError::Graph(format!("expected a graph at stage `fused`, found one at `{stage}`")));
    }
    let graph = verified.graph();
    let selection =
        select(graph, catalog).map_err(|problems| CodegenError::NoKernel { target: spec.target.clone(), problems })?;
    let mut lowering = Lowering::new(graph, &selection, weights)?;
    let programs = substitutions(graph, &spec.limits)
        .into_iter()
        .map(|substitution| lowering.program(&substitution))
        .collect::<Result<Vec<_>, _>>()?;
    let kv = graph.kv().iter().map(|group| KvGroup {
        dtype: group.dtype,
        layers: group.layers,
        kv_heads: group.kv_heads,
        head_dim: group.head_dim,
        block_tokens: group.block_tokens,
        blocks: spec.kv_blocks,
    });
    let plan = Plan {
        target: spec.target,
        model: spec.model,
        limits: spec.limits,
        weights: lowering.weights,
        kv: kv.collect(),
        kernels: lowering.kernels,
        programs,
        files: spec.files,
        config: spec.config,
        inputs: spec.inputs,
        world_size: 1,
    };
    let recipes = lowering.recipes;
    Ok(Lowered { plan, selection, recipes })
}

impl Lowered {
    /// Bytes of weights that [`Lowered::write`] will store.
    pub fn stored_bytes(&self) -> u64 {
        let stored = self.plan.weights.iter().filter(|weight| matches!(weight.data, WeightData::Stored { .. }));
        stored.filter_map(Weight::bytes).sum()
    }

    /// Writes the plan and its weights; `progress` is told the bytes of weights written so far. Returns the size of
    /// the file.
    pub fn write(
        mut self,
        path: &std::path::Path,
        weights: &dyn WeightSource,
        progress: &mut dyn FnMut(u64),
    ) -> Result<u64, CodegenError> {
        let mut writer = PlanWriter::create(path)?;
        let mut written = 0;
        for (weight, recipe) in self.plan.weights.iter_mut().zip(&self.recipes) {
            let bytes = weight.bytes().unwrap_or(0);
            if let WeightData::Stored { offset } = &mut weight.data {
                *offset = writer.align()?;
                recipe.write(weights, &mut writer)?;
                written += bytes;
                progress(written);
            }
        }
        Ok(writer.finish(&self.plan)?)
    }
}

/// A program's name, kind and sizes.
struct Substitution {
    name: String,
    kind: ProgramKind,
    replacements: BTreeMap<Symbol, Dim>,
    symbols: Vec<SymbolDecl>,
}

/// `decode@1, 2, 4, …` up to the largest batch, where every symbol is the batch; `mixed@T`, where symbols stay.
fn substitutions(graph: &Graph, limits: &Limits) -> Vec<Substitution> {
    let mut all = Vec::new();
    let largest = u64::from(limits.max_batch_size);
    let mut batch = 1;
    while batch < largest * 2 {
        let size = batch.min(largest);
        let fixed = |decl: &SymbolDecl| SymbolDecl { symbol: decl.symbol.clone(), min: size, max: size };
        all.push(Substitution {
            name: format!("decode@{size}"),
            kind: ProgramKind::Decode,
            replacements: graph.symbols().iter().map(|decl| (decl.symbol.clone(), Dim::from(size))).collect(),
            symbols: graph.symbols().iter().map(fixed).collect(),
        });
        batch *= 2;
    }
    all.push(Substitution {
        name: format!("mixed@{}", limits.max_num_tokens),
        kind: ProgramKind::Mixed,
        replacements: BTreeMap::new(),
        symbols: graph.symbols().to_vec(),
    });
    all
}

struct Lowering<'a> {
    graph: &'a Graph,
    selection: &'a Selection,
    weights: Vec<Weight>,
    recipes: Vec<Recipe>,
    weight_index: HashMap<Value, u32>,
    kernels: Vec<plan::Kernel>,
}

impl<'a> Lowering<'a> {
    /// Numbers the weights: constants that a launch reads, in the order in which it does.
    fn new(
        graph: &'a Graph,
        selection: &'a Selection,
        source: &dyn WeightSource,
    ) -> Result<Lowering<'a>, CodegenError> {
        let mut lowering = Lowering {
            graph,
            selection,
            weights: Vec::new(),
            recipes: Vec::new(),
            weight_index: HashMap::new(),
            kernels: Vec::new(),
        };
        for id in graph.ops().filter(|id| selection.get(*id).is_some()) {
            for operand in graph.operands(id).into_iter().filter(|operand| graph.is_constant(*operand)) {
                lowering.weight(operand, source)?;
            }
        }
        Ok(lowering)
    }

    fn weight(&mut self, value: Value, source: &dyn WeightSource) -> Result<(), CodegenError> {
        if self.weight_index.contains_key(&value) {
            return Ok(());
        }
        let recipe = Recipe::of(self.graph, value, source)?;
        let name = self.graph.value_name(value).to_owned();
        let shape = self.graph.tensor(value).and_then(TensorType::const_shape);
        let shape = shape.ok_or_else(|| CodegenError::Graph(format!("weight `{name}` has a symbolic size")))?;
        let data = match recipe.random(source) {
            Some(parts) => WeightData::Random(parts),
            None => WeightData::Stored { offset: 0 },
        };
        self.weight_index.insert(value, self.weights.len() as u32);
        self.weights.push(Weight { name, dtype: recipe.dtype(), shape, data });
        self.recipes.push(recipe);
        Ok(())
    }

    /// The index of a kernel in this configuration.
    fn kernel(&mut self, choice: &Choice) -> u32 {
        let kernel = plan::Kernel { name: choice.kernel.to_owned(), params: choice.call.params.clone() };
        let index = self.kernels.iter().position(|known| *known == kernel).unwrap_or_else(|| {
            self.kernels.push(kernel);
            self.kernels.len() - 1
        });
        index as u32
    }

    fn program(&mut self, substitution: &Substitution) -> Result<Program, CodegenError> {
        let graph = self.graph;
        let mut buffers = Buffers::new(graph, substitution);
        for input in graph.inputs() {
            buffers.define(*input, 0)?;
        }
        let mut steps = Vec::new();
        for id in graph.ops() {
            let Some(choice) = self.selection.get(id) else { continue };
            let step = steps.len() as u32;
            let mut inputs = Vec::new();
            for operand in graph.operands(id) {
                if let Some(index) = self.weight_index.get(&operand) {
                    inputs.push(Arg::Weight(*index));
                } else if *graph.ty(operand) != Type::Effect {
                    inputs.push(Arg::Buffer(buffers.read(operand, step)?));
                }
            }
            let mut outputs = Vec::new();
            for result in graph.results(id).filter(|result| *graph.ty(*result) != Type::Effect) {
                outputs.push(buffers.define(result, step)?);
            }
            if let Some(kv) = choice.call.kv {
                let list = if kv.writes { &mut outputs } else { &mut inputs };
                list.push(Arg::Kv { group: kv.group, layer: kv.layer });
            }
            steps.push(Step::Launch(Launch {
                kernel: self.kernel(choice),
                site: graph.value_name(graph.result(id)).to_owned(),
                inputs,
                outputs,
                grid: choice.call.grid.substitute(&substitution.replacements),
            }));
        }
        let outputs = graph.outputs().iter().map(|output| buffers.port(&output.name, output.value, steps.len()));
        let outputs = outputs.collect::<Result<Vec<_>, _>>()?;
        let inputs = graph.inputs().iter().map(|input| buffers.port(graph.value_name(*input), *input, 0));
        let inputs = inputs.collect::<Result<Vec<_>, _>>()?;
        let (buffers, arena_bytes) = buffers.place();
        let Substitution { name, kind, symbols, .. } = substitution;
        Ok(Program {
            name: name.clone(),
            kind: *kind,
            symbols: symbols.clone(),
            buffers,
            arena_bytes,
            inputs,
            outputs,
            steps,
        })
    }
}

/// The buffers of one program while it is built.
struct Buffers<'a> {
    graph: &'a Graph,
    substitution: &'a Substitution,
    bounds: SymbolValues,
    buffers: Vec<Buffer>,
    index: HashMap<Value, u32>,
}

impl<'a> Buffers<'a> {
    fn new(graph: &'a Graph, substitution: &'a Substitution) -> Buffers<'a> {
        let bounds = upper_bounds(&substitution.symbols);
        Buffers { graph, substitution, bounds, buffers: Vec::new(), index: HashMap::new() }
    }

    /// A buffer for a value that this step computes.
    fn define(&mut self, value: Value, step: u32) -> Result<Arg, CodegenError> {
        let name = self.graph.value_name(value).to_owned();
        let ty = self.graph.tensor(value).ok_or_else(|| CodegenError::Graph(format!("`%{name}` is no tensor")))?;
        let shape: Vec<Dim> = ty.shape.iter().map(|dim| dim.substitute(&self.substitution.replacements)).collect();
        let bytes = shape.iter().try_fold(ty.dtype.bytes(), |bytes, dim| {
            let size = dim.eval(&self.bounds).map_err(|error| error.to_string())?;
            bytes.checked_mul(size).ok_or_else(|| "its size overflows".to_owned())
        });
        let bytes = bytes.map_err(|reason| CodegenError::Graph(format!("`%{name}`: {reason}")))?;
        let index = self.buffers.len() as u32;
        self.buffers.push(Buffer { name, dtype: ty.dtype, shape, offset: 0, bytes, live: (step, step) });
        self.index.insert(value, index);
        Ok(Arg::Buffer(index))
    }

    /// The buffer of a value that this step reads.
    fn read(&mut self, value: Value, step: u32) -> Result<u32, CodegenError> {
        let name = self.graph.value_name(value);
        let index = self.index.get(&value).ok_or_else(|| CodegenError::Graph(format!("`%{name}` has no buffer")))?;
        let live = &mut self.buffers[*index as usize].live;
        live.1 = live.1.max(step);
        Ok(*index)
    }

    fn port(&mut self, name: &str, value: Value, last_step: usize) -> Result<Port, CodegenError> {
        if self.graph.is_constant(value) {
            return Err(CodegenError::Graph(format!(
                "output `{name}` is a constant, not a value that a step computes"
            )));
        }
        Ok(Port { name: name.to_owned(), buffer: self.read(value, last_step as u32)? })
    }

    fn place(mut self) -> (Vec<Buffer>, u64) {
        let requests = self.buffers.iter().map(|buffer| Request { bytes: buffer.bytes, live: buffer.live });
        let placement = place(&requests.collect::<Vec<_>>(), WEIGHT_ALIGN);
        for (buffer, offset) in self.buffers.iter_mut().zip(placement.offsets) {
            buffer.offset = offset;
        }
        (self.buffers, placement.bytes)
    }
}
