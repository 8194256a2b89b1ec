//! Sessions on the CPU: addresses of tensors, and running programs on a thread pool.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use plan::input;
use plan::{
    Arg, Bindings, Buffer, DType, ExecError, Executor, InputData, Kernel, KvGroup, Launch, Plan, PlanError, PlanFile,
    PortData, Profile, Program, Session, Step, StepId, SymbolValues, median, upper_bounds,
};
use rayon::prelude::*;

use super::memory::Memory;
use super::place::{Sizes, Weights};
use super::{Args, CpuKernel, KvLayer, Tensor, finite, kernels};

/// Runs plans for the `cpu` target.
pub struct CpuExecutor {
    pool: Arc<rayon::ThreadPool>,
    kernels: Vec<Arc<dyn CpuKernel>>,
}

impl CpuExecutor {
    /// An executor with this many threads; by default as many as the machine has.
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

    /// The kernel of a plan's entry, configured.
    fn kernel(&self, file: &PlanFile, wanted: &Kernel) -> Result<Arc<dyn CpuKernel>, ExecError> {
        let name = &wanted.name;
        let known = self.kernels.iter().find(|known| known.name() == name).ok_or_else(|| {
            ExecError::Unsupported(format!("the plan needs a CPU kernel `{name}`, which this program does not have"))
        })?;
        let configured = known
            .configured(wanted)
            .map_err(|reason| PlanError::corrupt(file.path(), format_args!("kernel `{name}`: {reason}")))?;
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
        Weights::check(plan).map_err(|reason| PlanError::corrupt(file.path(), reason))?;
        self.pool.install(|| (0..file.chunk_count()).into_par_iter().try_for_each(|chunk| file.verify_chunk(chunk)))?;
        let kernels = plan.kernels.iter().map(|kernel| Ok((self.kernel(&file, kernel)?, Arc::new(kernel.clone()))));
        let kernels = kernels.collect::<Result<Vec<_>, ExecError>>()?;
        self.pool.install(|| finite::check_codes(&file))?;
        let weights = self.pool.install(|| Weights::make(plan)).map_err(ExecError::OutOfMemory)?;
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

struct CpuSession {
    pool: Arc<rayon::ThreadPool>,
    /// The kernels of the plan, in its order, and their entries.
    kernels: Vec<(Arc<dyn CpuKernel>, Arc<Kernel>)>,
    file: Arc<PlanFile>,
    weights: Weights,
    pools: Vec<Memory>,
    arena: Memory,
    /// For each program, its launches for the sizes of the latest step.
    prepared: Vec<Option<Prepared>>,
    last: Option<(StepId, usize)>,
    /// The integer outputs of the last two steps.
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
    /// Prepares every program for its largest step: mismatches are found here, not in the middle of a generation.
    fn check(&mut self) -> Result<(), ExecError> {
        let file = Arc::clone(&self.file);
        for (index, program) in file.plan().programs.iter().enumerate() {
            let prepared = self.prepare(index, &upper_bounds(&program.symbols));
            prepared.map_err(|error| PlanError::corrupt(file.path(), error))?;
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
        let sizes = Sizes::of(plan, program, symbols).map_err(|reason| bindings_error(program, reason))?;
        let mut launches = Vec::with_capacity(program.steps.len());
        for (step, Step::Launch(launch)) in program.steps.iter().enumerate() {
            let name = plan.kernels[launch.kernel as usize].name.as_str();
            let prepared = self.prepare_launch(plan, program, launch, &sizes);
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
        sizes: &Sizes,
    ) -> Result<PreparedLaunch, String> {
        let mut kv = None;
        let mut tensors = |args: &[Arg]| {
            let mut tensors = Vec::new();
            for arg in args {
                match *arg {
                    Arg::Buffer(index) => {
                        let tensor = self.tensor(&program.buffers[index as usize], sizes.shape(index).to_vec())?;
                        tensors.push(tensor.promised_below(sizes.bound(index)));
                    }
                    Arg::Weight(index) => tensors.push(self.weights.tensor(&self.file, index as usize)?),
                    Arg::Kv { group, layer } => kv = Some(self.kv(&plan.kv[group as usize], group, layer)),
                }
            }
            Ok::<_, String>(tensors)
        };
        let (inputs, outputs) = (tensors(&launch.inputs)?, tensors(&launch.outputs)?);
        let index = launch.kernel as usize;
        let (kernel, configuration) = &self.kernels[index];
        let args = Args { inputs, outputs, kv, kernel: Arc::clone(configuration) };
        kernel.check(&args)?;
        let tasks = kernel.tasks(&args);
        // A forged plan must neither omit parts of a result nor keep the machine busy with empty tasks.
        match launch.grid.eval(&sizes.symbols).map_err(|error| error.to_string())? {
            grid if grid == tasks as u64 => Ok(PreparedLaunch { kernel: index, args, tasks }),
            grid => Err(format!("expected a grid of {tasks} tasks, found {grid}")),
        }
    }

    fn buffer(&mut self, buffer: &Buffer, symbols: &SymbolValues) -> Result<Tensor, String> {
        self.tensor(buffer, super::place::shape(buffer, symbols)?)
    }

    fn tensor(&mut self, buffer: &Buffer, shape: Vec<usize>) -> Result<Tensor, String> {
        // SAFETY: the plan was checked: the buffer's bytes are inside the arena, which lives as long as the session.
        unsafe { Tensor::new(buffer.dtype, shape, self.arena.as_mut_ptr().add(buffer.offset as usize), buffer.bytes) }
    }

    fn kv(&mut self, group: &KvGroup, index: u32, layer: u32) -> KvLayer {
        let layer_bytes = group.pool_bytes() / u64::from(group.layers);
        // SAFETY: the plan was checked: `layer` is below the pool's number of layers.
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

    /// Copies the integer outputs out of the arena, which the next step overwrites.
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

    /// Runs the launches of a program, and calls the observer after each. Ends early if that breaks.
    fn run<B: Send>(
        &mut self,
        index: usize,
        program: &Program,
        bindings: &Bindings<'_>,
        look: impl Fn(&Launch, &Args) -> ControlFlow<B> + Sync,
    ) -> Result<Option<B>, ExecError> {
        self.prepare(index, bindings.symbols)?;
        self.bind(index, bindings)?;
        let prepared = &self.prepared[index];
        let kernels = &self.kernels;
        self.pool.install(|| {
            let launches = prepared.iter().flat_map(|prepared| &prepared.launches);
            for (step, (launch, Step::Launch(planned))) in launches.zip(&program.steps).enumerate() {
                let kernel = kernels[launch.kernel].0.as_ref();
                run_launch(kernel, launch)
                    .map_err(|reason| kernel_error(kernel.name(), program, planned, step, reason))?;
                if let ControlFlow::Break(found) = look(planned, &launch.args) {
                    return Ok(Some(found));
                }
            }
            Ok(None)
        })
    }

    /// Times the launches of a program.
    fn times(&mut self, index: usize, bindings: &Bindings<'_>, runs: usize) -> Result<Profile, ExecError> {
        let file = Arc::clone(&self.file);
        let program = &file.plan().programs[index];
        self.prepare(index, bindings.symbols)?;
        let mut alone = vec![Vec::new(); program.steps.len()];
        let mut whole = Vec::new();
        let micros = |start: Instant| start.elapsed().as_secs_f64() * 1e6;
        // one more, to warm up
        for round in 0..=runs.max(1) {
            // other buffers take the place of inputs once these were read
            self.bind(index, bindings)?;
            let launches = self.prepared[index].iter().flat_map(|prepared| &prepared.launches);
            self.pool.install(|| {
                let start = Instant::now();
                for ((step, launch), Step::Launch(planned)) in launches.enumerate().zip(&program.steps) {
                    let kernel = self.kernels[launch.kernel].0.as_ref();
                    let begun = Instant::now();
                    run_launch(kernel, launch)
                        .map_err(|reason| kernel_error(kernel.name(), program, planned, step, reason))?;
                    if round > 0 {
                        alone[step].push(micros(begun));
                    }
                }
                if round > 0 {
                    whole.push(micros(start));
                }
                Ok::<(), ExecError>(())
            })?;
        }
        // one launch after the other is how steps run here
        let (launches, step) = (alone.into_iter().map(median).collect(), median(whole));
        Ok(Profile { launches, apart: step, step, captured: false })
    }

    /// Copies the bound inputs into their buffers.
    fn bind(&mut self, index: usize, bindings: &Bindings<'_>) -> Result<(), ExecError> {
        let file = Arc::clone(&self.file);
        let program = &file.plan().programs[index];
        let fail = |reason: String| bindings_error(program, reason);
        for (name, _) in bindings.inputs {
            if !program.inputs.iter().any(|port| port.name == *name) {
                return Err(fail(format!("it has no input `{name}`")));
            }
        }
        for port in &program.inputs {
            let bound = bindings.inputs.iter().find(|(name, _)| *name == port.name);
            let (name, data) = bound.ok_or_else(|| fail(format!("input `{}` is not bound", port.name)))?;
            let tensor = self.buffer(&program.buffers[port.buffer as usize], bindings.symbols).map_err(fail)?;
            tensor.expect(data.dtype()).map_err(|reason| fail(format!("input `{name}`: {reason}")))?;
            match data {
                InputData::Values(values) => fill(&tensor, values),
                InputData::Floats(values) => fill(&tensor, values),
                InputData::Forwarded { values, output, runs } => fill(&tensor, values).and_then(|()| {
                    let kept = self.integers[1].1.get(*output);
                    let kept = kept.ok_or_else(|| format!("no integer output `{output}` of a step before"))?;
                    // SAFETY: no launch is running.
                    let values = unsafe { tensor.write::<i32>(0..tensor.len()) }?;
                    runs.iter().try_for_each(|run| {
                        run.check(values.len(), kept.len())?;
                        let [to, from, len] = [run.input, run.output, run.len].map(|value| value as usize);
                        values[to..to + len].copy_from_slice(&kept[from..from + len]);
                        Ok(())
                    })
                }),
            }
            .map_err(|reason| fail(format!("input `{name}` has {reason}")))?;
        }
        Ok(())
    }
}

/// Copies values into an input of the same dtype. An error if their number is wrong.
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
    // SAFETY: `prepare_launch` has had the arguments checked; launches run one after the other, each task once.
    let run = |task: usize| unsafe { kernel.run(&launch.args, task) };
    match launch.tasks {
        0 => Ok(()),
        1 => run(0),
        tasks => (0..tasks).into_par_iter().try_for_each(run),
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
        // the weights were read in place, from the mapped file
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

    fn profile(&mut self, index: usize, bindings: &Bindings<'_>, runs: usize) -> Result<Option<Profile>, ExecError> {
        let file = Arc::clone(&self.file);
        if index >= file.plan().programs.len() {
            let reason = "the plan has no such program".to_owned();
            return Err(ExecError::Bindings { program: index.to_string(), reason });
        }
        // what the steps before left in the arena is gone
        self.last = None;
        let profile = self.times(index, bindings, runs)?;
        file.check_contents()?;
        Ok(Some(profile))
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
