//! What compiles and runs, with a user's own passes, ops and kernels inside.

use std::borrow::Cow;
use std::sync::Arc;

use codegen::{Call, Catalog, Kernel, Refusal, Target};
use ir::{DeclaredOp, Graph, OpId, OpSet};
use passes::{Pass, PassContext, PassList, PassManager, Pipeline, Slot, pipeline};
use plan::{ExecError, Executor};
use runtime::CpuExecutor;
use runtime::cpu::{Args, CpuKernel};

use crate::Error;

/// Compiles checkpoints and opens executors. Everything that the command line does goes through one.
#[derive(Clone)]
pub struct Driver {
    ops: OpSet,
    passes: PassList,
    slots: Vec<(Slot, Arc<dyn Pass>)>,
    kernels: Vec<Arc<dyn Kernel>>,
    cpu_kernels: Vec<Arc<dyn CpuKernel>>,
}

impl Default for Driver {
    fn default() -> Driver {
        Driver::new()
    }
}

impl Driver {
    /// smelt as it is.
    pub fn new() -> Driver {
        Driver {
            ops: OpSet::standard(),
            passes: PassList::standard(),
            slots: Vec::new(),
            kernels: Vec::new(),
            cpu_kernels: Vec::new(),
        }
    }

    /// The same driver with a pass at the end of a slot of the pipeline.
    pub fn pass(mut self, slot: Slot, pass: impl Pass + 'static) -> Driver {
        let pass: Arc<dyn Pass> = Arc::new(pass);
        self.passes.add(Arc::clone(&pass), "plugged in");
        self.slots.push((slot, pass));
        self
    }

    /// The same driver with an op that graphs and texts may use.
    pub fn op<T: DeclaredOp>(mut self) -> Driver {
        self.ops = self.ops.with::<T>();
        self
    }

    /// The same driver with a kernel, preferred to smelt's own: how code generation calls it, and its CPU form.
    pub fn cpu_kernel(mut self, kernel: impl Kernel + 'static, code: impl CpuKernel + 'static) -> Driver {
        self.kernels.push(Arc::new(kernel));
        self.cpu_kernels.push(Arc::new(code));
        self
    }

    /// The ops that text may name.
    pub fn ops(&self) -> &OpSet {
        &self.ops
    }

    /// The passes that a command line may name.
    pub fn passes(&self) -> &PassList {
        &self.passes
    }

    /// The pipeline that `compile` runs.
    pub fn pipeline(&self) -> Pipeline {
        let slots = self.slots.iter();
        slots.fold(pipeline::standard(), |pipeline, (slot, pass)| pipeline.with(*slot, Arc::clone(pass)))
    }

    /// The kernels of a target.
    pub fn catalog(&self, target: Target) -> Catalog {
        let own = self.kernels.iter();
        own.fold(target.catalog(), |catalog, kernel| catalog.with(Box::new(Shared(Arc::clone(kernel)))))
    }

    /// Runs passes on the text of a graph, or the whole pipeline where none is named, and returns the text.
    pub fn optimize(&self, text: &str, names: &[String]) -> Result<String, Error> {
        let parsed = ir::text::parse(text, &self.ops).map_err(|error| Error::BadInput(error.to_string()))?;
        let mut graph = parsed.graph;
        let passes = names.iter().map(|name| self.pass_named(name)).collect::<Result<Vec<_>, _>>()?;
        let pipeline = if names.is_empty() { self.pipeline() } else { Pipeline::of(passes) };
        let context = PassContext { weights: &ir::NoWeights };
        PassManager::default().run(&pipeline, &mut graph, &context, &mut passes::Silent)?;
        Ok(ir::text::print(&graph))
    }

    /// The pass of this name; the error lists those there are.
    pub(crate) fn pass_named(&self, name: &str) -> Result<Arc<dyn Pass>, Error> {
        self.passes.find(name).ok_or_else(|| {
            let known: Vec<String> = self.passes.iter().map(|info| info.pass.name().into_owned()).collect();
            Error::Usage(format!("unknown pass `{name}`, known ones: {}", known.join(", ")))
        })
    }

    /// An executor for plans of a target.
    pub fn executor(&self, target: &str, threads: Option<usize>) -> Result<Box<dyn Executor>, ExecError> {
        match target {
            "cpu" => Ok(Box::new(self.cpu_executor(threads)?)),
            _ => Err(ExecError::WrongTarget { plan: target.to_owned(), executor: "cpu".to_owned() }),
        }
    }

    /// An executor for the CPU.
    pub fn cpu_executor(&self, threads: Option<usize>) -> Result<CpuExecutor, ExecError> {
        let own = self.cpu_kernels.iter().map(|kernel| -> Box<dyn CpuKernel> { Box::new(Shared(Arc::clone(kernel))) });
        Ok(CpuExecutor::new(threads)?.with_kernels(own.collect()))
    }
}

/// A kernel that several catalogs hold.
#[derive(Debug)]
struct Shared<T: ?Sized>(Arc<T>);

impl Kernel for Shared<dyn Kernel> {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn call(&self, graph: &Graph, op: OpId) -> Result<Call, Refusal> {
        self.0.call(graph, op)
    }
}

impl CpuKernel for Shared<dyn CpuKernel> {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn check(&self, args: &Args) -> Result<(), String> {
        self.0.check(args)
    }

    fn tasks(&self, args: &Args) -> usize {
        self.0.tasks(args)
    }

    fn run(&self, args: &Args, task: usize) -> Result<(), String> {
        self.0.run(args, task)
    }
}

impl std::fmt::Debug for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let passes: Vec<Cow<'_, str>> = self.passes.iter().map(|info| info.pass.name()).collect();
        f.debug_struct("Driver").field("passes", &passes).field("slots", &self.slots).finish_non_exhaustive()
    }
}
