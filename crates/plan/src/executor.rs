//! What a device does with a plan, as its callers see it.

use std::sync::Arc;

use crate::{PlanFile, SymbolValues};

/// A device that can run plans.
pub trait Executor {
    /// The target whose plans it runs.
    fn target(&self) -> &str;

    /// Brings weights, KV pools and arenas of a plan onto the device.
    fn load(&self, plan: Arc<PlanFile>) -> Result<Box<dyn Session>, ExecError>;
}

/// A plan on a device, with its own KV cache.
pub trait Session {
    /// Starts one run of a program (an index into [`crate::Plan::programs`]).
    fn submit(&mut self, program: usize, bindings: &Bindings<'_>) -> Result<StepId, ExecError>;

    /// Waits until a step has finished.
    fn wait(&mut self, step: StepId) -> Result<(), ExecError>;

    /// Waits for a step and copies one of its output ports. Only the latest step's outputs are kept.
    fn read(&mut self, step: StepId, port: &str) -> Result<PortData, ExecError>;
}

/// Names a submitted step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StepId(pub u64);

/// Sizes and input ports of one step.
#[derive(Clone, Debug, Default)]
pub struct Bindings<'a> {
    /// A value for each symbol of the program.
    pub symbols: SymbolValues,
    /// Contents of each input port, row-major.
    pub inputs: Vec<(&'a str, &'a [i32])>,
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
    /// The plan asks for something this executor cannot do.
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
