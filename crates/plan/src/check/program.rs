//! Validation of a program: its buffers, its ports, and what its launches read and write.

use std::collections::BTreeSet;
use std::fmt::Display;

use super::{MAX_BYTES, MAX_RANK, buffer_bytes};
use crate::{Arg, DType, Dim, Launch, Layout, Plan, Port, Program, Step, SymbolValues, TensorMap, Tiles, WEIGHT_ALIGN};
use crate::{full_step, upper_bounds};

/// Maximum number of arguments, tensor maps and sizes of a launch, each: more than kernel parameters can hold.
const MAX_ARGS: usize = 256;
/// Elements along an axis of a tensor map, and bytes from one row to the next. (CUDA driver API,
/// `cuTensorMapEncodeTiled`.)
const MAX_MAP_SIZE: u64 = 1 << 32;
const MAX_MAP_STRIDE: u64 = 1 << 40;

/// A program with derived values.
struct Checked<'a> {
    plan: &'a Plan,
    program: &'a Program,
    /// The symbols at their largest.
    values: SymbolValues,
    /// Elements of each buffer at its largest; 0 if it was refused.
    elements: Vec<u64>,
    /// Buffers that the caller fills.
    filled: BTreeSet<u32>,
}

pub(super) fn check_program(plan: &Plan, program: &Program, report: &mut dyn FnMut(&dyn Display)) {
    if program.symbols.iter().any(|decl| decl.min > decl.max || decl.max > MAX_BYTES) {
        report(&"a symbol has impossible bounds");
        return;
    }
    let values = upper_bounds(&program.symbols);
    if values.len() != program.symbols.len() {
        report(&"a symbol is declared twice");
    }
    if program.arena_bytes > MAX_BYTES {
        report(&"the arena is too large");
    }
    let mut elements = Vec::with_capacity(program.buffers.len());
    for buffer in &program.buffers {
        // a buffer without elements could have any number of rows
        let bytes = buffer_bytes(buffer, &values).filter(|bytes| (1..=buffer.bytes).contains(bytes));
        let inside = buffer.offset.checked_add(buffer.bytes).is_some_and(|end| end <= program.arena_bytes);
        if bytes.is_none() || !inside || buffer.offset % WEIGHT_ALIGN != 0 || buffer.shape.len() > MAX_RANK {
            report(&format_args!("buffer `{}` is outside the arena", buffer.name));
        }
        // outputs live until the last step has ended
        if buffer.live.0 > buffer.live.1 || buffer.live.1 as usize > program.steps.len() {
            report(&format_args!("buffer `{}` has an impossible lifetime", buffer.name));
        }
        elements.push(bytes.unwrap_or(0) / buffer.dtype.bytes());
    }
    for (a, b) in program.clashes() {
        report(&format_args!("buffers `{}` and `{}` overlap", a.name, b.name));
    }
    check_ports(program, report);
    check_writes(program, report);
    let filled = program.inputs.iter().map(|port| port.buffer).collect();
    let checked = Checked { plan, program, values, elements, filled };
    let longest = full_step(program, u64::from(plan.limits.max_seq_len));
    for (step, Step::Launch(launch)) in program.steps.iter().enumerate() {
        if launch.ir.len() > Launch::MAX_IR_BYTES || launch.ir.contains(char::is_control) {
            report(&format_args!("the op of `{}` is not one line of text", launch.site));
        }
        if launch.work.eval(&longest).is_err() {
            report(&format_args!("the work of `{}` has no value", launch.site));
        }
        let most = [launch.inputs.len() + launch.outputs.len(), launch.maps.len(), launch.scalars.len()];
        match most.into_iter().all(|count| count <= MAX_ARGS) {
            true => checked.launch(launch, step, report),
            false => report(&format_args!("`{}` has more than {MAX_ARGS} arguments", launch.site)),
        }
    }
}

/// Each input has a buffer and a name of its own, each output a name.
fn check_ports(program: &Program, report: &mut dyn FnMut(&dyn Display)) {
    for port in program.inputs.iter().chain(&program.outputs) {
        if port.buffer as usize >= program.buffers.len() {
            report(&format_args!("port `{}` names no buffer", port.name));
        }
    }
    let names = |ports: &[Port]| ports.iter().map(|port| port.name.clone()).collect::<BTreeSet<_>>().len();
    let buffers: BTreeSet<u32> = program.inputs.iter().map(|port| port.buffer).collect();
    let (inputs, outputs) = (names(&program.inputs), names(&program.outputs));
    if inputs.min(buffers.len()) < program.inputs.len() || outputs < program.outputs.len() {
        report(&"a port is listed twice");
    }
}

impl Checked<'_> {
    fn launch(&self, launch: &Launch, step: usize, report: &mut dyn FnMut(&dyn Display)) {
        let site = &launch.site;
        if launch.kernel as usize >= self.plan.kernels.len() {
            report(&format_args!("`{site}` names no kernel"));
        }
        let args = || launch.inputs.iter().chain(&launch.outputs);
        for arg in args() {
            match self.elements(arg) {
                None => report(&format_args!("an argument of `{site}` names nothing")),
                Some(_) => self.lifetime(arg, site, step, report),
            }
        }
        let outputs: BTreeSet<&Arg> = launch.outputs.iter().collect();
        if outputs.len() < launch.outputs.len() {
            report(&format_args!("`{site}` writes an output twice"));
        }
        // kernels rely on their inputs and outputs being disjoint
        if launch.inputs.iter().any(|arg| matches!(arg, Arg::Buffer(_)) && outputs.contains(arg)) {
            report(&format_args!("`{site}` writes one of its inputs"));
        }
        if launch.outputs.iter().any(|arg| matches!(arg, Arg::Weight(_))) {
            report(&format_args!("`{site}` writes a weight"));
        }
        let at_most = |dim: &Dim, most: u64| dim.eval(&self.values).is_ok_and(|value| value <= most);
        if !at_most(&launch.grid, i32::MAX as u64) {
            report(&format_args!("the grid of `{site}` has no value, or is too large"));
        }
        // they are numbers of rows and columns of the operands
        let largest = args().filter_map(|arg| self.elements(arg)).max().unwrap_or(0).min(i32::MAX as u64);
        if !launch.scalars.iter().all(|scalar| at_most(scalar, largest)) {
            report(&format_args!("a size of `{site}` has no value, or is larger than its operands"));
        }
        if !launch.maps.iter().all(|map| self.map_fits(launch, *map)) {
            report(&format_args!("a tensor map of `{site}` has an impossible shape"));
        }
    }

    /// Elements of an argument, if it exists.
    fn elements(&self, arg: &Arg) -> Option<u64> {
        match *arg {
            Arg::Buffer(index) => self.elements.get(index as usize).copied(),
            Arg::Weight(index) => self.plan.weights.get(index as usize)?.elements(),
            Arg::Kv { group, layer } => {
                let group = self.plan.kv.get(group as usize).filter(|group| layer < group.layers)?;
                group.block_elements().checked_mul(u64::from(group.blocks))
            }
        }
    }

    fn lifetime(&self, arg: &Arg, site: &str, step: usize, report: &mut dyn FnMut(&dyn Display)) {
        let Arg::Buffer(index) = arg else { return };
        let buffer = &self.program.buffers[*index as usize];
        if step < buffer.live.0 as usize || step > buffer.live.1 as usize {
            report(&format_args!("`{site}` uses buffer `{}` outside of its lifetime", buffer.name));
        }
    }

    /// Tensor maps have boxes of 128 bytes per row, over buffers of 16-bit or 8-bit elements whose rows are whole
    /// 16-byte chunks, or over tiled weights in boxes of whole strips. Buffers that the caller fills have a different
    /// address in each step.
    fn map_fits(&self, launch: &Launch, map: TensorMap) -> bool {
        let fits = |dtype| Tiles::cols_of(dtype) == Some(map.box_cols.into());
        if !(1..=256).contains(&map.box_rows) {
            return false;
        }
        match launch.inputs.get(map.input as usize) {
            Some(Arg::Buffer(index)) => {
                let Some(buffer) = self.program.buffers.get(*index as usize) else { return false };
                let [rows, cols] = &buffer.shape[..] else { return false };
                let (rows, cols) = (rows.eval(&self.values).unwrap_or(u64::MAX), cols.as_const().unwrap_or(0));
                let row_bytes = cols.saturating_mul(buffer.dtype.bytes());
                let chunks = row_bytes > 0 && row_bytes.is_multiple_of(Tiles::CHUNK_BYTES);
                let encodable = rows <= MAX_MAP_SIZE && cols <= MAX_MAP_SIZE && row_bytes < MAX_MAP_STRIDE;
                // only weights have packed 4-bit values
                let storable = buffer.dtype != DType::I4 && fits(buffer.dtype);
                storable && chunks && encodable && !self.filled.contains(index)
            }
            Some(Arg::Weight(index)) => {
                let Some(weight) = self.plan.weights.get(*index as usize) else { return false };
                let tiled = matches!(weight.layout, Layout::Tiled | Layout::TiledHalves);
                let &[rows, cols] = &weight.shape[..] else { return false };
                let encodable = Tiles::of(weight.dtype, rows, cols).is_some_and(|tiles| {
                    let stride = tiles.units.saturating_mul(Tiles::UNIT_BYTES);
                    tiles.strips <= MAX_MAP_SIZE && tiles.units <= MAX_MAP_SIZE && stride < MAX_MAP_STRIDE
                });
                tiled && encodable && fits(weight.dtype) && u64::from(map.box_rows).is_multiple_of(Tiles::ROWS)
            }
            _ => false,
        }
    }
}

/// Everything that is read was written before, by the caller or by a launch.
fn check_writes(program: &Program, report: &mut dyn FnMut(&dyn Display)) {
    let mut written: BTreeSet<u32> = program.inputs.iter().map(|port| port.buffer).collect();
    let name = |index: u32| program.buffers.get(index as usize).map_or("?", |buffer| buffer.name.as_str());
    let index = |arg: &Arg| if let Arg::Buffer(index) = arg { Some(*index) } else { None };
    for Step::Launch(launch) in &program.steps {
        for index in launch.inputs.iter().filter_map(index).filter(|index| !written.contains(index)) {
            report(&format_args!("`{}` reads buffer `{}`, which nothing has written", launch.site, name(index)));
        }
        written.extend(launch.outputs.iter().filter_map(index));
    }
    for port in program.outputs.iter().filter(|port| !written.contains(&port.buffer)) {
        report(&format_args!("nothing writes output `{}`", port.name));
    }
}
