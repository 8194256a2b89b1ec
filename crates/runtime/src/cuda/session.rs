//! Sessions on a GPU: memory, captured decode programs, steps and their outputs.

use std::sync::Arc;

use plan::{
    Bindings, Buffer, DType, ExecError, InputData, Plan, PlanError, PlanFile, Port, PortData, Profile, Program,
    ProgramKind, Session, StepId, SymbolValues, upper_bounds,
};

use super::driver::{Context, Event, Function, Graph, Memory, Pinned, Stream};
use super::failure::Failure;
use super::launch::{Addresses, Between, Launches};
use super::weights::Weights;

/// Steps whose inputs and integer outputs are kept: the running one and the next.
const SLOTS: usize = 2;
/// Alignment of input ports in their region.
const PORT_ALIGN: u64 = 256;

/// The device of an executor, and how plans run on it.
#[derive(Clone, Debug)]
pub(super) struct Options {
    pub context: Arc<Context>,
    /// Synchronizes after every launch.
    pub blocking: bool,
    /// Fills the arena with NaN before every step.
    pub poison: bool,
}

/// A plan on a device.
pub(super) struct CudaSession {
    // Dropped in this order: what uses memory goes before it.
    pub(super) graphs: Vec<Option<Graph>>,
    pub(super) launches: Vec<Launches>,
    slots: Vec<Slot>,
    pub(super) stream: Stream,
    pub(super) functions: Vec<Function>,
    pub(super) file: Arc<PlanFile>,
    arena_bytes: u64,
    /// Where the ports of a step are on the device.
    inputs: u64,
    steps: u64,
    pub(super) options: Options,
    _memory: (Weights, Vec<Memory>, Memory, Memory),
}

// SAFETY: the driver's objects may be used from any thread on which their context is current. Every call makes it current,
// and nobody else has the session's memory.
unsafe impl Send for CudaSession {}

/// Host memory of one step.
struct Slot {
    inputs: Pinned,
    results: Pinned,
    done: Event,
    step: Option<(StepId, usize, SymbolValues)>,
}

impl CudaSession {
    /// Brings a plan onto the device of an executor. Everything that steps use is allocated here.
    pub fn load(options: &Options, file: &Arc<PlanFile>) -> Result<CudaSession, ExecError> {
        let (plan, context) = (file.plan(), &options.context);
        let device = Failure::device;
        let stream = Stream::new(context).map_err(device)?;
        let mut functions = Vec::new();
        for kernel in &plan.kernels {
            let code = kernel.code.as_ref().ok_or_else(|| "it has no code".into());
            let function = code.and_then(|code| Function::load(context, &kernel.name, code));
            let failed = |failure: Failure| {
                failure.at(&format!("kernel `{}` cannot be loaded", kernel.name)).or(ExecError::Unsupported)
            };
            functions.push(function.map_err(failed)?);
        }
        let weights = Weights::load(context, &stream, file, &functions)?;
        let place = |bytes: u64| {
            let memory = Memory::new(context, bytes)?;
            // SAFETY: the memory was just made. Zeros, so that no run depends on what was there before.
            unsafe { stream.fill(memory.address, 0, bytes) }?;
            Ok::<Memory, Failure>(memory)
        };
        let place = |bytes: u64| place(bytes).map_err(device);
        let pools = plan.kv.iter().map(|group| place(group.pool_bytes())).collect::<Result<Vec<_>, _>>()?;
        let arena_bytes = arena_bytes(plan);
        let arena = place(arena_bytes)?;
        let inputs_bytes = largest(plan, |program| port_bytes(program, &program.inputs));
        let inputs = place(inputs_bytes)?;
        let results = largest(plan, |program| port_bytes(program, &integer_outputs(program)));
        let pinned = |bytes: u64| Pinned::new(context, bytes as usize).map_err(device);
        let slots = (0..SLOTS).map(|_| {
            let done = Event::new(context).map_err(device)?;
            Ok(Slot { inputs: pinned(inputs_bytes)?, results: pinned(results)?, done, step: None })
        });
        let slots = slots.collect::<Result<Vec<_>, ExecError>>()?;
        let addresses = Addresses {
            weights: weights.addresses.clone(),
            pools: pools.iter().map(|pool| pool.address).collect(),
            arena: arena.address,
        };
        let launches = plan.programs.iter().map(|program| Launches::prepare(file, program, &addresses, &functions));
        let launches = launches.collect::<Result<Vec<_>, ExecError>>()?;
        let graphs = plan.programs.iter().map(|_| None).collect();
        stream.synchronize().map_err(device)?;
        let mut session = CudaSession {
            graphs,
            launches,
            slots,
            stream,
            functions,
            file: Arc::clone(file),
            arena_bytes,
            inputs: inputs.address,
            steps: 0,
            options: options.clone(),
            _memory: (weights, pools, arena, inputs),
        };
        session.capture_decode_programs()?;
        Ok(session)
    }

    /// Decode programs of fixed sizes: their launches are recorded once, so that a step is one call.
    fn capture_decode_programs(&mut self) -> Result<(), ExecError> {
        if self.options.blocking {
            return Ok(());
        }
        let file = Arc::clone(&self.file);
        for (index, program) in file.plan().programs.iter().enumerate() {
            let fixed = program.symbols.iter().all(|symbol| symbol.min == symbol.max);
            if program.kind != ProgramKind::Decode || !fixed {
                continue;
            }
            let symbols = upper_bounds(&program.symbols);
            let ports = self.port_places(program, &symbols)?;
            let mut failure = None;
            let graph = self.stream.capture(|| {
                self.launches[index]
                    .enqueue(program, &symbols, &ports, &self.functions, &self.stream, Between::Overlap)
                    .map_err(|error| {
                        let text = error.to_string();
                        failure = Some(error);
                        text.into()
                    })
            });
            match (graph, failure) {
                (Ok(graph), _) => self.graphs[index] = Some(graph),
                // nothing has run yet: a launch that cannot be recorded is one that the plan has wrong
                (Err(_), Some(error @ ExecError::Kernel { .. })) => {
                    return Err(PlanError::corrupt(file.path(), error).into());
                }
                (Err(_), Some(error)) => return Err(error),
                (Err(reason), None) => return Err(self.failure(program, 0, reason)),
            }
        }
        Ok(())
    }

    /// The address of each input port's buffer, and the offset within the region.
    fn port_places(&self, program: &Program, symbols: &SymbolValues) -> Result<Vec<(u32, u64)>, ExecError> {
        let mut offset = 0;
        let mut places = Vec::new();
        for port in &program.inputs {
            places.push((port.buffer, self.inputs + offset));
            let bytes = bytes(&program.buffers[port.buffer as usize], symbols);
            let bytes = bytes.map_err(|reason| bindings_error(program, reason))?;
            offset += bytes.next_multiple_of(PORT_ALIGN);
        }
        Ok(places)
    }

    /// An error of the device that showed at a step.
    pub(super) fn failure(&self, program: &Program, step: u64, failure: Failure) -> ExecError {
        let (program, blocking) = (program.name.clone(), self.options.blocking);
        failure.or(|reason| ExecError::Device { program, step, reason, blocking })
    }

    /// Puts a step into the stream: its inputs, its launches, and the copies of its results.
    fn enqueue(&mut self, index: usize, bindings: &Bindings<'_>, slot: usize) -> Result<(), ExecError> {
        let file = Arc::clone(&self.file);
        let (program, step) = (&file.plan().programs[index], self.steps + 1);
        let places = self.bind(index, bindings, slot)?;
        if self.options.poison {
            // SAFETY: the arena has that many bytes; only outputs outlive a step in it, and they were read.
            unsafe { self.stream.fill(self.launches[index].arena, 0xff, self.arena_bytes) }
                .map_err(|reason| self.failure(program, step, reason))?;
        }
        self.launch(index, bindings.symbols, &places)?;
        self.keep_results(program, index, bindings.symbols, slot).map_err(|reason| self.failure(program, step, reason))
    }

    /// Puts the launches of a step into the stream.
    pub(super) fn launch(&self, index: usize, symbols: &SymbolValues, places: &[(u32, u64)]) -> Result<(), ExecError> {
        let program = &self.file.plan().programs[index];
        match &self.graphs[index] {
            Some(graph) => self.stream.launch(graph).map_err(|reason| self.failure(program, self.steps + 1, reason)),
            None => {
                let between = if self.options.blocking { Between::Wait } else { Between::Overlap };
                self.launches[index].enqueue(program, symbols, places, &self.functions, &self.stream, between)
            }
        }
    }

    /// The program of an index whose symbols are bound within their bounds, and a slot that no step needs any more.
    fn begin(&mut self, index: usize, bindings: &Bindings<'_>) -> Result<usize, ExecError> {
        let file = Arc::clone(&self.file);
        let Some(program) = file.plan().programs.get(index) else {
            let reason = "the plan has no such program".to_owned();
            return Err(ExecError::Bindings { program: index.to_string(), reason });
        };
        plan::check_symbols(program, bindings.symbols).map_err(|reason| bindings_error(program, reason))?;
        self.options.context.make_current().map_err(Failure::device)?;
        let slot = self.steps as usize % SLOTS;
        // its memory is written next: the step that had it must be done, and is forgotten
        if let Some((step, ..)) = self.slots[slot].step {
            self.wait(step)?;
            self.slots[slot].step = None;
        }
        Ok(slot)
    }

    /// Brings the inputs of a step to the device.
    fn bind(&mut self, index: usize, bindings: &Bindings<'_>, slot: usize) -> Result<Vec<(u32, u64)>, ExecError> {
        let file = Arc::clone(&self.file);
        let program = &file.plan().programs[index];
        let fail = |reason: String| bindings_error(program, reason);
        for (name, _) in bindings.inputs {
            if !program.inputs.iter().any(|port| port.name == *name) {
                return Err(fail(format!("it has no input `{name}`")));
            }
        }
        let places = self.port_places(program, bindings.symbols)?;
        let mut end = 0;
        let mut copies = Vec::new();
        for (port, (_, address)) in program.inputs.iter().zip(&places) {
            let bound = bindings.inputs.iter().find(|(name, _)| *name == port.name);
            let (name, data) = bound.ok_or_else(|| fail(format!("input `{}` is not bound", port.name)))?;
            let buffer = &program.buffers[port.buffer as usize];
            if buffer.dtype != data.dtype() {
                return Err(fail(format!("input `{name}` is {}, expected {}", buffer.dtype, data.dtype())));
            }
            let bytes = bytes(buffer, bindings.symbols).map_err(fail)?;
            let start = (address - self.inputs) as usize;
            if let InputData::Forwarded { values, output, runs } = data {
                let (source, length) = self.previous(output).map_err(fail)?;
                for run in *runs {
                    run.check(values.len(), length).map_err(fail)?;
                    let [to, from, bytes] = [run.input, run.output, run.len].map(|values| 4 * u64::from(values));
                    copies.push((address + to, source + from, bytes));
                }
            }
            let place = &mut self.slots[slot].inputs.part(start..start + bytes as usize);
            match data {
                InputData::Values(values) | InputData::Forwarded { values, .. } => {
                    fill(place, values.iter().map(|value| value.to_ne_bytes()))
                }
                InputData::Floats(values) => fill(place, values.iter().map(|value| value.to_ne_bytes())),
            }
            .map_err(|reason| fail(format!("input `{name}` has {reason}")))?;
            end = start + bytes as usize;
        }
        let sent = (|| {
            // SAFETY: the region has room for all ports; the slot is not written again before its step is done.
            unsafe { self.stream.upload(self.inputs, self.slots[slot].inputs.part(0..end)) }?;
            // SAFETY: both places have that many bytes.
            copies.iter().try_for_each(|(target, source, bytes)| unsafe { self.stream.copy(*target, *source, *bytes) })
        })();
        sent.map_err(|reason| self.failure(program, self.steps + 1, reason))?;
        Ok(places)
    }

    /// The address of what the latest step wrote to an integer output, and the number of values.
    fn previous(&self, output: &str) -> Result<(u64, usize), String> {
        let last = self.slots.iter().filter_map(|slot| slot.step.as_ref()).max_by_key(|(step, ..)| *step);
        let (_, index, symbols) = last.ok_or("there is no step before this one")?;
        let program = &self.file.plan().programs[*index];
        let mut ports = program.outputs.iter();
        let is_integer = |port: &&Port| program.buffers[port.buffer as usize].dtype == DType::I32;
        let port = ports.find(|port| port.name == output).filter(is_integer);
        let port = port.ok_or_else(|| format!("the step before has no integer output `{output}`"))?;
        let values = bytes(&program.buffers[port.buffer as usize], symbols)? / DType::I32.bytes();
        Ok((self.output_address(*index, port.buffer, symbols)?, values as usize))
    }

    /// Copies integer outputs to the slot, where they outlive the arena's next step.
    fn keep_results(
        &mut self,
        program: &Program,
        index: usize,
        symbols: &SymbolValues,
        slot: usize,
    ) -> Result<(), Failure> {
        let mut start = 0;
        for port in integer_outputs(program) {
            let buffer = &program.buffers[port.buffer as usize];
            let length = bytes(buffer, symbols)? as usize;
            let source = self.output_address(index, port.buffer, symbols)?;
            let place = self.slots[slot].results.part(start..start + length);
            // SAFETY: the slot has room for all integer outputs and is read after its event.
            unsafe { self.stream.download(place, source) }?;
            start += length.next_multiple_of(PORT_ALIGN as usize);
        }
        self.slots[slot].done.record(&self.stream)
    }

    /// Where an output is: in the arena, or where the input is that it forwards.
    fn output_address(&self, index: usize, buffer: u32, symbols: &SymbolValues) -> Result<u64, String> {
        let program = &self.file.plan().programs[index];
        let places = self.port_places(program, symbols).map_err(|error| error.to_string())?;
        let input = places.into_iter().find(|(port, _)| *port == buffer).map(|(_, address)| address);
        Ok(input.unwrap_or(self.launches[index].arena + program.buffers[buffer as usize].offset))
    }

    fn slot_of(&self, step: StepId) -> Option<usize> {
        self.slots.iter().position(|slot| slot.step.as_ref().is_some_and(|(known, ..)| *known == step))
    }
}

impl Drop for CudaSession {
    fn drop(&mut self) {
        // Copies to and from the slots end before these go. An error has shown itself before, or has nobody to hear it.
        let _ = self.options.context.make_current();
        let _ = self.stream.synchronize();
    }
}

/// Copies values of four bytes into the place of an input. The error says how many there are.
fn fill(place: &mut [u8], values: impl ExactSizeIterator<Item = [u8; 4]>) -> Result<(), String> {
    let (cells, _) = place.as_chunks_mut::<4>();
    if cells.len() != values.len() {
        return Err(format!("{} values, expected {}", values.len(), cells.len()));
    }
    cells.iter_mut().zip(values).for_each(|(cell, value)| *cell = value);
    Ok(())
}

fn bindings_error(program: &Program, reason: String) -> ExecError {
    ExecError::Bindings { program: program.name.clone(), reason }
}

impl Session for CudaSession {
    fn runs_ahead(&self) -> bool {
        !self.options.blocking
    }

    fn submit(&mut self, index: usize, bindings: &Bindings<'_>) -> Result<StepId, ExecError> {
        let slot = self.begin(index, bindings)?;
        let submitted = self.enqueue(index, bindings, slot);
        if submitted.is_err() {
            // copies from the slot may be under way; what went wrong is told already
            let _ = self.stream.synchronize();
        }
        submitted?;
        self.steps += 1;
        let id = StepId(self.steps);
        self.slots[slot].step = Some((id, index, bindings.symbols.clone()));
        Ok(id)
    }

    fn profile(&mut self, index: usize, bindings: &Bindings<'_>, runs: usize) -> Result<Option<Profile>, ExecError> {
        let slot = self.begin(index, bindings)?;
        let profiled = self.bind(index, bindings, slot).and_then(|places| {
            let symbols = bindings.symbols;
            self.times(index, symbols, &places, runs)
        });
        // copies from the slot may be under way where something failed
        let _ = self.stream.synchronize();
        // what the steps before left in the arena is gone
        self.steps += 1;
        profiled.map(Some)
    }

    fn wait(&mut self, step: StepId) -> Result<(), ExecError> {
        // a step whose slot was taken again has been waited for
        let Some(slot) = self.slot_of(step) else { return Ok(()) };
        self.options.context.make_current().map_err(Failure::device)?;
        let file = Arc::clone(&self.file);
        let index = self.slots[slot].step.as_ref().map_or(0, |(_, index, _)| *index);
        let program = &file.plan().programs[index];
        self.slots[slot].done.synchronize().map_err(|reason| self.failure(program, step.0, reason))
    }

    fn read(&mut self, step: StepId, port: &str) -> Result<PortData, ExecError> {
        self.wait(step)?;
        let file = Arc::clone(&self.file);
        let unknown = |program: &str, reason: &str| ExecError::Bindings {
            program: program.to_owned(),
            reason: reason.to_owned(),
        };
        let kept = self.slot_of(step).and_then(|slot| Some((slot, self.slots[slot].step.clone()?)));
        let (slot, (_, index, symbols)) =
            kept.ok_or_else(|| unknown("?", "the step's outputs are not kept any more"))?;
        let program = &file.plan().programs[index];
        let fail = |reason: String| bindings_error(program, reason);
        let mut start = 0;
        for output in integer_outputs(program) {
            let length = bytes(&program.buffers[output.buffer as usize], &symbols).map_err(fail)? as usize;
            if output.name == port {
                let (cells, _) = self.slots[slot].results.part(start..start + length).as_chunks::<4>();
                return Ok(PortData::I32(cells.iter().map(|cell| i32::from_ne_bytes(*cell)).collect()));
            }
            start += length.next_multiple_of(PORT_ALIGN as usize);
        }
        let found = program.outputs.iter().find(|output| output.name == port);
        let found = found.ok_or_else(|| unknown(&program.name, &format!("it has no output `{port}`")))?;
        if step.0 != self.steps {
            return Err(unknown(&program.name, "only the latest step's outputs are kept"));
        }
        let buffer = &program.buffers[found.buffer as usize];
        let mut raw = vec![0; bytes(buffer, &symbols).map_err(fail)? as usize];
        let address = self.output_address(index, found.buffer, &symbols).map_err(fail)?;
        // SAFETY: the buffer has that many bytes; the copy is waited for.
        let copied = unsafe { self.stream.download(&mut raw, address) };
        copied.and_then(|()| self.stream.synchronize()).map_err(|reason| self.failure(program, step.0, reason))?;
        Ok(PortData::F32(buffer.dtype.decode(&raw)))
    }
}

/// Bytes of the largest arena of any program.
pub(super) fn arena_bytes(plan: &Plan) -> u64 {
    plan.programs.iter().map(|program| program.arena_bytes).max().unwrap_or(0)
}

fn largest(plan: &Plan, bytes: impl Fn(&Program) -> u64) -> u64 {
    plan.programs.iter().map(bytes).max().unwrap_or(0)
}

/// Bytes of ports at the symbols' upper bounds, each at its alignment.
fn port_bytes(program: &Program, ports: &[Port]) -> u64 {
    let bounds = upper_bounds(&program.symbols);
    let bytes = |port: &Port| bytes(&program.buffers[port.buffer as usize], &bounds).unwrap_or(0);
    ports.iter().map(|port| bytes(port).next_multiple_of(PORT_ALIGN)).sum()
}

fn integer_outputs(program: &Program) -> Vec<Port> {
    let is_integer = |port: &&Port| program.buffers[port.buffer as usize].dtype == DType::I32;
    program.outputs.iter().filter(is_integer).cloned().collect()
}

fn bytes(buffer: &Buffer, symbols: &SymbolValues) -> Result<u64, String> {
    buffer.shape.iter().try_fold(buffer.dtype.bytes(), |bytes, dim| {
        dim.eval(symbols).map(|size| bytes * size).map_err(|error| error.to_string())
    })
}
