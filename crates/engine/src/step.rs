//! Packing sequences into the inputs of one step.

use plan::{DType, InputData, Plan, Port, Program, ProgramKind, Run, Symbol, SymbolDecl, SymbolValues, upper_bounds};

use crate::core::{Chunk, Core};

/// The inputs of one step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct StepInputs {
    pub program: usize,
    pub symbols: SymbolValues,
    pub tokens: Vec<i32>,
    /// Tokens that the step before chooses.
    pub forwarded: Vec<Run>,
    pub positions: Vec<i32>,
    pub query_starts: Vec<i32>,
    pub block_table: Vec<i32>,
    pub rows: Vec<i32>,
}

impl StepInputs {
    /// The inputs by their names.
    pub fn named(&self) -> [(&'static str, InputData<'_>); 5] {
        let tokens = match &self.forwarded[..] {
            [] => InputData::Values(&self.tokens),
            runs => InputData::Forwarded { values: &self.tokens, output: "next_tokens", runs },
        };
        [
            ("tokens", tokens),
            ("positions", InputData::Values(&self.positions)),
            ("query_starts", InputData::Values(&self.query_starts)),
            ("block_table", InputData::Values(&self.block_table)),
            ("rows", InputData::Values(&self.rows)),
        ]
    }

    fn clear(&mut self) {
        for values in
            [&mut self.tokens, &mut self.positions, &mut self.query_starts, &mut self.block_table, &mut self.rows]
        {
            values.clear();
        }
        self.forwarded.clear();
    }

    /// The token that comes next is what the step before chooses in a row.
    fn forward(&mut self, row: u32) {
        let input = self.tokens.len() as u32;
        match self.forwarded.last_mut() {
            Some(run) if run.input + run.len == input && run.output + run.len == row => run.len += 1,
            _ => self.forwarded.push(Run { input, output: row, len: 1 }),
        }
        self.tokens.push(0);
    }

    fn set(&mut self, symbol: &Symbol, size: usize) {
        match self.symbols.get_mut(symbol) {
            Some(value) => *value = size as u64,
            None => drop(self.symbols.insert(symbol.clone(), size as u64)),
        }
    }
}

/// Whether a step may be padded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Padding {
    /// A decode program is padded with tokens of no sequence.
    Decode,
    /// The mixed program, which takes any number of tokens.
    None,
}

/// Packs steps for the programs of a plan, about which it knows all that it needs.
#[derive(Debug)]
pub(crate) struct Packer {
    /// Batches of decode programs and their indices, the smallest first.
    decode: Vec<(usize, usize)>,
    /// Sizes of mixed programs, in the order of `symbols`, and their indices, the smallest first.
    mixed: Vec<([usize; 3], usize)>,
    blocks_per_sequence: usize,
    /// Of tokens, sequences and rows.
    symbols: [Symbol; 3],
}

impl Packer {
    /// For a plan whose programs accept such steps, or why they do not.
    pub fn new(plan: &Plan) -> Result<Packer, String> {
        check_ports(plan)?;
        let symbol = |name| Symbol::new(name).ok_or("it has no sizes");
        let of_kind = |kind| {
            let programs = plan.programs.iter().enumerate();
            programs.filter(move |(_, program)| program.kind == kind)
        };
        let sizes = |program: &Program| {
            let bounds = upper_bounds(&program.symbols);
            ["T", "B", "R"]
                .map(|name| Symbol::new(name).and_then(|symbol| bounds.get(&symbol).copied()).unwrap_or(0) as usize)
        };
        let mut decode: Vec<(usize, usize)> =
            of_kind(ProgramKind::Decode).map(|(index, program)| (sizes(program)[1], index)).collect();
        decode.sort_unstable();
        let mut mixed: Vec<([usize; 3], usize)> =
            of_kind(ProgramKind::Mixed).map(|(index, program)| (sizes(program), index)).collect();
        mixed.sort_unstable();
        Ok(Packer {
            decode,
            mixed,
            blocks_per_sequence: blocks_for(plan, plan.limits.max_seq_len as usize),
            symbols: [symbol("T")?, symbol("B")?, symbol("R")?],
        })
    }

    /// Packs chunks for the smallest program that holds them.
    pub fn pack(&self, core: &Core, chunks: &[Chunk], padding: Padding, inputs: &mut StepInputs) {
        inputs.clear();
        inputs.query_starts.push(0);
        for chunk in chunks {
            let Some(sequence) = core.sequence_of(chunk) else { continue };
            for position in chunk.start..chunk.start + chunk.tokens {
                match (sequence.tokens.get(position), chunk.chosen_by) {
                    (Some(token), _) => inputs.tokens.push(*token as i32),
                    (None, row) => inputs.forward(row.unwrap_or(0)),
                }
                inputs.positions.push(position as i32);
            }
            let end = inputs.tokens.len();
            inputs.query_starts.push(end as i32);
            inputs.rows.extend((end - chunk.rows..end).map(|row| row as i32));
            let filled = inputs.block_table.len() + self.blocks_per_sequence;
            inputs.block_table.extend(sequence.blocks.iter().map(|block| *block as i32));
            inputs.block_table.resize(filled, 0);
        }
        if inputs.rows.is_empty() {
            // a program computes at least one row; this one is not used
            inputs.rows.push(0);
        }
        let single = padding == Padding::Decode && chunks.iter().all(|chunk| chunk.tokens == 1 && chunk.rows == 1);
        let decode = self.decode.iter().find(|(batch, _)| single && *batch >= chunks.len());
        let sizes = match decode {
            Some(&(batch, program)) => {
                inputs.program = program;
                inputs.tokens.resize(batch, 0);
                inputs.positions.resize(batch, 0);
                inputs.query_starts.resize(batch + 1, chunks.len() as i32);
                inputs.block_table.resize(batch * self.blocks_per_sequence, 0);
                inputs.rows.clear();
                inputs.rows.extend(0..batch as i32);
                [batch; 3]
            }
            None => {
                let sizes = [inputs.tokens.len(), chunks.len(), inputs.rows.len()];
                let fits = |(room, _): &&([usize; 3], usize)| room.iter().zip(sizes).all(|(room, size)| *room >= size);
                // the largest has room for any step
                inputs.program = self.mixed.iter().find(fits).or(self.mixed.last()).map_or(0, |(_, index)| *index);
                sizes
            }
        };
        for (symbol, size) in self.symbols.iter().zip(sizes) {
            inputs.set(symbol, size);
        }
    }
}

/// Blocks that hold this many tokens of a sequence.
pub(crate) fn blocks_for(plan: &Plan, tokens: usize) -> usize {
    let block_tokens = plan.kv.first().map_or(1, |group| group.block_tokens as usize);
    tokens.div_ceil(block_tokens)
}

/// Whether every program accepts the inputs of [`Packer::pack`], at their sizes: a step then needs no more memory than the
/// arena, whatever the limits of a plan say.
fn check_ports(plan: &Plan) -> Result<(), String> {
    if plan.kv.windows(2).any(|pair| pair[0].block_tokens != pair[1].block_tokens) {
        return Err("its KV groups have different block sizes".to_owned());
    }
    let blocks = blocks_for(plan, plan.limits.max_seq_len as usize) as u64;
    let vocab = u64::from(plan.model.vocab_size);
    let limits = &plan.limits;
    let wanted = [limits.max_num_tokens, limits.max_batch_size, limits.max_logit_rows].map(u64::from);
    let mut holds_all = false;
    for program in &plan.programs {
        let bounds = upper_bounds(&program.symbols);
        let size = |name| Symbol::new(name).and_then(|symbol| bounds.get(&symbol).copied());
        let (Some(tokens), Some(sequences), Some(rows)) = (size("T"), size("B"), size("R")) else {
            return Err(format!("program `{}` does not declare the symbols T, B and R", program.name));
        };
        let room = [tokens, sequences, rows].into_iter().zip(wanted).all(|(room, wanted)| room >= wanted);
        holds_all |= program.kind == ProgramKind::Mixed && room;
        let single = |decl: &SymbolDecl| decl.min <= 1;
        if program.kind == ProgramKind::Mixed && !program.symbols.iter().all(single) {
            return Err(format!("program `{}` must accept one token of one sequence", program.name));
        }
        let fixed = program.symbols.iter().all(|decl| decl.min == decl.max) && tokens == sequences && rows == sequences;
        if program.kind == ProgramKind::Decode && !fixed {
            return Err(format!("program `{}` must have exactly one token per sequence", program.name));
        }
        let inputs: [(&str, &[u64]); 5] = [
            ("tokens", &[tokens]),
            ("positions", &[tokens]),
            ("query_starts", &[sequences + 1]),
            ("block_table", &[sequences, blocks]),
            ("rows", &[rows]),
        ];
        for (name, shape) in inputs {
            check_port(program, &program.inputs, name, shape, |dtype| dtype == DType::I32)?;
        }
        check_port(program, &program.outputs, "next_tokens", &[rows], |dtype| dtype == DType::I32)?;
        check_port(program, &program.outputs, "logits", &[rows, vocab], DType::is_float)?;
    }
    match holds_all {
        true => Ok(()),
        false => Err("no mixed program is as large as the plan's limits".to_owned()),
    }
}

/// Whether a port exists, with this shape in the largest step.
fn check_port(
    program: &Program,
    ports: &[Port],
    name: &str,
    shape: &[u64],
    dtype: fn(DType) -> bool,
) -> Result<(), String> {
    let bounds = upper_bounds(&program.symbols);
    let port = ports.iter().find(|port| port.name == name);
    let buffer = port.and_then(|port| program.buffers.get(port.buffer as usize)).filter(|buffer| dtype(buffer.dtype));
    let found = buffer.map(|buffer| buffer.shape.iter().map(|dim| dim.eval(&bounds).ok()).collect::<Vec<_>>());
    match found.is_some_and(|found| found.iter().copied().eq(shape.iter().copied().map(Some))) {
        true => Ok(()),
        false => Err(format!("program `{}` has no port `{name}` of shape {shape:?}", program.name)),
    }
}
