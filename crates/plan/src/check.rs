//! Whether a plan makes sense: every index, offset and size is checked before an executor uses one.

use std::collections::BTreeSet;

use crate::cubin;
use crate::{
    Arg, Buffer, DType, Dim, Launch, Layout, Plan, Program, Step, SymbolValues, TensorMap, Tiles, WEIGHT_ALIGN,
    WeightData, full_step, upper_bounds,
};

/// Sizes above this are refused: they cannot be meant, and they keep later sums from overflowing.
const MAX_BYTES: u64 = 1 << 48;
/// Threads of a block, and bytes of its shared memory, that any GPU so far has at most.
const MAX_THREADS: u32 = 1024;
const MAX_SHARED_BYTES: u32 = 256 << 10;

/// Checks a plan whose weight section has `weight_bytes` bytes. Returns all problems.
pub fn check(plan: &Plan, weight_bytes: u64) -> Result<(), Vec<String>> {
    let mut problems = Vec::new();
    for weight in &plan.weights {
        let name = &weight.name;
        let Some(bytes) = weight.bytes().filter(|bytes| (1..=MAX_BYTES).contains(bytes)) else {
            problems.push(format!("weight `{name}` has an impossible size"));
            continue;
        };
        match &weight.data {
            WeightData::Stored { offset } => {
                let inside = offset.checked_add(bytes).is_some_and(|end| end <= weight_bytes);
                if !inside || offset % WEIGHT_ALIGN != 0 {
                    problems.push(format!("weight `{name}` lies outside the weight section"));
                }
            }
            WeightData::Random(parts) => {
                let elements = parts.iter().try_fold(0u64, |sum, part| sum.checked_add(part.elements));
                let random = weight.dtype.is_float() || weight.dtype.is_code();
                // two codes are written at once where they share a byte
                let split = weight.layout == Layout::Packed && parts.iter().any(|part| part.elements % 2 != 0);
                if elements.is_none() || elements != weight.elements() || !random || split {
                    problems.push(format!("the random parts of weight `{name}` do not add up to its shape"));
                }
            }
        }
    }
    for (index, group) in plan.kv.iter().enumerate() {
        let sizes = [group.layers, group.kv_heads, group.head_dim, group.block_tokens, group.blocks];
        let product = sizes.iter().try_fold(8u64, |bytes, size| bytes.checked_mul(u64::from(*size)));
        let storable = group.dtype.is_float() || matches!(group.dtype, DType::I8 | DType::F8E4M3);
        if sizes.contains(&0) || product.is_none_or(|bytes| bytes > MAX_BYTES) || !storable {
            problems.push(format!("KV group {index} has an impossible size or dtype"));
        }
    }
    check_code(plan, &mut problems);
    let limits = &plan.limits;
    let sizes = [limits.max_batch_size, limits.max_input_len, limits.max_seq_len, limits.max_num_tokens];
    if sizes.contains(&0) || limits.max_logit_rows == 0 || plan.world_size != 1 {
        problems.push("a limit is zero, or the plan wants more than one device".to_owned());
    }
    for program in &plan.programs {
        let report = |problem: String| problems.push(format!("program `{}`: {problem}", program.name));
        check_program(plan, program, report);
    }
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

/// Plans for GPUs bring the code of their kernels, others none.
fn check_code(plan: &Plan, problems: &mut Vec<String>) {
    let on_gpu = plan.target.starts_with("sm_");
    for kernel in &plan.kernels {
        let fits = match &kernel.code {
            None => !on_gpu,
            Some(code) => {
                let block = (1..=MAX_THREADS).contains(&code.threads) && code.shared_bytes <= MAX_SHARED_BYTES;
                on_gpu && block
            }
        };
        if !fits {
            problems.push(format!("kernel `{}` has no code for the target, or an impossible block", kernel.name));
        }
        if let Some(Err(reason)) = kernel.code.as_ref().map(|code| cubin::check(&code.cubin)) {
            problems.push(format!("the machine code of kernel `{}` is damaged: {reason}", kernel.name));
        }
    }
}

/// Tensor maps are in boxes of 128 bytes a row, over buffers of elements of 16 or 8 bits whose rows are whole 16-byte
/// chunks, or over tiled weights in boxes of whole strips.
fn check_map(plan: &Plan, program: &Program, launch: &Launch, map: TensorMap) -> bool {
    let fits = |dtype| Tiles::cols_of(dtype) == Some(map.box_cols.into());
    if !(1..=256).contains(&map.box_rows) {
        return false;
    }
    match launch.inputs.get(map.input as usize) {
        Some(Arg::Buffer(index)) => {
            let Some(buffer) = program.buffers.get(*index as usize) else { return false };
            let cols = match &buffer.shape[..] {
                [_, cols] => cols.as_const(),
                _ => None,
            };
            let row_bytes = cols.and_then(|cols| cols.checked_mul(buffer.dtype.bytes()));
            let chunks = row_bytes.is_some_and(|bytes| bytes > 0 && bytes.is_multiple_of(Tiles::CHUNK_BYTES));
            // 4-bit codes lie packed nowhere but in weights
            buffer.dtype != DType::I4 && fits(buffer.dtype) && chunks
        }
        Some(Arg::Weight(index)) => {
            let Some(weight) = plan.weights.get(*index as usize) else { return false };
            let tiled = matches!(weight.layout, Layout::Tiled | Layout::TiledHalves);
            tiled && fits(weight.dtype) && u64::from(map.box_rows).is_multiple_of(Tiles::ROWS)
        }
        _ => false,
    }
}

fn check_program(plan: &Plan, program: &Program, mut report: impl FnMut(String)) {
    if program.symbols.iter().any(|decl| decl.min > decl.max || decl.max > MAX_BYTES) {
        report("a symbol has impossible bounds".to_owned());
        return;
    }
    let values = upper_bounds(&program.symbols);
    if values.len() != program.symbols.len() {
        report("a symbol is declared twice".to_owned());
    }
    if program.arena_bytes > MAX_BYTES {
        report("the arena is too large".to_owned());
    }
    for buffer in &program.buffers {
        // one without elements could have any number of rows
        let fits = buffer_bytes(buffer, &values).is_some_and(|bytes| (1..=buffer.bytes).contains(&bytes));
        let inside = buffer.offset.checked_add(buffer.bytes).is_some_and(|end| end <= program.arena_bytes);
        if !fits || !inside || buffer.offset % WEIGHT_ALIGN != 0 {
            report(format!("buffer `{}` lies outside the arena", buffer.name));
        }
    }
    check_lifetimes(program, &mut report);
    check_writes(program, &mut report);
    for port in program.inputs.iter().chain(&program.outputs) {
        if port.buffer as usize >= program.buffers.len() {
            report(format!("port `{}` names no buffer", port.name));
        }
    }
    let longest = full_step(program, u64::from(plan.limits.max_seq_len));
    for Step::Launch(launch) in &program.steps {
        if launch.ir.len() > Launch::MAX_IR_BYTES || launch.ir.contains(char::is_control) {
            report(format!("the op of `{}` is no line of text", launch.site));
        }
        if launch.work.eval(&longest).is_err() {
            report(format!("the work of `{}` has no value", launch.site));
        }
        if launch.kernel as usize >= plan.kernels.len() {
            report(format!("`{}` names no kernel", launch.site));
        }
        let is_i32 = |scalar: &Dim| scalar.eval(&values).is_ok_and(|value| i32::try_from(value).is_ok());
        if !is_i32(&launch.grid) {
            report(format!("the grid of `{}` has no value, or is too large", launch.site));
        }
        if !launch.scalars.iter().all(is_i32) {
            report(format!("a size of `{}` has no value", launch.site));
        }
        if !launch.maps.iter().all(|map| check_map(plan, program, launch, *map)) {
            report(format!("a tensor map of `{}` has an impossible shape", launch.site));
        }
        for arg in launch.inputs.iter().chain(&launch.outputs) {
            let known = match *arg {
                Arg::Buffer(index) => (index as usize) < program.buffers.len(),
                Arg::Weight(index) => (index as usize) < plan.weights.len(),
                Arg::Kv { group, layer } => plan.kv.get(group as usize).is_some_and(|group| layer < group.layers),
            };
            if !known {
                report(format!("an argument of `{}` names nothing", launch.site));
            }
        }
        if launch.outputs.iter().any(|arg| matches!(arg, Arg::Weight(_))) {
            report(format!("`{}` writes a weight", launch.site));
        }
    }
}

/// Buffers that hold values at the same time must not share bytes, and launches must not use others: kernels rely on
/// their inputs and outputs being apart.
fn check_lifetimes(program: &Program, report: &mut impl FnMut(String)) {
    let mut order: Vec<&Buffer> = program.buffers.iter().collect();
    order.sort_by_key(|buffer| buffer.offset);
    for (index, buffer) in order.iter().enumerate() {
        let end = buffer.offset.saturating_add(buffer.bytes);
        for other in order[index + 1..].iter().take_while(|other| other.offset < end) {
            if buffer.live.0 <= other.live.1 && other.live.0 <= buffer.live.1 {
                report(format!("buffers `{}` and `{}` share bytes", buffer.name, other.name));
            }
        }
    }
    for (step, Step::Launch(launch)) in program.steps.iter().enumerate() {
        for arg in launch.inputs.iter().chain(&launch.outputs) {
            let Arg::Buffer(index) = arg else { continue };
            let Some(buffer) = program.buffers.get(*index as usize) else { continue };
            if (step as u64) < u64::from(buffer.live.0) || step as u64 > u64::from(buffer.live.1) {
                report(format!("`{}` uses buffer `{}` outside of its lifetime", launch.site, buffer.name));
            }
        }
        let twice = |(index, out): (usize, &Arg)| launch.outputs[..index].contains(out);
        if launch.outputs.iter().enumerate().any(twice) {
            report(format!("`{}` writes an output twice", launch.site));
        }
        if launch.outputs.iter().any(|out| launch.inputs.contains(out) && matches!(out, Arg::Buffer(_))) {
            report(format!("`{}` writes what it reads", launch.site));
        }
    }
}

/// What is read was written before, by the caller or by a launch.
fn check_writes(program: &Program, report: &mut impl FnMut(String)) {
    let mut written: BTreeSet<u32> = program.inputs.iter().map(|port| port.buffer).collect();
    let name = |index: u32| program.buffers.get(index as usize).map_or("?", |buffer| buffer.name.as_str());
    let buffers = |args: &[Arg]| {
        let index = |arg: &Arg| if let Arg::Buffer(index) = arg { Some(*index) } else { None };
        args.iter().filter_map(index).collect::<Vec<_>>()
    };
    for Step::Launch(launch) in &program.steps {
        for index in buffers(&launch.inputs).into_iter().filter(|index| !written.contains(index)) {
            report(format!("`{}` reads buffer `{}`, which nothing has written", launch.site, name(index)));
        }
        written.extend(buffers(&launch.outputs));
    }
    for port in program.outputs.iter().filter(|port| !written.contains(&port.buffer)) {
        report(format!("nothing writes output `{}`", port.name));
    }
}

/// Bytes of a buffer under `values`, `None` where they have no value or overflow.
pub(crate) fn buffer_bytes(buffer: &Buffer, values: &SymbolValues) -> Option<u64> {
    buffer.shape.iter().try_fold(buffer.dtype.bytes(), |bytes, dim| bytes.checked_mul(dim.eval(values).ok()?))
}
