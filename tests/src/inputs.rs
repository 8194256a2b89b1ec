//! The steps of a case: two that mix prompt chunks and single tokens, then one decode step.
//!
//! Sequences start at position 0 and grow, so that every step reads what earlier steps wrote to the KV cache. Their
//! blocks are in shuffled order, some tokens after the last sequence are padding, and from three sequences on, one has
//! no tokens in the second step.

use std::collections::{BTreeMap, HashMap};

use ir::ops::{Embedding, GatherRows};
use ir::{DType, Graph, HostTensor, TensorType, Value};
use plan::{Dim, ProgramKind, RandomPart, Symbol, SymbolValues};

use crate::Random;

/// Sizes and inputs of one step.
#[derive(Clone, Debug)]
pub struct StepValues {
    /// The kind of program that runs it.
    pub kind: ProgramKind,
    /// A value for each symbol.
    pub symbols: SymbolValues,
    /// A value for each input.
    pub inputs: HashMap<String, HostTensor>,
}

/// Seeded steps for one graph.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// In the order in which they run.
    pub steps: Vec<StepValues>,
    /// Blocks that each KV group needs.
    pub kv_blocks: u32,
}

/// Steps of a scenario.
const STEPS: u64 = 3;
/// Blocks of all its sequences.
const MOST_BLOCKS: u64 = 1 << 16;

impl Scenario {
    /// The steps of the case `name` over `graph`. Default sizes are small.
    pub fn new(name: &str, sizes: &BTreeMap<String, u64>, graph: &Graph) -> Result<Scenario, String> {
        let mixed = mixed_sizes(sizes, graph)?;
        let largest_batch = bound(graph, "B").unwrap_or(1);
        let size = |name: &str, absent| mixed.iter().find(|(symbol, _)| symbol.name() == name).map_or(absent, |s| *s.1);
        let (tokens, sequences) = (size("T", 1), size("B", 1));
        // as the engine does: the smallest decode program that holds them
        let batch = sequences.next_power_of_two().min(largest_batch);
        let decode: SymbolValues = graph.symbols().iter().map(|decl| (decl.symbol.clone(), batch)).collect();

        let mut packer = Packer::new(name, graph, sequences)?;
        let mut steps = Vec::new();
        for index in 0..STEPS {
            let last = index + 1 == STEPS;
            let (kind, symbols) = match last {
                true => (ProgramKind::Decode, &decode),
                false => (ProgramKind::Mixed, &mixed),
            };
            let counts = match last {
                true => vec![1; sequences as usize],
                false => packer.chunks(tokens, index),
            };
            let padded = if last { batch } else { tokens };
            let packed = packer.pack(&counts, padded, if last { batch } else { sequences });
            let mut inputs = HashMap::new();
            for input in graph.inputs() {
                let value = packer.input(graph, *input, index, symbols, &packed)?;
                inputs.insert(graph.value_name(*input).to_owned(), value);
            }
            steps.push(StepValues { kind, symbols: symbols.clone(), inputs });
        }
        Ok(Scenario { steps, kv_blocks: packer.blocks })
    }
}

/// The largest value of a symbol.
fn bound(graph: &Graph, name: &str) -> Option<u64> {
    graph.symbols().iter().find(|decl| decl.symbol.name() == name).map(|decl| decl.max)
}

fn mixed_sizes(sizes: &BTreeMap<String, u64>, graph: &Graph) -> Result<SymbolValues, String> {
    let mut values = SymbolValues::new();
    for decl in graph.symbols() {
        let default = match decl.symbol.name() {
            "T" => 9,
            "B" | "R" => 2,
            _ => 3,
        };
        values.insert(decl.symbol.clone(), default.clamp(decl.min, decl.max));
    }
    for (name, size) in sizes {
        let decl = graph.symbols().iter().find(|decl| decl.symbol.name() == name);
        let decl = decl.filter(|decl| (decl.min..=decl.max).contains(size));
        let decl = decl.ok_or_else(|| format!("the graph declares no `{name}` that can be {size}"))?;
        values.insert(decl.symbol.clone(), *size);
    }
    Ok(values)
}

/// The step inputs that belong together.
struct Packed {
    positions: Vec<i32>,
    query_starts: Vec<i32>,
    block_table: Vec<i32>,
}

/// Sequences that grow from step to step.
struct Packer {
    name: String,
    random: Random,
    /// Tokens of each sequence in the cache.
    cached: Vec<u64>,
    /// Blocks of each sequence.
    tables: Vec<Vec<i32>>,
    /// Block size.
    capacity: u64,
    blocks: u32,
}

impl Packer {
    fn new(name: &str, graph: &Graph, sequences: u64) -> Result<Packer, String> {
        let table = graph.find("block_table").and_then(|table| graph.tensor(table)?.width());
        let blocks_per_sequence = table.unwrap_or(8);
        if sequences.checked_mul(blocks_per_sequence).is_none_or(|blocks| blocks > MOST_BLOCKS) {
            return Err(format!("{sequences} sequences of {blocks_per_sequence} blocks are too many to be tried"));
        }
        let block_tokens = graph.kv().iter().map(|group| u64::from(group.block_tokens)).min().unwrap_or(8);
        let mut random = Random::named(name);
        // Every block, also number 0, belongs to a sequence: writes of padding would be noticed.
        let mut blocks: Vec<i32> = (0..(sequences * blocks_per_sequence) as i32).collect();
        random.shuffle(&mut blocks);
        Ok(Packer {
            name: name.to_owned(),
            random,
            cached: vec![0; sequences as usize],
            tables: blocks.chunks(blocks_per_sequence.max(1) as usize).map(<[i32]>::to_vec).collect(),
            capacity: blocks_per_sequence * block_tokens,
            blocks: blocks.len() as u32,
        })
    }

    /// Tokens of each sequence in a mixed step of this many, padding included.
    fn chunks(&mut self, tokens: u64, step: u64) -> Vec<u64> {
        let sequences = self.cached.len() as u64;
        let padding = tokens.saturating_sub(sequences).min(1 + tokens / 8);
        let idle = |index: usize| step == 1 && sequences >= 3 && index == 1;
        // each later step needs room for a token
        let room = |cached: u64| self.capacity.saturating_sub(cached + STEPS - 1 - step);
        let mut room: Vec<u64> = self.cached.iter().map(|cached| room(*cached)).collect();
        let mut counts = vec![0; room.len()];
        for turn in 0..(tokens - padding) as usize {
            let open: Vec<usize> = (0..room.len()).filter(|index| room[*index] > 0 && !idle(*index)).collect();
            if open.is_empty() {
                break;
            }
            // one each, then random: chunks of different lengths
            let index = if turn < open.len() { turn } else { self.random.below(open.len() as u64) as usize };
            counts[open[index]] += 1;
            room[open[index]] -= 1;
        }
        counts
    }

    fn pack(&mut self, counts: &[u64], tokens: u64, batch: u64) -> Packed {
        let mut packed = Packed { positions: Vec::new(), query_starts: vec![0], block_table: Vec::new() };
        for (index, count) in counts.iter().enumerate() {
            let cached = self.cached[index];
            packed.positions.extend((cached..cached + count).map(|position| position as i32));
            packed.query_starts.push(packed.positions.len() as i32);
            packed.block_table.extend(&self.tables[index]);
            self.cached[index] += count;
        }
        while packed.positions.len() < tokens as usize {
            packed.positions.push(self.random.below(self.capacity.max(1)) as i32);
        }
        let end = packed.query_starts.last().copied().unwrap_or(0);
        packed.query_starts.resize(batch as usize + 1, end);
        let width = self.tables.first().map_or(0, Vec::len);
        packed.block_table.resize(batch as usize * width, 0);
        packed
    }

    /// The value of one input.
    fn input(
        &mut self,
        graph: &Graph,
        input: Value,
        step: u64,
        symbols: &SymbolValues,
        packed: &Packed,
    ) -> Result<HostTensor, String> {
        let name = graph.value_name(input);
        let ty = graph.tensor(input).ok_or_else(|| format!("input `%{name}` is an effect"))?;
        let sizes = |ty: &TensorType| {
            let sizes = ty.shape.iter().map(|dim: &Dim| dim.eval(symbols).map(|size| size as usize));
            sizes.collect::<Result<Vec<usize>, _>>().map_err(|error| error.to_string())
        };
        let shape = sizes(ty)?;
        let elements = shape.iter().product::<usize>();
        if ty.dtype != DType::I32 {
            let part = RandomPart::named(&format!("{}, step {step}, {name}", self.name), elements as u64, 0.0, 1.0);
            return Ok(HostTensor::f32(shape, (0..elements as u64).map(|index| part.value(index)).collect()));
        }
        let values = match name {
            "positions" => packed.positions.clone(),
            "query_starts" => packed.query_starts.clone(),
            "block_table" => packed.block_table.clone(),
            _ => {
                let mut limit = 8;
                for rows in indexed(graph, input) {
                    limit = limit.min(sizes(rows)?.first().copied().unwrap_or(1) as u64);
                }
                (0..elements).map(|_| self.random.below(limit.max(1)) as i32).collect()
            }
        };
        match values.len() == elements {
            true => Ok(HostTensor::i32(shape, values)),
            false => Err(format!("input `%{name}` has {elements} elements, a step brings {}", values.len())),
        }
    }
}

/// The tensors whose rows an input picks.
fn indexed(graph: &Graph, input: Value) -> Vec<&TensorType> {
    let users = graph.uses(input).into_iter().map(|user| user.op);
    let tables = users.filter_map(|id| match (graph.cast::<Embedding>(id), graph.cast::<GatherRows>(id)) {
        (Some(_), _) => Some(graph.operands(id)[1]),
        (_, Some(_)) => Some(graph.operands(id)[0]),
        _ => None,
    });
    tables.filter_map(|table| graph.tensor(table)).collect()
}

/// A symbol by name; `None` where that is no name of one.
pub(crate) fn symbol_value(symbols: &SymbolValues, name: &str) -> Option<u64> {
    symbols.get(&Symbol::new(name)?).copied()
}
