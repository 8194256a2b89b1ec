//! Lowers a verified graph to a plan, one program per substitution of the graph's symbols: select, tune, lower, build,
//! write.

use std::collections::HashMap;
use std::str::FromStr;

use ir::{Graph, Stage, TensorType, Type, Value, Verified, WeightSource};
use plan::input::Changed;
use plan::{
    Arg, DType, Input, KvGroup, Launch, Layout, Limits, Model, Plan, PlanError, PlanWriter, Program, Step, TextFile,
    Tiles, Weight, WeightData,
};

use crate::cuda::{Built, Compiler};
use crate::memory::Buffers;
use crate::recipe::Recipe;
use crate::{
    Catalog, Choice, Chosen, CodegenError, Measurable, ProgramShape, Selection, Site, Target, Timings, cost, kernels,
    select, untimed,
};

/// Contents of a plan besides the graph.
#[derive(Clone, Debug)]
pub struct PlanSpec {
    /// Name of the target.
    pub target: String,
    /// What requests depend on.
    pub model: Model,
    /// Limits.
    pub limits: Limits,
    /// Blocks of each KV group.
    pub kv_blocks: u32,
    /// Files inside the plan.
    pub files: Vec<TextFile>,
    /// The effective configuration.
    pub config: Vec<(String, String)>,
    /// Inputs of the compilation.
    pub inputs: Vec<Input>,
}

/// A fused graph and the kernels of its programs.
#[derive(Debug)]
pub struct Selected {
    graph: Graph,
    catalog: Catalog,
    spec: PlanSpec,
    programs: Vec<ProgramShape>,
    selection: Selection,
}

/// A plan whose weights are still recipes.
#[derive(Debug)]
pub struct Lowered {
    /// The plan; offsets of stored weights are set when it is written.
    pub plan: Plan,
    recipes: Vec<Recipe>,
    selected: Selected,
}

impl Selected {
    /// Selects kernels of a catalog for a fused graph.
    pub fn new(verified: Verified<'_>, catalog: Catalog, spec: PlanSpec) -> Result<Selected, CodegenError> {
        if verified.stage() < Stage::Fused {
            let stage = verified.stage().name();
            return Err(CodegenError::Graph(format!("expected a graph at stage `fused`, found one at `{stage}`")));
        }
        let graph = verified.graph().clone();
        let programs = ProgramShape::all(&graph, &spec.limits);
        let selection = select_for(&spec.target, &graph, &catalog, &programs)?;
        Ok(Selected { graph, catalog, spec, programs, selection })
    }

    /// The kernels, for `--emit kernels`.
    pub fn selection(&self) -> &Selection {
        &self.selection
    }

    /// The kernels to select from.
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// The ops that have a choice, and no timings of it. Kernels must have been selected without timings.
    pub fn untimed(&self, timings: &Timings) -> Vec<Measurable<'_>> {
        untimed(&self.selection, &self.catalog, &self.programs, timings)
    }

    /// Lets the timings of a file decide, where all candidates for an op are timed. The file becomes an input of the
    /// plan.
    pub fn tune(&mut self, timings: Timings, file: Input) {
        self.catalog.set_timings(timings);
        self.selection.decide(&self.catalog, &self.programs);
        self.spec.inputs.push(file);
        self.spec.inputs.sort_by(|a, b| a.name.cmp(&b.name));
    }

    /// Lowers the programs to a plan.
    pub fn lower(self, weights: &dyn WeightSource) -> Result<Lowered, CodegenError> {
        let Selected { graph, spec, programs, selection, .. } = &self;
        let mut lowering = Lowering::default();
        let mut lowered = Vec::new();
        for (index, shape) in programs.iter().enumerate() {
            let chosen = selection.program(index);
            lowering.weights(chosen, weights)?;
            lowered.push(lowering.program(shape, chosen)?);
        }
        lowering.fill_kernels(&spec.target);
        let kv = graph.kv().iter().map(|group| KvGroup {
            dtype: group.dtype,
            layers: group.layers,
            kv_heads: group.kv_heads,
            head_dim: group.head_dim,
            block_tokens: group.block_tokens,
            blocks: spec.kv_blocks,
        });
        let PlanSpec { target, model, limits, files, config, inputs, .. } = spec.clone();
        let plan = Plan {
            target,
            model,
            limits,
            weights: lowering.weights,
            kv: kv.collect(),
            kernels: lowering.kernels,
            programs: lowered,
            files,
            config,
            inputs,
            world_size: 1,
        };
        Ok(Lowered { plan, recipes: lowering.recipes, selected: self })
    }

    /// Selects again where kernels that were selected are refused now.
    fn again(self) -> Result<Selected, CodegenError> {
        let selection = select_for(&self.spec.target, &self.graph, &self.catalog, &self.programs)?;
        Ok(Selected { selection, ..self })
    }
}

fn select_for(
    target: &str,
    graph: &Graph,
    catalog: &Catalog,
    programs: &[ProgramShape],
) -> Result<Selection, CodegenError> {
    let selection = select(graph, catalog, programs);
    selection.map_err(|problems| CodegenError::NoKernel { target: target.to_owned(), problems })
}

impl Lowered {
    /// The kernels, for `--emit kernels`.
    pub fn selection(&self) -> &Selection {
        &self.selected.selection
    }

    /// Compiles the kernels of a GPU plan. A kernel that compiles to slow code is refused, and the graph is lowered
    /// again with the next one; the last one for an op stays, see [`Selection::warnings`]. Returns the compiled units,
    /// too, in kernel order.
    pub fn build(
        mut self,
        weights: &dyn WeightSource,
        compiler: &Compiler,
    ) -> Result<(Lowered, Vec<Built>), CodegenError> {
        loop {
            let built = self.compile(compiler)?;
            let mut refused = false;
            for (kernel, built) in self.plan.kernels.iter().zip(&built) {
                if let (Some(code), Some(reason)) = (&kernel.code, &built.slow) {
                    refused |= self.selected.catalog.refuse(code.source.clone(), reason.clone());
                }
            }
            // only kernels without an alternative are slow now
            if !refused {
                return Ok((self, built));
            }
            self = self.selected.again()?.lower(weights)?;
        }
    }

    /// Compiles the kernels of a GPU plan, slow ones included. Returns the compiled units in kernel order.
    pub fn compile(&mut self, compiler: &Compiler) -> Result<Vec<Built>, CodegenError> {
        let built = compiler.compile_all(&self.plan.kernels).map_err(|problems| CodegenError::Units { problems })?;
        for (kernel, built) in self.plan.kernels.iter_mut().zip(&built) {
            if let Some(code) = &mut kernel.code {
                code.cubin = built.cubin.clone();
            }
        }
        Ok(built)
    }

    /// Whether the plan has kernels that [`Lowered::build`] compiles.
    pub fn has_units(&self) -> bool {
        self.plan.kernels.iter().any(|kernel| kernel.code.is_some())
    }

    /// Bytes of weights that [`Lowered::write`] stores.
    pub fn stored_bytes(&self) -> u64 {
        let stored = self.plan.weights.iter().filter(|weight| matches!(weight.data, WeightData::Stored { .. }));
        stored.filter_map(Weight::bytes).sum()
    }

    /// Writes the plan and its weights; `progress` receives the bytes of weights written so far. No plan is written if
    /// `unchanged` says that the inputs changed meanwhile. Returns the size of the file.
    pub fn write(
        mut self,
        path: &std::path::Path,
        weights: &dyn WeightSource,
        progress: &mut dyn FnMut(u64),
        unchanged: &dyn Fn() -> Result<(), Changed>,
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
        unchanged().map_err(PlanError::Changed)?;
        Ok(writer.finish(&self.plan)?)
    }
}

#[derive(Default)]
struct Lowering {
    weights: Vec<Weight>,
    recipes: Vec<Recipe>,
    /// A value in two layouts is two weights. Constants are the same values in every program's graph.
    weight_index: HashMap<(Value, Layout), u32>,
    kernels: Vec<plan::Kernel>,
    /// Kernels by name and unit: those with one entry point differ in parameters.
    kernel_index: HashMap<(&'static str, String), Vec<u32>>,
}

impl Lowering {
    /// Numbers the new weights of a program: constants that a launch reads, in that order.
    fn weights(&mut self, chosen: &Chosen, source: &dyn WeightSource) -> Result<(), CodegenError> {
        let graph = chosen.graph();
        for (id, choice) in graph.ops().filter_map(|id| Some((id, chosen.get(id)?))) {
            for (index, operand) in graph.operands(id).into_iter().enumerate() {
                if graph.is_constant(operand) {
                    self.weight(graph, operand, layout(choice, index), source)?;
                }
            }
        }
        Ok(())
    }

    fn weight(
        &mut self,
        graph: &Graph,
        value: Value,
        layout: Layout,
        source: &dyn WeightSource,
    ) -> Result<(), CodegenError> {
        if self.weight_index.contains_key(&(value, layout)) {
            return Ok(());
        }
        let recipe = Recipe::of(graph, value, source)?;
        let name = graph.value_name(value).to_owned();
        let shape = graph.tensor(value).and_then(TensorType::const_shape);
        let shape = shape.ok_or_else(|| CodegenError::Graph(format!("weight `{name}` has a symbolic size")))?;
        let data = match recipe.random(source) {
            Some(parts) => WeightData::Random(parts),
            None => WeightData::Stored { offset: 0 },
        };
        let dtype = recipe.dtype();
        let recipe = match (layout, &shape[..]) {
            (Layout::RowMajor, _) => recipe,
            (Layout::Tiled | Layout::TiledHalves, [rows, cols]) if Tiles::cols_of(dtype).is_some() => {
                Recipe::tiled(recipe, *rows, *cols, layout == Layout::TiledHalves)
                    .ok_or_else(|| CodegenError::Graph(format!("weight `{name}` is too large")))?
            }
            (Layout::Packed, [_, cols]) if dtype == DType::I4 && cols % 2 == 0 => Recipe::Packed(Box::new(recipe)),
            _ => {
                return Err(CodegenError::Graph(format!("weight `{name}` cannot have the layout {}", layout.name())));
            }
        };
        self.weight_index.insert((value, layout), self.weights.len() as u32);
        self.weights.push(Weight { name, dtype, shape, layout, data });
        self.recipes.push(recipe);
        Ok(())
    }

    /// The index of the kernel of a choice. Its unit is flattened once, whatever the number of launches.
    fn kernel(&mut self, choice: &Choice) -> u32 {
        let device = choice.call.device.as_ref();
        let unit = device.map_or_else(String::new, |device| device.unit.clone());
        let known = self.kernel_index.entry((choice.kernel, unit)).or_default();
        let same = |index: &&u32| {
            let kernel = &self.kernels[**index as usize];
            let launched = kernel.code.as_ref().map(|code| (code.threads, code.shared_bytes));
            kernel.params == choice.call.params && launched == device.map(|d| (d.threads, d.shared_bytes))
        };
        known.iter().find(same).copied().unwrap_or_else(|| {
            let index = self.kernels.len() as u32;
            self.kernels.push(choice.call.kernel(choice.kernel));
            known.push(index);
            index
        })
    }

    /// Kernels that generate random weights, if the target's device generates them.
    fn fill_kernels(&mut self, target: &str) {
        if Target::from_str(target).is_ok_and(Target::is_gpu) {
            let random = self.weights.iter().filter(|weight| matches!(weight.data, WeightData::Random(_)));
            let mut kinds: Vec<(DType, Layout)> = Vec::new();
            for kind in random.map(|weight| (weight.dtype, weight.layout)) {
                if !kinds.contains(&kind) {
                    kinds.push(kind);
                }
            }
            let fill = kinds.into_iter().map(|(dtype, layout)| kernels::cuda::fill_random(dtype, layout));
            self.kernels.extend(fill);
        }
    }

    fn program(&mut self, shape: &ProgramShape, chosen: &Chosen) -> Result<Program, CodegenError> {
        let graph = chosen.graph();
        let mut buffers = Buffers::new(graph, shape);
        for input in graph.inputs() {
            buffers.define(*input, 0)?;
        }
        let mut steps = Vec::new();
        for id in graph.ops() {
            let Some(choice) = chosen.get(id) else { continue };
            let step = steps.len() as u32;
            let mut inputs = Vec::new();
            for (index, operand) in graph.operands(id).into_iter().enumerate() {
                if let Some(index) = self.weight_index.get(&(operand, layout(choice, index))) {
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
            let device = choice.call.device.as_ref();
            let site = Site { graph, op: id, program: shape };
            steps.push(Step::Launch(Launch {
                kernel: self.kernel(choice),
                site: graph.value_name(graph.result(id)).to_owned(),
                inputs,
                outputs,
                maps: device.map_or_else(Vec::new, |device| device.maps.clone()),
                scalars: device.map_or_else(Vec::new, |d| d.scalars.iter().map(|dim| shape.dim(dim)).collect()),
                grid: shape.dim(&choice.call.grid),
                ir: cost::line(&site),
                work: cost::work(&site, choice.call.kv),
            }));
        }
        let outputs = graph.outputs().iter().map(|output| buffers.port(&output.name, output.value, steps.len()));
        let outputs = outputs.collect::<Result<Vec<_>, _>>()?;
        let inputs = graph.inputs().iter().map(|input| buffers.port(graph.value_name(*input), *input, 0));
        let inputs = inputs.collect::<Result<Vec<_>, _>>()?;
        let (buffers, arena_bytes) = buffers.place();
        Ok(Program {
            name: shape.name.clone(),
            kind: shape.kind,
            symbols: shape.symbols.clone(),
            buffers,
            arena_bytes,
            inputs,
            outputs,
            steps,
        })
    }
}

/// The layout that a kernel requires for an operand.
fn layout(choice: &Choice, operand: usize) -> Layout {
    let wanted = choice.call.layouts.iter().find(|(index, _)| *index == operand);
    wanted.map_or(Layout::RowMajor, |(_, layout)| *layout)
}
