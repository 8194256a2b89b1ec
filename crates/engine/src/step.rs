//! Packing sequences into the inputs of one step.

use plan::{
    Bindings, DType, InputData, Plan, Port, Program, ProgramKind, Symbol, SymbolDecl, SymbolValues, upper_bounds,
};

use crate::core::{Chunk, Core};

/// The inputs of one step.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// The bindings for a session; with `feedback` the tokens are those that the previous step chose.
    pub fn bindings(&self, feedback: bool) -> Bindings<'_> {
        let tokens = match feedback {
            true => InputData::Previous("next_tokens"),
            false => InputData::Values(&self.tokens),
        };
        let inputs = vec![
            ("tokens", tokens),
            ("positions", InputData::Values(&self.positions)),
            ("query_starts", InputData::Values(&self.query_starts)),
            ("block_table", InputData::Values(&self.block_table)),
            ("rows", InputData::Values(&self.rows)),
        ];
        Bindings { symbols: self.symbols.clone(), inputs }
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

/// Packs chunks for the smallest program that holds them.
pub(crate) fn pack(plan: &Plan, core: &Core, chunks: &[Chunk], padding: Padding) -> StepInputs {
    let blocks_per_sequence = blocks_for(plan, plan.limits.max_seq_len as usize);
    let mut inputs = StepInputs {
        program: 0,
        symbols: SymbolValues::new(),
        tokens: Vec::new(),
        positions: Vec::new(),
        query_starts: vec![0],
        block_table: Vec::new(),
        rows: Vec::new(),
    };
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
        let mut table: Vec<i32> = sequence.blocks.iter().map(|block| *block as i32).collect();
        table.resize(blocks_per_sequence, 0);
        inputs.block_table.extend(table);
    }
    if inputs.rows.is_empty() {
        // a program computes at least one row; this one is not used
        inputs.rows.push(0);
    }
    let single = padding == Padding::Decode && chunks.iter().all(|chunk| chunk.tokens == 1 && chunk.rows == 1);
    let decode = if single { smallest_decode(plan, chunks.len()) } else { None };
    let sizes = match decode {
        Some((program, batch)) => {
            inputs.program = program;
            inputs.tokens.resize(batch, 0);
            inputs.positions.resize(batch, 0);
            inputs.query_starts.resize(batch + 1, chunks.len() as i32);
            inputs.block_table.resize(batch * blocks_per_sequence, 0);
            inputs.rows = (0..batch as i32).collect();
            [batch; 3]
        }
        None => {
            let mixed = plan.programs.iter().position(|program| program.kind == ProgramKind::Mixed);
            inputs.program = mixed.unwrap_or(plan.programs.len());
            [inputs.tokens.len(), chunks.len(), inputs.rows.len()]
        }
    };
    for (name, size) in ["T", "B", "R"].into_iter().zip(sizes) {
        inputs.symbols.extend(Symbol::new(name).map(|symbol| (symbol, size as u64)));
    }
    inputs
}

/// Blocks that hold this many tokens of a sequence.
pub(crate) fn blocks_for(plan: &Plan, tokens: usize) -> usize {
    let block_tokens = plan.kv.first().map_or(1, |group| group.block_tokens as usize);
    tokens.div_ceil(block_tokens)
}

/// Whether every program accepts the inputs of [`pack`], at their sizes: a step then needs no more memory than the
/// arena, whatever the limits of a plan say.
pub(crate) fn check_ports(plan: &Plan) -> Result<(), String> {
    if !plan.programs.iter().any(|program| program.kind == ProgramKind::Mixed) {
        return Err("it has no mixed program".to_owned());
    }
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

/// The decode program of the smallest batch that holds this many sequences, and its batch.
fn smallest_decode(plan: &Plan, sequences: usize) -> Option<(usize, usize)> {
    let decode = plan.programs.iter().enumerate().filter(|(_, program)| program.kind == ProgramKind::Decode);
    let batches = decode.map(|(index, program)| {
        let batch = program.symbols.iter().find(|decl| decl.symbol.name() == "B").map_or(0, |decl| decl.max);
        (index, batch as usize)
    });
    batches.filter(|(_, batch)| *batch >= sequences).min_by_key(|(_, batch)| *batch)
}
