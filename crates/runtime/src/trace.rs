//! Dry run of a plan: evaluates every size, checks that launches stay inside the arena and do not overlap, and logs the
//! launches.

use std::fmt::Write;
use std::sync::{Arc, Mutex};

use plan::{
    Arg, Bindings, Buffer, DType, ExecError, Executor, Plan, PlanFile, PortData, Problems, Program, Session, Step,
    StepId, SymbolValues,
};

/// An executor that computes nothing. Outputs read as zeros of the right shape.
#[derive(Clone, Debug, Default)]
pub struct TraceExecutor {
    log: Arc<Mutex<String>>,
}

impl TraceExecutor {
    /// An executor with an empty log.
    pub fn new() -> TraceExecutor {
        TraceExecutor::default()
    }

    /// The launches of all steps so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }
}

impl Executor for TraceExecutor {
    fn target(&self) -> &str {
        "trace"
    }

    fn device(&self) -> String {
        "none".to_owned()
    }

    fn load(&self, file: Arc<PlanFile>) -> Result<Box<dyn Session>, ExecError> {
        Ok(Box::new(TraceSession { file, log: Arc::clone(&self.log), last: None, steps: 0 }))
    }
}

struct TraceSession {
    file: Arc<PlanFile>,
    log: Arc<Mutex<String>>,
    last: Option<(StepId, usize, SymbolValues)>,
    steps: u64,
}

impl Session for TraceSession {
    fn submit(&mut self, program: usize, bindings: &Bindings<'_>) -> Result<StepId, ExecError> {
        let text = trace(self.file.plan(), program, bindings.symbols)
            .map_err(|problems| ExecError::Unsupported(problems.to_string()))?;
        self.log.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push_str(&text);
        self.steps += 1;
        self.last = Some((StepId(self.steps), program, bindings.symbols.clone()));
        Ok(StepId(self.steps))
    }

    fn wait(&mut self, _: StepId) -> Result<(), ExecError> {
        Ok(())
    }

    fn read(&mut self, step: StepId, port: &str) -> Result<PortData, ExecError> {
        let fail = |reason: &str| ExecError::Unsupported(reason.to_owned());
        let last = self.last.as_ref().filter(|(last, ..)| *last == step);
        let (_, index, symbols) = last.ok_or_else(|| fail("only the latest step's outputs are kept"))?;
        let program = &self.file.plan().programs[*index];
        let found = program.outputs.iter().find(|output| output.name == port);
        let buffer = &program.buffers[found.ok_or_else(|| fail("there is no such output"))?.buffer as usize];
        let elements = shape(buffer, symbols).map_err(ExecError::Unsupported)?.iter().product::<u64>() as usize;
        Ok(match buffer.dtype {
            DType::I32 => PortData::I32(vec![0; elements]),
            _ => PortData::F32(vec![0.0; elements]),
        })
    }
}

/// The launches of a program with all sizes filled in, or their errors.
pub fn trace(plan: &Plan, program: usize, symbols: &SymbolValues) -> Result<String, Problems> {
    let mut problems = Problems::default();
    let Some(program) = plan.programs.get(program) else {
        problems.add("there is no such program");
        return Err(problems);
    };
    let mut out = String::new();
    for decl in &program.symbols {
        let value = symbols.get(&decl.symbol);
        if value.is_none_or(|value| *value < decl.min || *value > decl.max) {
            problems.add(format_args!("`{}` is {value:?}, expected {}..{}", decl.symbol, decl.min, decl.max));
        }
    }
    for (a, b) in program.clashes() {
        problems.add(format_args!("`{}` and `{}` overlap", a.name, b.name));
    }
    let list: Vec<String> = symbols.iter().map(|(symbol, value)| format!("{symbol} = {value}")).collect();
    // Writing to a String cannot fail.
    let _ = writeln!(out, "{} <{}>", program.name, list.join(", "));
    for (step, Step::Launch(launch)) in program.steps.iter().enumerate() {
        let kernel = plan.kernels.get(launch.kernel as usize).map_or("?", |kernel| &kernel.name);
        let mut list = |args: &[Arg]| {
            let args: Vec<String> = args
                .iter()
                .map(|arg| {
                    argument(plan, program, arg, step as u32, symbols).unwrap_or_else(|problem| {
                        problems.add(format_args!("step {step}, `{}`: {problem}", launch.site));
                        "?".to_owned()
                    })
                })
                .collect();
            args.join(", ")
        };
        let (inputs, outputs) = (list(&launch.inputs), list(&launch.outputs));
        match launch.grid.eval(symbols) {
            Ok(grid) => drop(writeln!(out, "  {kernel}<{grid}>({inputs}) -> ({outputs})")),
            Err(error) => problems.add(format_args!("step {step}, `{}`: {error}", launch.site)),
        }
    }
    problems.into_result().map(|()| out)
}

/// An argument with its sizes, checked against the arena and its lifetime.
fn argument(plan: &Plan, program: &Program, arg: &Arg, step: u32, symbols: &SymbolValues) -> Result<String, String> {
    match *arg {
        Arg::Weight(index) => {
            let weight = plan.weights.get(index as usize).ok_or("names no weight")?;
            Ok(format!("{}:{}{:?}", weight.name, weight.dtype, weight.shape))
        }
        Arg::Kv { group, layer } => Ok(format!("kv{group}.{layer}")),
        Arg::Buffer(index) => {
            let buffer = program.buffers.get(index as usize).ok_or("names no buffer")?;
            let shape = shape(buffer, symbols)?;
            let bytes = shape.iter().product::<u64>() * buffer.dtype.bytes();
            if bytes > buffer.bytes || buffer.offset + buffer.bytes > program.arena_bytes {
                return Err(format!("`{}` does not fit its bytes in the arena", buffer.name));
            }
            if !(buffer.live.0..=buffer.live.1).contains(&step) {
                return Err(format!("`{}` is used outside of its lifetime", buffer.name));
            }
            Ok(format!("{}:{}{shape:?}@{}", buffer.name, buffer.dtype, buffer.offset))
        }
    }
}

fn shape(buffer: &Buffer, symbols: &SymbolValues) -> Result<Vec<u64>, String> {
    buffer.shape.iter().map(|dim| dim.eval(symbols).map_err(|error| error.to_string())).collect()
}
