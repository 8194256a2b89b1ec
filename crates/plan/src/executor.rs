//! The interface of a device that runs plans.

use std::sync::Arc;

use crate::{DType, Plan, PlanFile, Program, Symbol, SymbolValues};

/// A device that can run plans.
pub trait Executor {
    /// The target whose plans it runs.
    fn target(&self) -> &str;

    /// The name of the device, which distinguishes it from faster and slower ones: timings belong to it.
    fn device(&self) -> String;

    /// Loads a plan onto the device: weights, KV pools and arenas.
    fn load(&self, plan: Arc<PlanFile>) -> Result<Box<dyn Session>, ExecError>;
}

/// A loaded plan with its own KV cache. It may move to another thread between calls.
pub trait Session: Send {
    /// Whether [`Session::submit`] returns before its step has run, so that it pays to submit the next one meanwhile.
    fn runs_ahead(&self) -> bool {
        false
    }

    /// Starts one run of a program (an index into [`crate::Plan::programs`]).
    fn submit(&mut self, program: usize, bindings: &Bindings<'_>) -> Result<StepId, ExecError>;

    /// Waits until a step has finished.
    fn wait(&mut self, step: StepId) -> Result<(), ExecError>;

    /// Waits for a step and copies one of its output ports. Outputs of the latest step are kept, and the integer
    /// outputs of the step before it.
    fn read(&mut self, step: StepId, port: &str) -> Result<PortData, ExecError>;

    /// Runs a step launch by launch and names the first weight or op with a value that is NaN or infinite. `None` if
    /// all are finite, or if the session cannot inspect values between launches. For steps without padding: padded rows
    /// are checked, too.
    fn first_not_finite(&mut self, program: usize, bindings: &Bindings<'_>) -> Result<Option<String>, ExecError> {
        let _ = (program, bindings);
        Ok(None)
    }

    /// Runs a program again and again, and times its launches: each alone, complete before the next begins, and all as
    /// steps run. What a step writes is the same each time, so it may be one that is to run anyway. `None` of sessions
    /// that do not time launches; outputs of steps before are lost.
    fn profile(&mut self, program: usize, bindings: &Bindings<'_>, runs: usize) -> Result<Option<Profile>, ExecError> {
        let _ = (program, bindings, runs);
        Ok(None)
    }
}

/// What the launches of a step take: medians of several runs, in microseconds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Profile {
    /// Of each launch alone, in the order of [`crate::Program::steps`].
    pub launches: Vec<f64>,
    /// Of all launches, one after the other.
    pub apart: f64,
    /// Of the step as it runs otherwise, launches overlapping where they do.
    pub step: f64,
    /// Whether that is a recorded graph.
    pub captured: bool,
}

/// The median of some samples; zero of none.
pub fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples.get(samples.len() / 2).copied().unwrap_or(0.0)
}

/// Identifies a submitted step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct StepId(pub u64);

/// Sizes and input ports of one step.
#[derive(Clone, Copy, Debug)]
pub struct Bindings<'a> {
    /// A value for each symbol of the program.
    pub symbols: &'a SymbolValues,
    /// Contents of each input port.
    pub inputs: &'a [(&'a str, InputData<'a>)],
}

/// Checks that every symbol of a program is bound within its bounds: buffers are sized for them.
pub fn check_symbols(program: &Program, symbols: &SymbolValues) -> Result<(), String> {
    for decl in &program.symbols {
        let value = symbols.get(&decl.symbol).copied();
        if value.is_none_or(|value| value < decl.min || value > decl.max) {
            let found = value.map_or("nothing".to_owned(), |value| value.to_string());
            return Err(format!("expected `{}` in {}..{}, found {found}", decl.symbol, decl.min, decl.max));
        }
    }
    Ok(())
}

impl Plan {
    /// Upper bound (exclusive) on the elements of an input of this name, at the sizes of a step; `None` if the name
    /// implies none. Kernels that use one as an index are checked against it when a plan is loaded.
    pub fn input_bound(&self, input: &str, symbols: &SymbolValues) -> Option<u64> {
        match input {
            "tokens" => Some(self.model.vocab_size.into()),
            "block_table" => self.kv.iter().map(|group| group.blocks.into()).min(),
            "rows" => symbols.get(&Symbol::new("T")?).copied(),
            _ => None,
        }
    }
}

/// The contents of an input port in a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum InputData<'a> {
    /// These values, row-major, for a port of dtype `i32`.
    Values(&'a [i32]),
    /// These values, row-major, for a port of dtype `f32`.
    Floats(&'a [f32]),
    /// The same, where some are replaced by what the previous step wrote to an output port: on a device, it need not have
    /// finished.
    Forwarded {
        /// The values, anything in place of those that are replaced.
        values: &'a [i32],
        /// The name of the output port.
        output: &'a str,
        /// Which values of the output replace which ones.
        runs: &'a [Run],
    },
}

/// Consecutive values of an output that replace values of an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The first value that is replaced.
    pub input: u32,
    /// The first value of the output.
    pub output: u32,
    /// Number of values.
    pub len: u32,
}

impl Run {
    /// Checks that a run lies within an input and an output of so many values.
    pub fn check(&self, inputs: usize, outputs: usize) -> Result<(), String> {
        let within = |first: u32, all: usize| u64::from(first) + u64::from(self.len) <= all as u64;
        match within(self.input, inputs) && within(self.output, outputs) {
            true => Ok(()),
            false => {
                Err(format!("{self:?} of {outputs} values, expected a run within them and the {inputs} of the input"))
            }
        }
    }
}

impl InputData<'_> {
    /// The dtype of its ports.
    pub fn dtype(&self) -> DType {
        match self {
            InputData::Values(_) | InputData::Forwarded { .. } => DType::I32,
            InputData::Floats(_) => DType::F32,
        }
    }
}

/// The contents of an output port, row-major. Floating-point ports are widened.
#[derive(Clone, Debug, PartialEq)]
pub enum PortData {
    /// Of any floating-point dtype.
    F32(Vec<f32>),
    /// Of dtype `i32`.
    I32(Vec<i32>),
}

/// Why a plan did not load or a step did not run.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// The plan is for another device.
    #[error("the plan is for target `{plan}`, this executor runs `{executor}`: compile again with --target {executor}")]
    WrongTarget {
        /// Target of the plan.
        plan: String,
        /// Target of the executor.
        executor: String,
    },
    /// The plan file is damaged or inconsistent.
    #[error(transparent)]
    Plan(#[from] crate::PlanError),
    /// The plan needs something that this executor does not support.
    #[error("{0}")]
    Unsupported(String),
    /// No device or no driver.
    #[error("{0}")]
    NoDevice(String),
    /// The plan does not fit the device's memory.
    #[error("{0}")]
    OutOfMemory(String),
    /// The caller's bindings do not fit the program.
    #[error("program `{program}`: {reason}")]
    Bindings {
        /// Name of the program.
        program: String,
        /// What is wrong.
        reason: String,
    },
    /// The device failed while a step ran; the kernel is not known.
    #[error(
        "the device failed in program `{program}` at step {step} of the session: {reason}{}",
        if *.blocking { "" } else { " (run with --blocking to find the kernel)" }
    )]
    Device {
        /// Name of the program.
        program: String,
        /// Steps that the session had run.
        step: u64,
        /// The driver's message.
        reason: String,
        /// Whether every launch was synchronized.
        blocking: bool,
    },
    /// A kernel failed.
    #[error("kernel `{kernel}` failed in program `{program}` at `{site}` (step {step}): {reason}")]
    Kernel {
        /// Name of the kernel.
        kernel: String,
        /// Name of the program.
        program: String,
        /// The value it computes.
        site: String,
        /// Index of the step in the program.
        step: usize,
        /// What went wrong.
        reason: String,
    },
}
