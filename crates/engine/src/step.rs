//! Packing sequences into the inputs of one step.

use plan::{DType, InputData, Plan, Port, Program, ProgramKind, Symbol, SymbolDecl, SymbolValues, upper_bounds};

use crate::core::{Chunk, Core};

/// The inputs of one step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct StepInputs {
    pub program: usize,
    pub symbols: SymbolValues,
    pub tokens: Vec<i32>,
    pub positions: Vec<i32>,
    pub query_starts: Vec<i32>,
    pub block_table: Vec<i32>,
    pub rows: Vec<i32>,
}

impl StepInputs {
    /// The inputs by their names; with `feedback` the tokens are those that the previous step chose.
    pub fn named(&self, feedback: bool) -> [(&'static str, InputData<'_>); 5] {
        let tokens = match feedback {
            true => InputData::Previous("next_tokens"),
            false => InputData::Values(&self.tokens),
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
    mixed: usize,
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
        let batch = |program: &Program| {
            let batch = program.symbols.iter().find(|decl| decl.symbol.name() == "B");
            batch.map_or(0, |decl| decl.max as usize)
        };
        let mut decode: Vec<(usize, usize)> =
            of_kind(ProgramKind::Decode).map(|(index, program)| (batch(program), index)).collect();
        decode.sort_unstable();
        Ok(Packer {
            decode,
            mixed: of_kind(ProgramKind::Mixed).next().map(|(index, _)| index).ok_or("it has no mixed program")?,
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
                // a token that is not known yet comes from the previous step
                inputs.tokens.push(sequence.tokens.get(position).map_or(0, |token| *token as i32));
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
                inputs.program = self.mixed;
                [inputs.tokens.len(), chunks.len(), inputs.rows.len()]
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
    for program in &plan.programs {
        let bounds = upper_bounds(&program.symbols);
        let size = |name| Symbol::new(name).and_then(|symbol| bounds.get(&symbol).copied());
        let (Some(tokens), Some(sequences), Some(rows)) = (size("T"), size("B"), size("R")) else {
            return Err(format!("program `{}` does not declare the symbols T, B and R", program.name));
        };
        let limits = &plan.limits;
        let wanted = [limits.max_num_tokens, limits.max_batch_size, limits.max_logit_rows].map(u64::from);
        let room = [tokens, sequences, rows].into_iter().zip(wanted).all(|(room, wanted)| room >= wanted);
        if program.kind == ProgramKind::Mixed && !room {
            return Err(format!("program `{}` is too small for the plan's limits", program.name));
        }
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
    Ok(())
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
