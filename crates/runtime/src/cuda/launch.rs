//! The launches of a program: what can be resolved when a plan is loaded, and what a step fills in.

use std::collections::BTreeSet;
use std::ffi::c_void;

use cudarc::driver::sys::{CUtensorMap, CUtensorMapDataType, CUtensorMapSwizzle};
use plan::{
    Arg, DType, ExecError, Launch, Plan, PlanError, PlanFile, Program, Step, SymbolValues, TensorMap, Tiles, Weight,
    upper_bounds,
};

use super::driver::{Boxes, Event, Function, Stream, tensor_map};
use super::failure::Failure;

/// Where a plan's memory is on the device.
pub(super) struct Addresses {
    pub weights: Vec<u64>,
    pub pools: Vec<u64>,
    pub arena: u64,
}

/// The launches of one program.
pub(super) struct Launches {
    /// Where the arena is.
    pub arena: u64,
    prepared: Vec<Prepared>,
}

struct Prepared {
    /// Outputs, then inputs.
    pointers: Vec<Pointer>,
    maps: Vec<CUtensorMap>,
}

/// What is between the launches of a step.
#[derive(Clone, Copy)]
pub(super) enum Between<'a> {
    /// Nothing: one may begin before those ahead of it have ended, and waits where it must.
    Overlap,
    /// Each begins when the one ahead of it has ended.
    Order,
    /// This side waits for each.
    Wait,
    /// As in order, with two events that keep the time around each.
    Marks(&'a [[Event; 2]]),
}

#[derive(Clone, Copy)]
enum Pointer {
    /// Always there.
    Fixed(u64),
    /// A buffer that is an input port: where it is depends on the sizes of the step.
    Port(u32),
}

impl Launches {
    /// Resolves addresses, encodes tensor maps, and holds each launch against the parameters of its function.
    pub fn prepare(
        file: &PlanFile,
        program: &Program,
        addresses: &Addresses,
        functions: &[Function],
    ) -> Result<Launches, ExecError> {
        let plan = file.plan();
        let mut prepared = Vec::new();
        let ports: BTreeSet<u32> = program.inputs.iter().map(|port| port.buffer).collect();
        for Step::Launch(launch) in &program.steps {
            let pointer = |arg: &Arg| match *arg {
                Arg::Weight(index) => Pointer::Fixed(addresses.weights[index as usize]),
                Arg::Kv { group, layer } => {
                    let pool = &plan.kv[group as usize];
                    let layer_bytes = pool.pool_bytes() / u64::from(pool.layers);
                    Pointer::Fixed(addresses.pools[group as usize] + layer_bytes * u64::from(layer))
                }
                Arg::Buffer(index) if ports.contains(&index) => Pointer::Port(index),
                Arg::Buffer(index) => Pointer::Fixed(addresses.arena + program.buffers[index as usize].offset),
            };
            let pointers: Vec<Pointer> = launch.outputs.iter().chain(&launch.inputs).map(pointer).collect();
            let maps = launch.maps.iter().map(|map| {
                let place = pointers[launch.outputs.len() + map.input as usize];
                encode(plan, program, launch, *map, place)
            });
            let maps = maps.collect::<Result<Vec<_>, Failure>>();
            let function = &functions[launch.kernel as usize];
            // no step has run: it is the plan that is wrong
            let corrupt = |reason: String| {
                let reason = format_args!("kernel `{}` at `{}`: {reason}", function.name, launch.site);
                ExecError::from(PlanError::corrupt(file.path(), reason))
            };
            let maps = maps.map_err(|failure| failure.or(corrupt))?;
            check_params(&function.param_bytes, &param_bytes(launch)).map_err(corrupt)?;
            prepared.push(Prepared { pointers, maps });
        }
        Ok(Launches { arena: addresses.arena, prepared })
    }

    /// Puts all launches into the stream. `ports` says where input ports are.
    pub fn enqueue(
        &self,
        program: &Program,
        symbols: &SymbolValues,
        ports: &[(u32, u64)],
        functions: &[Function],
        stream: &Stream,
        between: Between<'_>,
    ) -> Result<(), ExecError> {
        let mut pointers: Vec<u64> = Vec::new();
        let mut scalars: Vec<i32> = Vec::new();
        let mut params: Vec<*mut c_void> = Vec::new();
        for (step, (Step::Launch(launch), prepared)) in program.steps.iter().zip(&self.prepared).enumerate() {
            let function = &functions[launch.kernel as usize];
            let fail = |failure: Failure| failure.or(|reason| error(&function.name, program, launch, step, reason));
            let size = |dim: &plan::Dim| dim.eval(symbols).map_err(|error| fail(error.to_string().into()));
            let mark = |place: usize| match between {
                Between::Marks(marks) => marks[step][place].record(stream).map_err(fail),
                _ => Ok(()),
            };
            let grid = size(&launch.grid)?;
            if grid == 0 {
                mark(0)?;
                mark(1)?;
                continue;
            }
            let grid = u32::try_from(grid).ok().filter(|grid| *grid <= i32::MAX as u32);
            let grid = grid.ok_or_else(|| fail("its grid is too large".into()))?;
            pointers.clear();
            for pointer in &prepared.pointers {
                pointers.push(match *pointer {
                    Pointer::Fixed(address) => address,
                    Pointer::Port(buffer) => {
                        let place = ports.iter().find(|(port, _)| *port == buffer);
                        place.ok_or_else(|| fail("an input port has no place".into()))?.1
                    }
                });
            }
            scalars.clear();
            for scalar in &launch.scalars {
                let value = i32::try_from(size(scalar)?);
                scalars.push(value.map_err(|_| fail(format!("`{scalar}` is too large").into()))?);
            }
            params.clear();
            params.extend(pointers.iter_mut().map(|pointer| (&raw mut *pointer).cast::<c_void>()));
            params.extend(prepared.maps.iter().map(|map| (&raw const *map).cast_mut().cast::<c_void>()));
            params.extend(scalars.iter_mut().map(|scalar| (&raw mut *scalar).cast::<c_void>()));
            let overlap = matches!(between, Between::Overlap);
            mark(0)?;
            // SAFETY: the function takes parameters of these sizes, as `prepare` has seen; they are copied by the
            // launch, and the memory they name belongs to the session.
            unsafe { function.launch(stream, grid, &mut params, overlap) }.map_err(fail)?;
            mark(1)?;
            if matches!(between, Between::Wait) {
                stream.synchronize().map_err(fail)?;
            }
        }
        Ok(())
    }
}

fn encode(
    plan: &Plan,
    program: &Program,
    launch: &Launch,
    map: TensorMap,
    place: Pointer,
) -> Result<CUtensorMap, Failure> {
    let Pointer::Fixed(address) = place else { return Err("a tensor map is over an input port".into()) };
    match launch.inputs.get(map.input as usize) {
        Some(Arg::Buffer(index)) => over_buffer(program, *index, address, map),
        Some(Arg::Weight(index)) => over_tiles(&plan.weights[*index as usize], address, map),
        _ => Err("a tensor map is over nothing that has an address".into()),
    }
}

/// A map over the largest form of a buffer: rows after those of a step are read, but their results are not used.
fn over_buffer(program: &Program, index: u32, address: u64, map: TensorMap) -> Result<CUtensorMap, Failure> {
    let buffer = &program.buffers[index as usize];
    let bounds = upper_bounds(&program.symbols);
    let sizes = buffer.shape.iter().map(|dim| dim.eval(&bounds).map_err(|error| error.to_string()));
    let [rows, cols] = sizes.collect::<Result<Vec<_>, _>>()?[..] else {
        return Err("a tensor map is not over a matrix".into());
    };
    tensor_map(&Boxes {
        dtype: match buffer.dtype {
            DType::BF16 => CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
            DType::F16 => CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
            // codes are copied as they are
            _ => CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_UINT8,
        },
        address,
        sizes: &[cols, rows],
        strides: &[cols * buffer.dtype.bytes()],
        box_sizes: &[map.box_cols, map.box_rows],
        swizzle: CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
    })
}

/// A map over the units of a tiled weight, each 256 words of 8 bytes that lie as shared memory wants them.
fn over_tiles(weight: &Weight, address: u64, map: TensorMap) -> Result<CUtensorMap, Failure> {
    let tiles = match weight.shape[..] {
        [rows, cols] => Tiles::of(weight.dtype, rows, cols),
        _ => None,
    };
    let tiles = tiles.ok_or("a tensor map is not over a matrix")?;
    tensor_map(&Boxes {
        dtype: CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_UINT64,
        address,
        sizes: &[Tiles::UNIT_BYTES / 8, tiles.units, tiles.strips],
        strides: &[Tiles::UNIT_BYTES, tiles.units * Tiles::UNIT_BYTES],
        box_sizes: &[(Tiles::UNIT_BYTES / 8) as u32, 1, map.box_rows / Tiles::ROWS as u32],
        swizzle: CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_NONE,
    })
}

/// Bytes of the parameters that a launch gives: pointers, tensor maps, sizes.
fn param_bytes(launch: &Launch) -> Vec<usize> {
    let pointers = launch.outputs.iter().chain(&launch.inputs).map(|_| size_of::<u64>());
    let maps = launch.maps.iter().map(|_| size_of::<CUtensorMap>());
    pointers.chain(maps).chain(launch.scalars.iter().map(|_| size_of::<i32>())).collect()
}

/// Whether a function takes parameters of these sizes. The launch could not tell: it reads as many as the function has.
pub(super) fn check_params(taken: &[usize], given: &[usize]) -> Result<(), String> {
    match taken == given {
        true => Ok(()),
        false => Err(format!("its code takes parameters of {taken:?} bytes, the plan gives {given:?}")),
    }
}

fn error(kernel: &str, program: &Program, launch: &Launch, step: usize, reason: String) -> ExecError {
    let (program, site) = (program.name.clone(), launch.site.clone());
    ExecError::Kernel { kernel: kernel.to_owned(), program, site, step, reason }
}

#[cfg(test)]
mod tests {
    use plan::{Dim, Work};

    use super::*;

    #[test]
    fn parameters_are_held_against_the_code() {
        let launch = Launch {
            kernel: 0,
            site: "y".to_owned(),
            inputs: vec![Arg::Buffer(0), Arg::Weight(0)],
            outputs: vec![Arg::Buffer(1)],
            maps: vec![TensorMap { input: 0, box_rows: 64, box_cols: 64 }],
            scalars: vec![Dim::from(8)],
            grid: Dim::from(1),
            ir: String::new(),
            work: Work { flops: 0.into(), read: 0.into(), written: 0.into() },
        };
        assert_eq!(check_params(&[8, 8, 8, 128, 4], &param_bytes(&launch)), Ok(()));
        let shorter = Launch { scalars: Vec::new(), ..launch };
        let refused = check_params(&[8, 8, 8, 128, 4], &param_bytes(&shorter)).expect_err("too few");
        assert!(refused.contains("takes parameters of [8, 8, 8, 128, 4] bytes, the plan gives [8, 8, 8, 128]"));
    }
}
