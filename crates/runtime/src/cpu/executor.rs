//! Sessions on the CPU: where tensors lie, and running programs over a thread pool.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use plan::input;
use plan::{
    Arg, Bindings, Buffer, DType, ExecError, Executor, InputData, Kernel, KvGroup, Launch, Layout, Plan, PlanError,
    PlanFile, PortData, Program, Session, Step, StepId, SymbolValues, WeightData, upper_bounds,
};
use rayon::prelude::*;

use super::memory::Memory;
use super::{Args, CpuKernel, KvLayer, Tensor, finite, kernels};

/// Runs plans for the `cpu` target.
pub struct CpuExecutor {
    pool: Arc<rayon::ThreadPool>,
    kernels: Vec<Arc<dyn CpuKernel>>,
}

impl CpuExecutor {
    /// An executor with this many threads, or as many as the machine has.
    pub fn new(threads: Option<usize>) -> Result<CpuExecutor, ExecError> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads.unwrap_or(0))
            .thread_name(|index| format!("smelt-cpu-{index}"))
            .build()
            .map_err(|error| ExecError::NoDevice(format!("no threads: {error}")))?;
        Ok(CpuExecutor { pool: Arc::new(pool), kernels: kernels().into_iter().map(Arc::from).collect() })
    }

    /// The same executor with more kernels, preferred to those of the same name.
    pub fn with_kernels(self, more: Vec<Box<dyn CpuKernel>>) -> CpuExecutor {
        let kernels = more.into_iter().map(Arc::from).chain(self.kernels).collect();
        CpuExecutor { kernels, pool: self.pool }
    }

    /// Threads of the pool.
    pub fn threads(&self) -> usize {
        self.pool.current_num_threads()
    }

    /// Runs a function on the pool, for measurements.
    pub fn install<R: Send>(&self, run: impl FnOnce() -> R + Send) -> R {
        self.pool.install(run)
    }

    /// The kernel that does what the plan wants, in its configuration.
    fn kernel(&self, file: &PlanFile, wanted: &Kernel) -> Result<Arc<dyn CpuKernel>, ExecError> {
        let name = &wanted.name;
        let known = self.kernels.iter().find(|known| known.name() == name).ok_or_else(|| {
            ExecError::Unsupported(format!("the plan wants a CPU kernel `{name}`, which this program lacks"))
        })?;
        let configured = known.configured(wanted).map_err(|reason| PlanError::Corrupt {
            path: file.path().to_owned(),
            reason: format!("kernel `{name}`: {reason}"),
        })?;
        Ok(configured.map_or_else(|| Arc::clone(known), Arc::from))
    }
}

impl Executor for CpuExecutor {
    fn target(&self) -> &str {
        "cpu"
    }

    fn device(&self) -> String {
        let info = input::read_text(Path::new("/proc/cpuinfo"), input::TEXT_BYTES).unwrap_or_default();
        let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
        let model = model.map_or(std::env::consts::ARCH, |(_, name)| name.trim());
        format!("{model}, {}, {} threads", super::instruction_set(), self.threads())
    }

    fn load(&self, file: Arc<PlanFile>) -> Result<Box<dyn Session>, ExecError> {
        let plan = file.plan();
        if plan.target != "cpu" {
            return Err(ExecError::WrongTarget { plan: plan.target.clone(), executor: "cpu".to_owned() });
        }
        self.pool.install(|| (0..file.chunk_count()).into_par_iter().try_for_each(|chunk| file.verify_chunk(chunk)))?;
        let kernels = plan.kernels.iter().map(|kernel| self.kernel(&file, kernel)).collect::<Result<Vec<_>, _>>()?;
        self.pool.install(|| finite::check_codes(&file))?;
        let weights = self.pool.install(|| random_weights(plan))?;
        let pools = plan.kv.iter().map(|group| Memory::zeroed(group.pool_bytes()));
        let pools = pools.collect::<Result<Vec<_>, _>>().map_err(ExecError::OutOfMemory)?;
        let arena_bytes = plan.programs.iter().map(|program| program.arena_bytes).max().unwrap_or(0);
        let arena = Memory::zeroed(arena_bytes).map_err(ExecError::OutOfMemory)?;
        let prepared = plan.programs.iter().map(|_| None).collect();
        let mut session = CpuSession {
            pool: Arc::clone(&self.pool),
            kernels,
            file,
            weights,
            pools,
            arena,
            prepared,
            last: None,
            integers: Default::default(),
            steps: 0,
        };
        session.check()?;
        Ok(Box::new(session))
    }
}

/// Memory for each weight that the plan describes instead of holding it.
fn random_weights(plan: &Plan) -> Result<Vec<Option<Memory>>, ExecError> {
    let make = |weight: &plan::Weight| match &weight.data {
        WeightData::Stored { .. } => Ok(None),
        WeightData::Random(parts) => {
            let mut memory = Memory::zeroed(weight.bytes().unwrap_or(0)).map_err(ExecError::OutOfMemory)?;
            memory.fill_random(weight.dtype, weight.layout, parts);
            Ok(Some(memory))
        }
    };
    plan.weights.iter().map(make).collect()
}

struct CpuSession {
    pool: Arc<rayon::ThreadPool>,
    /// The kernels of the plan, in its order.
    kernels: Vec<Arc<dyn CpuKernel>>,
    file: Arc<PlanFile>,
    weights: Vec<Option<Memory>>,
    pools: Vec<Memory>,
    arena: Memory,
    /// For each program, its launches for the sizes of the latest step.
    prepared: Vec<Option<Prepared>>,
    last: Option<(StepId, usize)>,
    /// The integer outputs of the step before the latest, and of the latest.
    integers: [(StepId, BTreeMap<String, Vec<i32>>); 2],
    steps: u64,
}

/// A program with sizes and addresses filled in.
struct Prepared {
    symbols: SymbolValues,
    launches: Vec<PreparedLaunch>,
}

struct PreparedLaunch {
    kernel: usize,
    args: Args,
    tasks: usize,
}

impl CpuSession {
    /// Prepares every program for its largest step: what does not fit together is found here, and not in the middle
    /// of a text.
    fn check(&mut self) -> Result<(), ExecError> {
        let file = Arc::clone(&self.file);
        for (index, program) in file.plan().programs.iter().enumerate() {
            self.prepare(index, &upper_bounds(&program.symbols)).map_err(|error| {
                let (path, reason) = (file.path().to_owned(), error.to_string());
                PlanError::Corrupt { path, reason }
            })?;
        }
        Ok(())
    }

    fn prepare(&mut self, index: usize, symbols: &SymbolValues) -> Result<(), ExecError> {
        if self.prepared[index].as_ref().is_some_and(|prepared| prepared.symbols == *symbols) {
            return Ok(());
        }
        let file = Arc::clone(&self.file);
        let plan = file.plan();
        let program = &plan.programs[index];
        plan::check_symbols(program, symbols).map_err(|reason| bindings_error(program, reason))?;
        let mut launches = Vec::with_capacity(program.steps.len());
        for (step, Step::Launch(launch)) in program.steps.iter().enumerate() {
            let name = plan.kernels[launch.kernel as usize].name.as_str();
            let prepared = self.prepare_launch(plan, program, launch, symbols);
            launches.push(prepared.map_err(|reason| kernel_error(name, program, launch, step, reason))?);
        }
        self.prepared[index] = Some(Prepared { symbols: symbols.clone(), launches });
        Ok(())
    }

    fn prepare_launch(
        &mut self,
        plan: &Plan,
        program: &Program,
        launch: &Launch,
        symbols: &SymbolValues,
    ) -> Result<PreparedLaunch, String> {
        let mut kv = None;
        let mut tensors = |args: &[Arg]| {
            let mut tensors = Vec::new();
            for arg in args {
                match *arg {
                    Arg::Buffer(index) => tensors.push(self.buffer(&program.buffers[index as usize], symbols)?),
                    Arg::Weight(index) => tensors.push(self.weight(plan, index as usize)),
                    Arg::Kv { group, layer } => kv = Some(self.kv(&plan.kv[group as usize], group, layer)),
                }
            }
            Ok::<_, String>(tensors)
        };
        let (inputs, outputs) = (tensors(&launch.inputs)?, tensors(&launch.outputs)?);
        let args = Args { inputs, outputs, kv, kernel: plan.kernels[launch.kernel as usize].clone() };
        let kernel = launch.kernel as usize;
        self.kernels[kernel].check(&args)?;
        let tasks = self.kernels[kernel].tasks(&args);
        // A forged plan must neither leave parts of a result out nor keep the machine busy with empty tasks.
        match launch.grid.eval(symbols).map_err(|error| error.to_string())? {
            grid if grid == tasks as u64 => Ok(PreparedLaunch { kernel, args, tasks }),
            grid => Err(format!("expected a grid of {tasks} tasks, found {grid}")),
        }
    }

    fn buffer(&mut self, buffer: &Buffer, symbols: &SymbolValues) -> Result<Tensor, String> {
        let shape = buffer.shape.iter().map(|dim| dim.eval(symbols).map(|size| size as usize));
        let shape = shape.collect::<Result<Vec<_>, _>>().map_err(|error| error.to_string())?;
        // SAFETY: the plan was checked: at the symbols' upper bounds, which `plan::check_symbols` holds, the buffer lies
        // inside the arena, at a multiple of 256 bytes.
        Ok(unsafe { Tensor::new(buffer.dtype, shape, self.arena.as_mut_ptr().add(buffer.offset as usize)) })
    }

    fn weight(&mut self, plan: &Plan, index: usize) -> Tensor {
        let weight = &plan.weights[index];
        let mut shape: Vec<usize> = weight.shape.iter().map(|size| *size as usize).collect();
        if let (Layout::Packed, Some(width)) = (weight.layout, shape.last_mut()) {
            // an element is a byte, of two codes
            *width /= 2;
        }
        let data = match (&weight.data, &mut self.weights[index]) {
            (WeightData::Stored { offset }, _) => {
                self.file.stored(*offset, weight.bytes().unwrap_or(0)).as_ptr().cast_mut()
            }
            (WeightData::Random(_), Some(memory)) => memory.as_mut_ptr(),
            (WeightData::Random(_), None) => std::ptr::null_mut(),
        };
        // SAFETY: the plan was checked: stored weights lie inside the section, which is mapped at page alignment;
        // random ones have memory of their size. Nothing writes to weights.
        unsafe { Tensor::new(weight.dtype, shape, data) }
    }

    fn kv(&mut self, group: &KvGroup, index: u32, layer: u32) -> KvLayer {
        let layer_bytes = group.pool_bytes() / u64::from(group.layers);
        // SAFETY: the plan was checked: `layer` is below the number of layers the pool was made for.
        let data = unsafe { self.pools[index as usize].as_mut_ptr().add((layer_bytes * u64::from(layer)) as usize) };
        KvLayer {
            dtype: group.dtype,
            kv_heads: group.kv_heads as usize,
            head_dim: group.head_dim as usize,
            block_tokens: group.block_tokens as usize,
            blocks: group.blocks as usize,
            data,
        }
    }

    /// Takes the integer outputs out of the arena, which the next step overwrites.
    fn keep_integers(&mut self, step: StepId, index: usize) -> Result<(), ExecError> {
        let file = Arc::clone(&self.file);
        let program = &file.plan().programs[index];
        let mut outputs = BTreeMap::new();
        for port in &program.outputs {
            if program.buffers[port.buffer as usize].dtype == DType::I32
                && let PortData::I32(values) = self.read(step, &port.name)?
            {
                outputs.insert(port.name.clone(), values);
            }
        }
        let latest = std::mem::replace(&mut self.integers[1], (step, outputs));
        self.integers[0] = latest;
        Ok(())
    }

    /// Runs the launches of a program, and looks at each after it ran. Ends early where the look breaks off.
    fn run<B: Send>(
        &mut self,
        index: usize,
        program: &Program,
        bindings: &Bindings<'_>,
        look: impl Fn(&Launch, &Args) -> ControlFlow<B> + Sync,
    ) -> Result<Option<B>, ExecError> {
        self.prepare(index, &bindings.symbols)?;
        self.bind(index, bindings)?;
        let prepared = &self.prepared[index];
        let kernels = &self.kernels;
        self.pool.install(|| {
            let launches = prepared.iter().flat_map(|prepared| &prepared.launches);
            for (step, (launch, Step::Launch(planned))) in launches.zip(&program.steps).enumerate() {
                let kernel = kernels[launch.kernel].as_ref();
                run_launch(kernel, launch)
                    .map_err(|reason| kernel_error(kernel.name(), program, planned, step, reason))?;
                if let ControlFlow::Break(found) = look(planned, &launch.args) {
                    return Ok(Some(found));
                }
            }
            Ok(None)
        })
    }

    /// Copies the bound inputs into their buffers.
    fn bind(&mut self, index: usize, bindings: &Bindings<'_>) -> Result<(), ExecError> {
        let file = Arc::clone(&self.file);
        let program = &file.plan().programs[index];
        let fail = |reason: String| bindings_error(program, reason);
        for (name, _) in &bindings.inputs {
            if !program.inputs.iter().any(|port| port.name == *name) {
                return Err(fail(format!("it has no input `{name}`")));
            }
        }
        for port in &program.inputs {
            let bound = bindings.inputs.iter().find(|(name, _)| *name == port.name);
            let (name, data) = bound.ok_or_else(|| fail(format!("input `{}` is not bound", port.name)))?;
            let tensor = self.buffer(&program.buffers[port.buffer as usize], &bindings.symbols).map_err(fail)?;
            tensor.expect(data.dtype()).map_err(|reason| fail(format!("input `{name}`: {reason}")))?;
            match data {
                InputData::Values(values) => fill(&tensor, values),
                InputData::Floats(values) => fill(&tensor, values),
                InputData::Previous(output) => {
                    let kept = self.integers[1].1.get(*output);
                    fill(
                        &tensor,
                        kept.ok_or_else(|| fail(format!("the step before has no integer output `{output}`")))?,
                    )
                }
            }
            .map_err(|reason| fail(format!("input `{name}` has {reason}")))?;
        }
        Ok(())
    }
}

/// Copies values into an input whose dtype is theirs. The error says how many there are.
fn fill<E: Copy>(tensor: &Tensor, values: &[E]) -> Result<(), String> {
    if tensor.len() != values.len() {
        return Err(format!("{} values, expected {}", values.len(), tensor.len()));
    }
    // SAFETY: no launch is running.
    unsafe { tensor.write::<E>(0..values.len()) }?.copy_from_slice(values);
    Ok(())
}

fn bindings_error(program: &Program, reason: String) -> ExecError {
    ExecError::Bindings { program: program.name.clone(), reason }
}

fn kernel_error(kernel: &str, program: &Program, launch: &Launch, step: usize, reason: String) -> ExecError {
    let (program, site) = (program.name.clone(), launch.site.clone());
    ExecError::Kernel { kernel: kernel.to_owned(), program, site, step, reason }
}

/// Runs the tasks of a launch; a single one stays on this thread.
fn run_launch(kernel: &dyn CpuKernel, launch: &PreparedLaunch) -> Result<(), String> {
    match launch.tasks {
        0 => Ok(()),
        1 => kernel.run(&launch.args, 0),
        tasks => (0..tasks).into_par_iter().try_for_each(|task| kernel.run(&launch.args, task)),
    }
}

impl Session for CpuSession {
    fn submit(&mut self, index: usize, bindings: &Bindings<'_>) -> Result<StepId, ExecError> {
        let file = Arc::clone(&self.file);
        let Some(program) = file.plan().programs.get(index) else {
            let reason = "the plan has no such program".to_owned();
            return Err(ExecError::Bindings { program: index.to_string(), reason });
        };
        self.run(index, program, bindings, |_, _| ControlFlow::<()>::Continue(()))?;
        // the weights were read where they lie in the file
        file.check_contents()?;
        self.steps += 1;
        let id = StepId(self.steps);
        self.last = Some((id, index));
        self.keep_integers(id, index)?;
        Ok(id)
    }

    fn first_not_finite(&mut self, index: usize, bindings: &Bindings<'_>) -> Result<Option<String>, ExecError> {
        let file = Arc::clone(&self.file);
        let Some(program) = file.plan().programs.get(index) else { return Ok(None) };
        self.run(index, program, bindings, |launch, args| finite::first(file.plan(), launch, args))
    }

    fn wait(&mut self, _: StepId) -> Result<(), ExecError> {
        // submit runs the whole step
        Ok(())
    }

    fn read(&mut self, step: StepId, port: &str) -> Result<PortData, ExecError> {
        let fail = |program: &str, reason: &str| ExecError::Bindings {
            program: program.to_owned(),
            reason: reason.to_owned(),
        };
        if let Some(values) =
            self.integers.iter().find(|(kept, _)| *kept == step).and_then(|(_, outputs)| outputs.get(port))
        {
            return Ok(PortData::I32(values.clone()));
        }
        let (_, index) = self
            .last
            .filter(|(last, _)| *last == step)
            .ok_or_else(|| fail("?", "only the latest step's outputs are kept"))?;
        let file = Arc::clone(&self.file);
        let program = &file.plan().programs[index];
        let found = program.outputs.iter().find(|output| output.name == port);
        let found = found.ok_or_else(|| fail(&program.name, &format!("it has no output `{port}`")))?;
        let symbols = self.prepared[index].as_ref().map(|prepared| prepared.symbols.clone()).unwrap_or_default();
        let tensor = self.buffer(&program.buffers[found.buffer as usize], &symbols);
        let data = tensor.and_then(|tensor| match tensor.dtype() {
            DType::I32 => Ok(PortData::I32(tensor.ints()?.to_vec())),
            _ => Ok(PortData::F32(tensor.widened(0..tensor.len())?)),
        });
        data.map_err(|reason| fail(&program.name, &reason))
    }
}
