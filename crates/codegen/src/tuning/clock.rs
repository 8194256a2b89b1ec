//! A plan of trials on a device: its code, its session, and what its programs take.

use std::sync::Arc;
use std::time::{Duration, Instant};

use plan::partial::PartialFolder;
use plan::{
    Bindings, ExecError, Executor, InputData, Plan, PlanError, PlanFile, PlanWriter, PortData, Session, StepId,
    SymbolValues,
};

use crate::CodegenError;
use crate::cuda::Compiler;

/// Repetitions of which the best counts, and of which there are fewer where they take longer than this.
const REPETITIONS: usize = 7;
const FEWEST_REPETITIONS: usize = 2;
const TIME: Duration = Duration::from_millis(700);

/// Programs that are timed.
pub(super) struct Clock<'a> {
    session: Box<dyn Session>,
    inputs: Vec<(&'a str, InputData<'a>)>,
    last: StepId,
}

impl<'a> Clock<'a> {
    /// Brings a plan onto a device; each of its steps has these inputs.
    pub fn start(
        plan: &Plan,
        inputs: &'a [(String, Vec<i32>)],
        executor: &dyn Executor,
    ) -> Result<Clock<'a>, ExecError> {
        let folder = PartialFolder::temporary().map_err(|error| PlanError::Io { path: std::env::temp_dir(), error })?;
        let path = folder.path().join("trial.plan");
        PlanWriter::create(&path)?.finish(plan)?;
        let session = executor.load(Arc::new(PlanFile::open(&path)?))?;
        let inputs = inputs.iter().map(|(name, values)| (name.as_str(), InputData::Values(values)));
        Ok(Clock { session, inputs: inputs.collect(), last: StepId::default() })
    }

    /// What one step of a program takes.
    pub fn time(&mut self, program: usize) -> Result<Duration, ExecError> {
        let start = Instant::now();
        let symbols = SymbolValues::new();
        self.last = self.session.submit(program, &Bindings { symbols: &symbols, inputs: &self.inputs })?;
        self.session.wait(self.last)?;
        Ok(start.elapsed())
    }

    /// What a launch takes at its best, where the second program has `more` of it than the first: the difference leaves
    /// out what a step and the first launch cost.
    pub fn best(&mut self, more: u32) -> Result<Duration, ExecError> {
        let mut least = [Duration::MAX; 2];
        // the first run warms up
        self.time(0)?;
        let start = Instant::now();
        for repetition in 0..REPETITIONS {
            if repetition >= FEWEST_REPETITIONS && start.elapsed() > TIME {
                break;
            }
            for (program, least) in least.iter_mut().enumerate() {
                *least = self.time(program)?.min(*least);
            }
        }
        match least[1].checked_sub(least[0]).filter(|difference| !difference.is_zero()) {
            Some(difference) => Ok(difference / more.max(1)),
            // other programs took more than the launches did: what is left is an upper bound
            None => Ok(least[1] / (more + 1)),
        }
    }

    /// An output of the step that was timed last.
    pub fn read(&mut self, port: &str) -> Result<PortData, ExecError> {
        self.session.read(self.last, port)
    }
}

/// Compiles the code of a plan's kernels.
pub(super) fn compile(plan: &mut Plan, compiler: &Compiler) -> Result<(), CodegenError> {
    let built = compiler.compile_all(&plan.kernels).map_err(|problems| CodegenError::Units { problems })?;
    for (kernel, built) in plan.kernels.iter_mut().zip(built) {
        if let Some(code) = &mut kernel.code {
            code.cubin = built.cubin;
        }
    }
    Ok(())
}
