//! The plan that times candidates for an op: for each a program that launches it once, and one that launches it many
//! times over weights and KV blocks that no cache holds. Activations are written by the program itself, as in a model.

use std::collections::{BTreeMap, HashMap};
use std::str::FromStr;

use ir::ops::{Cast, QuantizeBlocks};
use ir::{Graph, Op, TensorType, Type, Value};
use plan::{
    Arg, Buffer, DType, Dim, KvGroup, Launch, Layout, Limits, Model, Plan, Port, Program, ProgramKind, RandomPart,
    Step, WEIGHT_ALIGN, Weight, WeightData, Work,
};

use super::candidates::Candidate;
use crate::{Call, Catalog, ProgramShape, Site, Target, kernels};

/// Bytes after which launches come back to the same ones: several times the L2 cache of an H200 (50 MB), and more than
/// the last-level cache of most CPUs.
const ROTATION_BYTES: u64 = 256 << 20;
const MOST_COPIES: u64 = 32;
/// Tokens that a sequence has where each has one new token.
const CONTEXT: u64 = 1024;

/// A plan whose programs are trials, and the inputs of each of its steps.
pub(super) struct Trial {
    pub plan: Plan,
    pub inputs: Vec<(String, Vec<i32>)>,
    pub candidates: usize,
}

impl Trial {
    /// The program that launches a candidate once.
    pub fn once(candidate: usize) -> usize {
        2 * candidate
    }

    /// The program that launches it more times.
    pub fn often(candidate: usize) -> usize {
        2 * candidate + 1
    }

    /// The trials of candidates that require the same weight layouts; `more` is how many launches a program has
    /// besides the first, where it has several.
    pub fn new(
        site: &Site<'_>,
        candidates: &[&Candidate],
        (catalog, target): (&Catalog, &str),
        more: u32,
    ) -> Result<Trial, String> {
        let first = candidates.first().ok_or("there are no candidates")?;
        let mut bench = Bench::new(site, &first.call, more)?;
        bench.operands(catalog, &first.call)?;
        let results = site.graph.results(site.op).filter(|result| *site.graph.ty(*result) != Type::Effect);
        for result in results {
            let index = bench.buffer(result)?;
            bench.outputs.push(index);
        }
        let mut programs = Vec::new();
        for candidate in candidates {
            let kernel = bench.kernel(candidate.call.kernel(candidate.kernel));
            let launch = bench.launch(candidate.kernel, kernel, &candidate.call)?;
            for (name, launches) in [("once", 1), ("often", 1 + more)] {
                programs.push(bench.program(format!("{name} {}", candidate.text), &launch, launches));
            }
        }
        if Target::from_str(target).is_ok_and(Target::is_gpu) {
            for weight in bench.weights.clone() {
                bench.kernel(kernels::cuda::fill_random(weight.dtype, weight.layout));
            }
        }
        let plan = Plan {
            weights: bench.weights,
            kv: bench.kv.into_iter().collect(),
            kernels: bench.kernels,
            programs,
            ..empty_plan(target)
        };
        Ok(Trial { plan, inputs: bench.inputs, candidates: candidates.len() })
    }
}

/// A plan of no model, in which nothing is.
pub(super) fn empty_plan(target: &str) -> Plan {
    Plan {
        target: target.to_owned(),
        model: Model { architecture: String::new(), vocab_size: 1, parameters: 0, bos: None, eos: Vec::new() },
        limits: Limits { max_batch_size: 1, max_input_len: 1, max_seq_len: 1, max_num_tokens: 1, max_logit_rows: 1 },
        weights: Vec::new(),
        kv: Vec::new(),
        kernels: Vec::new(),
        programs: Vec::new(),
        files: Vec::new(),
        config: Vec::new(),
        inputs: Vec::new(),
        world_size: 1,
    }
}

/// An operand of the op that is timed.
#[derive(Clone, Copy)]
enum Operand {
    /// The first of its copies.
    Weight(u32),
    Buffer(u32),
}

/// The parts that all programs share. Sizes are the largest that the timed program may have.
struct Bench<'a> {
    site: &'a Site<'a>,
    step: StepSizes,
    /// Weights and KV layers in turn.
    copies: u64,
    weights: Vec<Weight>,
    kernels: Vec<plan::Kernel>,
    kv: Option<KvGroup>,
    buffers: Vec<Buffer>,
    of_values: HashMap<Value, u32>,
    arena_bytes: u64,
    ports: Vec<Port>,
    inputs: Vec<(String, Vec<i32>)>,
    /// Launches that write activations.
    producers: Vec<Launch>,
    operands: Vec<Operand>,
    outputs: Vec<u32>,
}

impl<'a> Bench<'a> {
    fn new(site: &'a Site<'a>, call: &Call, more: u32) -> Result<Bench<'a>, String> {
        let declared = call.kv.and_then(|kv| site.graph.kv().get(kv.group as usize));
        let step = StepSizes::of(site, declared.map_or(1, |declared| declared.block_tokens));
        let group = declared.map(|declared| KvGroup {
            dtype: declared.dtype,
            layers: 1,
            kv_heads: declared.kv_heads,
            head_dim: declared.head_dim,
            block_tokens: declared.block_tokens,
            blocks: (step.sequences * step.used_blocks()) as u32,
        });
        let mut bench = Bench {
            site,
            step,
            copies: 1,
            weights: Vec::new(),
            kernels: Vec::new(),
            kv: None,
            buffers: Vec::new(),
            of_values: HashMap::new(),
            arena_bytes: 0,
            ports: Vec::new(),
            inputs: Vec::new(),
            producers: Vec::new(),
            operands: Vec::new(),
            outputs: Vec::new(),
        };
        let constants = site.graph.operands(site.op).into_iter().filter(|operand| site.graph.is_constant(*operand));
        let mut bytes = group.as_ref().map_or(0, KvGroup::pool_bytes);
        for constant in constants {
            let (dtype, shape) = bench.sizes(constant)?;
            bytes += dtype.bytes() * shape.iter().product::<u64>();
        }
        let launches = u64::from(more) + 1;
        bench.copies = ROTATION_BYTES.div_ceil(bytes.max(1)).clamp(1, MOST_COPIES.min(launches));
        bench.kv = group.map(|group| KvGroup { layers: bench.copies as u32, ..group });
        Ok(bench)
    }

    /// Dtype and largest sizes of a value.
    fn sizes(&self, value: Value) -> Result<(DType, Vec<u64>), String> {
        let name = || self.site.graph.value_name(value);
        let ty = self.site.graph.tensor(value).ok_or_else(|| format!("`%{}` is no tensor", name()))?;
        let sizes = ty.shape.iter().map(|dim| self.site.program.bound(dim));
        let sizes: Option<Vec<u64>> = sizes.collect();
        Ok((ty.dtype, sizes.ok_or_else(|| format!("`%{}` has a size without a bound", name()))?))
    }

    fn kernel(&mut self, kernel: plan::Kernel) -> u32 {
        let index = self.kernels.iter().position(|known| *known == kernel).unwrap_or_else(|| {
            self.kernels.push(kernel);
            self.kernels.len() - 1
        });
        index as u32
    }

    /// A random weight; returns its index.
    fn weight(&mut self, name: String, dtype: DType, shape: Vec<u64>, layout: Layout) -> Result<u32, String> {
        let std = match dtype.largest_code() {
            Some(largest) => largest / RandomPart::BOUND,
            None if dtype.is_float() => 0.02,
            None => return Err(format!("`{name}` is a constant of dtype {dtype}, which is not random")),
        };
        let part = RandomPart::named(&name, shape.iter().product(), 0.0, std);
        self.weights.push(Weight { name, dtype, shape, layout, data: WeightData::Random(vec![part]) });
        Ok(self.weights.len() as u32 - 1)
    }

    /// The buffer of a value.
    fn buffer(&mut self, value: Value) -> Result<u32, String> {
        let (dtype, sizes) = self.sizes(value)?;
        let index = self.place(self.site.graph.value_name(value).to_owned(), dtype, sizes);
        self.of_values.insert(value, index);
        Ok(index)
    }

    /// A buffer of its own.
    fn place(&mut self, name: String, dtype: DType, sizes: Vec<u64>) -> u32 {
        let bytes = dtype.bytes() * sizes.iter().product::<u64>();
        let (index, offset) = (self.buffers.len() as u32, self.arena_bytes);
        self.arena_bytes += bytes.next_multiple_of(WEIGHT_ALIGN);
        let shape = sizes.into_iter().map(Dim::from).collect();
        self.buffers.push(Buffer { name, dtype, shape, offset, bytes, live: (0, 0) });
        index
    }

    fn operands(&mut self, catalog: &Catalog, call: &Call) -> Result<(), String> {
        let graph = self.site.graph;
        for (index, value) in graph.operands(self.site.op).into_iter().enumerate() {
            if *graph.ty(value) == Type::Effect {
                continue;
            }
            let (dtype, sizes) = self.sizes(value)?;
            let operand = if graph.is_constant(value) {
                let layout = call.layouts.iter().find(|(operand, _)| *operand == index);
                let layout = layout.map_or(Layout::RowMajor, |(_, layout)| *layout);
                let first = self.weights.len() as u32;
                for copy in 0..self.copies {
                    self.weight(format!("operand {index}, copy {copy}"), dtype, sizes.clone(), layout)?;
                }
                Operand::Weight(first)
            } else if let Some(known) = self.of_values.get(&value) {
                Operand::Buffer(*known)
            } else {
                let buffer = self.buffer(value)?;
                match dtype {
                    DType::I32 => {
                        let (name, input) = (graph.value_name(value).to_owned(), StepInput::of(self.site, index));
                        self.inputs.push((name.clone(), self.step.values(input, &sizes)));
                        self.ports.push(Port { name, buffer });
                    }
                    _ => self.produce(catalog, dtype, sizes, buffer)?,
                }
                Operand::Buffer(buffer)
            };
            self.operands.push(operand);
        }
        Ok(())
    }

    /// A launch that writes a buffer: a weight of another dtype, cast to that of the buffer, or quantized.
    fn produce(&mut self, catalog: &Catalog, dtype: DType, sizes: Vec<u64>, buffer: u32) -> Result<(), String> {
        let source = if dtype == DType::F32 { DType::BF16 } else { DType::F32 };
        let mut outputs = vec![Arg::Buffer(buffer)];
        let (op, names): (Op, &[&str]) = match dtype.is_code() {
            false => (Op::new(Cast { to: dtype }), &["y"]),
            true => {
                let rows = sizes.first().copied().unwrap_or(1);
                outputs.push(Arg::Buffer(self.place(format!("scales of {buffer}"), DType::F32, vec![rows, 1])));
                (Op::new(QuantizeBlocks { to: dtype, rows: None, cols: None }), &["quantized", "scales"])
            }
        };
        let mut graph = Graph::new("producer", Vec::new(), Vec::new());
        let x = graph.add_input("x", TensorType::new(source, sizes.clone()));
        let op = graph.add(op, &[x], names).map_err(|error| error.to_string())?;
        let program = ProgramShape {
            name: "producer".to_owned(),
            kind: ProgramKind::Decode,
            replacements: BTreeMap::new(),
            symbols: Vec::new(),
        };
        let site = Site { graph: &graph, op, program: &program };
        let call = catalog.iter().find_map(|kernel| Some((kernel.name(), kernel.call(&site).ok()?)));
        let (name, call) = call.ok_or_else(|| format!("no kernel makes {dtype} of {source}"))?;
        let kernel = self.kernel(call.kernel(name));
        let weight = self.weight(format!("activations {buffer}"), source, sizes, Layout::RowMajor)?;
        let launch =
            Launch { inputs: vec![Arg::Weight(weight)], outputs, ..empty_launch(name, kernel, &call, &program)? };
        self.producers.push(launch);
        Ok(())
    }

    /// A launch of a candidate, over the first copies.
    fn launch(&self, name: &str, kernel: u32, call: &Call) -> Result<Launch, String> {
        let input = |operand: &Operand| match *operand {
            Operand::Weight(first) => Arg::Weight(first),
            Operand::Buffer(index) => Arg::Buffer(index),
        };
        let mut inputs: Vec<Arg> = self.operands.iter().map(input).collect();
        let mut outputs: Vec<Arg> = self.outputs.iter().map(|index| Arg::Buffer(*index)).collect();
        if let Some(kv) = call.kv {
            let list = if kv.writes { &mut outputs } else { &mut inputs };
            list.push(Arg::Kv { group: 0, layer: 0 });
        }
        Ok(Launch { inputs, outputs, ..empty_launch(name, kernel, call, self.site.program)? })
    }

    fn program(&self, name: String, launch: &Launch, launches: u32) -> Program {
        let mut steps = self.producers.clone();
        steps.extend((0..launches).map(|index| self.turn(launch, index % self.copies as u32)));
        let last = steps.len() as u32;
        let buffers = self.buffers.iter().map(|buffer| Buffer { live: (0, last), ..buffer.clone() });
        Program {
            name,
            kind: ProgramKind::Decode,
            symbols: Vec::new(),
            buffers: buffers.collect(),
            arena_bytes: self.arena_bytes,
            inputs: self.ports.clone(),
            outputs: Vec::new(),
            steps: steps.into_iter().map(Step::Launch).collect(),
        }
    }

    /// The same launch over other copies.
    fn turn(&self, launch: &Launch, copy: u32) -> Launch {
        let turn = |arg: &Arg| match *arg {
            Arg::Weight(first) => Arg::Weight(first + copy),
            Arg::Kv { group, .. } => Arg::Kv { group, layer: copy },
            buffer => buffer,
        };
        let turned = |args: &[Arg]| args.iter().map(turn).collect();
        Launch { inputs: turned(&launch.inputs), outputs: turned(&launch.outputs), ..launch.clone() }
    }
}

/// A launch at the largest sizes of a program, without arguments.
fn empty_launch(name: &str, kernel: u32, call: &Call, program: &ProgramShape) -> Result<Launch, String> {
    let size = |dim: &Dim| program.bound(dim).map(Dim::from).ok_or_else(|| format!("`{dim}` has no bound"));
    let device = call.device.as_ref();
    let scalars = device.map_or(&[][..], |device| &device.scalars);
    Ok(Launch {
        kernel,
        site: name.to_owned(),
        inputs: Vec::new(),
        outputs: Vec::new(),
        maps: device.map_or_else(Vec::new, |device| device.maps.clone()),
        scalars: scalars.iter().map(size).collect::<Result<_, _>>()?,
        grid: size(&call.grid)?,
        ir: String::new(),
        work: Work { flops: 0.into(), read: 0.into(), written: 0.into() },
    })
}

/// A step input, by the name of the operand in the op's declaration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StepInput {
    Positions,
    QueryStarts,
    BlockTable,
}

impl StepInput {
    /// The step input that an operand of an op is.
    fn of(site: &Site<'_>, operand: usize) -> Option<StepInput> {
        match site.graph.op(site.op).operands().name(operand)? {
            "positions" => Some(StepInput::Positions),
            "query_starts" => Some(StepInput::QueryStarts),
            "block_table" => Some(StepInput::BlockTable),
            _ => None,
        }
    }
}

/// The tokens of a step that is typical for a program: one new token of each sequence, or a prompt.
struct StepSizes {
    tokens: u64,
    sequences: u64,
    blocks_per_sequence: u64,
    block_tokens: u64,
}

impl StepSizes {
    /// From the step inputs among the operands; one token without them.
    fn of(site: &Site<'_>, block_tokens: u32) -> StepSizes {
        let block_tokens = u64::from(block_tokens);
        let mut sizes = StepSizes { tokens: 1, sequences: 1, blocks_per_sequence: 1, block_tokens };
        for (operand, value) in site.graph.operands(site.op).into_iter().enumerate() {
            let bound = |index: usize| {
                let dim = site.graph.tensor(value).and_then(|ty| ty.shape.get(index))?;
                site.program.bound(dim)
            };
            match StepInput::of(site, operand) {
                Some(StepInput::Positions) => sizes.tokens = bound(0).unwrap_or(1),
                Some(StepInput::BlockTable) => {
                    sizes.sequences = bound(0).unwrap_or(1);
                    sizes.blocks_per_sequence = bound(1).unwrap_or(1);
                }
                Some(StepInput::QueryStarts) | None => {}
            }
        }
        sizes
    }

    /// New tokens of a sequence.
    fn run(&self) -> u64 {
        if self.tokens == self.sequences { 1 } else { self.tokens.min(self.room()) }
    }

    /// Tokens that a sequence may have.
    fn room(&self) -> u64 {
        self.blocks_per_sequence * self.block_tokens
    }

    /// Tokens of a sequence, the new ones among them.
    fn context(&self) -> u64 {
        if self.run() == 1 { CONTEXT.min(self.room()) } else { self.run() }
    }

    /// Blocks that the tokens of a sequence lie in.
    fn used_blocks(&self) -> u64 {
        self.context().div_ceil(self.block_tokens)
    }

    /// The values of an operand; zeros if it is not a step input.
    fn values(&self, input: Option<StepInput>, sizes: &[u64]) -> Vec<i32> {
        let (run, used) = (self.run(), self.used_blocks());
        let value = |index: u64| match input {
            Some(StepInput::Positions) => self.context() - run + index % run,
            Some(StepInput::QueryStarts) => (index * run).min(self.tokens),
            Some(StepInput::BlockTable) => {
                let (sequence, block) = (index / self.blocks_per_sequence, index % self.blocks_per_sequence);
                if block < used { sequence * used + block } else { 0 }
            }
            None => 0,
        };
        (0..sizes.iter().product()).map(|index| value(index) as i32).collect()
    }
}

#[cfg(test)]
mod tests {
    use plan::Limits;

    use super::*;

    /// Step inputs under other names than those of a model.
    const GRAPH: &str = "\
graph @g<T in 1..8, B in 1..8>(%k: bf16[T, 16], %v: bf16[T, 16], %at: i32[T], %starts: i32[B + 1], %blocks: i32[B, 4]) {
  kv 0 : bf16 {layers = 1, kv_heads = 1, head_dim = 16, block_tokens = 64}
  %cache = append_kv %k, %v, %at, %starts, %blocks {group = 0, layer = 0} : effect
  return %cache
}
";

    #[test]
    fn step_inputs_are_known_by_their_op_not_by_their_names() {
        let graph = ir::text::parse(GRAPH, &ir::ops::OpSet::standard()).expect("a graph").graph;
        let limits =
            Limits { max_batch_size: 8, max_input_len: 8, max_seq_len: 8, max_num_tokens: 8, max_logit_rows: 8 };
        let programs = ProgramShape::all(&graph, &limits);
        let op = graph.ops().next().expect("an op");
        let site = Site { graph: &graph, op, program: programs.last().expect("a program") };
        let step = StepSizes::of(&site, 64);
        assert_eq!((step.tokens, step.sequences, step.blocks_per_sequence), (8, 8, 4));
        assert_eq!(step.values(StepInput::of(&site, 3), &[9]), [0, 1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(step.values(StepInput::of(&site, 0), &[2]), [0, 0]);
    }
}
