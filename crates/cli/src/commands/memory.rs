//! `smelt inspect --memory`: lifetimes of the buffers in a program's arena.

use std::collections::HashMap;
use std::fmt::Write;

use serde::Serialize;
use smelt::{Plan, Program, Step};

use super::inspect::view::ranges;
use crate::failure::Failure;
use crate::output::bytes;

/// The arena of a program. Sizes and offsets are in bytes, at the largest sizes of a step.
#[derive(Debug, Serialize)]
pub struct Memory {
    schema_version: u32,
    program: String,
    arena_bytes: u64,
    /// The most bytes that are live in one step: a lower bound for any placement.
    live_bytes: u64,
    /// That step, and the value that it computes.
    fullest_step: u32,
    fullest_site: String,
    /// In order of offset.
    buffers: Vec<Placed>,
}

/// A buffer and its placement.
#[derive(Debug, Serialize)]
struct Placed {
    name: String,
    dtype: String,
    shape: Vec<String>,
    offset: u64,
    bytes: u64,
    first_step: u32,
    last_step: u32,
}

impl Memory {
    /// The arena of the program of this name, or the largest arena.
    pub fn of(plan: &Plan, name: Option<&str>) -> Result<Memory, Failure> {
        let program = match name {
            Some(name) => program(plan, name)?,
            None => plan
                .programs
                .iter()
                .max_by_key(|program| program.arena_bytes)
                .ok_or_else(|| Failure::bad_input("the plan has no programs".to_owned()))?,
        };
        Ok(Memory::of_program(program))
    }

    /// The arena of a program.
    pub fn of_program(program: &Program) -> Memory {
        let fullest = program.fullest_step();
        let site = program.steps.get(fullest.step as usize).map(|Step::Launch(launch)| launch.site.clone());
        let mut buffers: Vec<Placed> = program.buffers.iter().map(placed).collect();
        buffers.sort_by_key(|buffer| (buffer.offset, buffer.first_step));
        Memory {
            schema_version: 1,
            program: program.name.clone(),
            arena_bytes: program.arena_bytes,
            live_bytes: fullest.bytes,
            fullest_step: fullest.step,
            fullest_site: site.unwrap_or_default(),
            buffers,
        }
    }

    /// The size, and the lower bound for any placement.
    pub fn headline(&self) -> String {
        format!(
            "arena {}, at least {} (step {}, `{}`)",
            bytes(self.arena_bytes),
            bytes(self.live_bytes),
            self.fullest_step,
            self.fullest_site
        )
    }

    fn is_fullest(&self, buffer: &Placed) -> bool {
        (buffer.first_step..=buffer.last_step).contains(&self.fullest_step)
    }

    /// The buffers, those of several layers at one place as one: the first, and its layers.
    fn folded(&self) -> Vec<(&Placed, Vec<u32>)> {
        let mut rows: Vec<(&Placed, Vec<u32>)> = Vec::new();
        let mut known: HashMap<_, usize> = HashMap::new();
        for buffer in &self.buffers {
            let Some((number, rest)) = layer(&buffer.name) else {
                rows.push((buffer, Vec::new()));
                continue;
            };
            let place = (buffer.offset, buffer.bytes, self.is_fullest(buffer));
            let row = *known.entry((rest, &buffer.dtype, &buffer.shape, place)).or_insert(rows.len());
            match rows.get_mut(row) {
                Some((_, layers)) => layers.push(number),
                None => rows.push((buffer, vec![number])),
            }
        }
        rows
    }

    /// The arena as text.
    pub fn table(&self) -> String {
        let mut text = format!("{}: {}\n", self.program, self.headline());
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{:>12} {:>12} {:>11}  value", "offset", "bytes", "steps");
        for (buffer, layers) in self.folded() {
            let steps = format!("{}..{}", buffer.first_step, buffer.last_step);
            let mark = if self.is_fullest(buffer) { "  *" } else { "" };
            let (dtype, shape) = (&buffer.dtype, buffer.shape.join(", "));
            let name = match (layers.len() > 1).then(|| layer(&buffer.name)).flatten() {
                Some((_, rest)) => format!("layers.{{{}}}.{rest}", ranges(&layers)),
                None => buffer.name.clone(),
            };
            let _ = writeln!(
                text,
                "{:>12} {:>12} {steps:>11}  {name} : {dtype}[{shape}]{mark}",
                buffer.offset, buffer.bytes
            );
        }
        text + "* live at the memory peak; offsets and sizes in bytes; equal layers in one row, with the steps of the first\n"
    }
}

/// The program of this name.
pub fn program<'a>(plan: &'a Plan, name: &str) -> Result<&'a Program, Failure> {
    plan.programs.iter().find(|program| program.name == name).ok_or_else(|| {
        let known: Vec<&str> = plan.programs.iter().map(|program| program.name.as_str()).collect();
        Failure::usage(format!("the plan has no program `{name}`, it has: {}", known.join(", ")))
    })
}

/// `3` and `mlp.down` of `layers.3.mlp.down`.
fn layer(name: &str) -> Option<(u32, &str)> {
    let (number, rest) = name.strip_prefix("layers.")?.split_once('.')?;
    Some((number.parse().ok()?, rest))
}

fn placed(buffer: &smelt::Buffer) -> Placed {
    Placed {
        name: buffer.name.clone(),
        dtype: buffer.dtype.to_string(),
        shape: buffer.shape.iter().map(ToString::to_string).collect(),
        offset: buffer.offset,
        bytes: buffer.bytes,
        first_step: buffer.live.0,
        last_step: buffer.live.1,
    }
}
