//! The plan as text, for people and snapshots.

use std::fmt::Write;

use crate::{Arg, Dim, Layout, Plan, Program, Scalar, Step, WeightData};

/// The whole plan as text. Equal plans give equal text.
pub fn dump(plan: &Plan) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write_plan(&mut out, plan);
    out
}

fn write_plan(out: &mut String, plan: &Plan) -> std::fmt::Result {
    let (model, limits) = (&plan.model, &plan.limits);
    writeln!(out, "plan for {}: {}, {} parameters", plan.target, model.architecture, model.parameters)?;
    write!(out, "vocab_size {}, eos {:?}", model.vocab_size, model.eos)?;
    writeln!(out, ", bos {}", model.bos.map_or("none".to_owned(), |id| id.to_string()))?;
    writeln!(
        out,
        "limits: max_batch_size {}, max_input_len {}, max_seq_len {}, max_num_tokens {}, max_logit_rows {}",
        limits.max_batch_size, limits.max_input_len, limits.max_seq_len, limits.max_num_tokens, limits.max_logit_rows
    )?;
    for (index, group) in plan.kv.iter().enumerate() {
        writeln!(
            out,
            "kv {index}: {} {} layers x {} heads x {}, {} blocks of {} tokens, {} bytes",
            group.dtype,
            group.layers,
            group.kv_heads,
            group.head_dim,
            group.blocks,
            group.block_tokens,
            group.pool_bytes()
        )?;
    }
    writeln!(out, "\nweights")?;
    for (index, weight) in plan.weights.iter().enumerate() {
        let place = match &weight.data {
            WeightData::Stored { offset } => format!("at {offset}"),
            WeightData::Random(parts) => format!("random, {} parts", parts.len()),
        };
        let layout = match weight.layout {
            Layout::RowMajor => String::new(),
            layout => format!("{} ", layout.name()),
        };
        writeln!(out, "  w{index} {} : {}{:?} {layout}{place}", weight.name, weight.dtype, weight.shape)?;
    }
    writeln!(out, "\nkernels")?;
    for (index, kernel) in plan.kernels.iter().enumerate() {
        let params: Vec<String> =
            kernel.params.iter().map(|param| format!("{} = {}", param.name, scalar(&param.value))).collect();
        write!(out, "  k{index} {} {{{}}}", kernel.name, params.join(", "))?;
        if let Some(code) = &kernel.code {
            write!(out, " {} threads, {} bytes shared", code.threads, code.shared_bytes)?;
        }
        writeln!(out)?;
    }
    for program in &plan.programs {
        write_program(out, plan, program)?;
    }
    Ok(())
}

fn write_program(out: &mut String, plan: &Plan, program: &Program) -> std::fmt::Result {
    let bounds: Vec<String> = program
        .symbols
        .iter()
        .map(|decl| match decl.min == decl.max {
            true => format!("{} = {}", decl.symbol, decl.max),
            false => format!("{} in {}..{}", decl.symbol, decl.min, decl.max),
        })
        .collect();
    writeln!(out, "\nprogram {} <{}>, arena {} bytes", program.name, bounds.join(", "), program.arena_bytes)?;
    for port in &program.inputs {
        writeln!(out, "  in  {} = b{}", port.name, port.buffer)?;
    }
    for port in &program.outputs {
        writeln!(out, "  out {} = b{}", port.name, port.buffer)?;
    }
    for (index, buffer) in program.buffers.iter().enumerate() {
        let (first, last) = buffer.live;
        writeln!(
            out,
            "  b{index} {} : {}{} at {} ({} bytes, live {first}..{last})",
            buffer.name,
            buffer.dtype,
            shape(&buffer.shape),
            buffer.offset,
            buffer.bytes
        )?;
    }
    for (index, Step::Launch(launch)) in program.steps.iter().enumerate() {
        let kernel = plan.kernels.get(launch.kernel as usize).map_or("?", |kernel| &kernel.name);
        let list = |args: &[Arg]| args.iter().map(arg).collect::<Vec<_>>().join(", ");
        let maps = launch.maps.iter().map(|map| format!("map {}x{} of {}", map.box_rows, map.box_cols, map.input));
        let more: String =
            maps.chain(launch.scalars.iter().map(Dim::to_string)).map(|item| format!("; {item}")).collect();
        writeln!(
            out,
            "  {index}: {} = k{} {kernel}({}{more}) grid {} // {}",
            list(&launch.outputs),
            launch.kernel,
            list(&launch.inputs),
            launch.grid,
            launch.site
        )?;
    }
    Ok(())
}

fn arg(arg: &Arg) -> String {
    match arg {
        Arg::Buffer(index) => format!("b{index}"),
        Arg::Weight(index) => format!("w{index}"),
        Arg::Kv { group, layer } => format!("kv{group}.{layer}"),
    }
}

fn shape(shape: &[Dim]) -> String {
    format!("[{}]", shape.iter().map(Dim::to_string).collect::<Vec<_>>().join(", "))
}

fn scalar(value: &Scalar) -> String {
    match value {
        Scalar::Int(value) => value.to_string(),
        Scalar::Float(value) => float_text(*value),
        Scalar::Text(value) => value.clone(),
    }
}

/// The shortest text of a number, which was often an f32 before.
pub fn float_text(value: f64) -> String {
    let short = value as f32;
    if f64::from(short) == value { format!("{short:?}") } else { format!("{value:?}") }
}
