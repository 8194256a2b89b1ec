//! The driver: everything that compiles and runs, including a user's own passes, ops and kernels.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use codegen::cuda::Compiler;
use codegen::{About, Call, Catalog, Kernel, Refusal, Site, Target};
use ir::{DeclaredOp, DerivedWeights, Graph, OpSet, Stage};
use passes::{
    Cause, Pass, PassContext, PassFailure, PassList, PassManager, PassOptions, Pipeline, Slot, pipeline, rules,
};
use plan::{ExecError, Executor, Machine};
use runtime::cpu::{Args, CpuKernel};
use runtime::{CpuExecutor, CudaExecutor};

use crate::observer::{ObservedPasses, Observer};
use crate::{DeviceMemory, Error, PassTime, Progress, RewriteFile, TargetChoice};

/// Compiles checkpoints and opens executors. Everything that the command line does goes through one.
#[derive(Clone)]
pub struct Driver {
    ops: OpSet,
    passes: PassList,
    slots: Vec<(Slot, Arc<dyn Pass>)>,
    /// Names of the passes that are rewrite rules.
    rules: Vec<String>,
    kernels: Vec<(Target, Arc<dyn Kernel>)>,
    cpu_kernels: Vec<Arc<dyn CpuKernel>>,
    cuda_folders: Arc<dyn Fn() -> Vec<PathBuf> + Send + Sync>,
    unit_cache: Option<PathBuf>,
}

/// How plans are run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RunOptions {
    /// Threads of a CPU executor; all by default.
    pub threads: Option<usize>,
    /// Synchronizes after every kernel launch on a GPU, so that an error names its kernel.
    pub blocking: bool,
}

impl Default for Driver {
    fn default() -> Driver {
        Driver::new()
    }
}

impl Driver {
    /// smelt without extensions.
    pub fn new() -> Driver {
        Driver {
            ops: OpSet::standard(),
            passes: PassList::standard(),
            slots: Vec::new(),
            rules: Vec::new(),
            kernels: Vec::new(),
            cpu_kernels: Vec::new(),
            cuda_folders: Arc::new(|| vec![PathBuf::from("/usr/local/cuda")]),
            unit_cache: None,
        }
    }

    /// The same driver with directories that may hold NVRTC, tried in order before the loader's own path. They are
    /// evaluated when a GPU plan is compiled.
    pub fn cuda_folders(mut self, folders: impl Fn() -> Vec<PathBuf> + Send + Sync + 'static) -> Driver {
        self.cuda_folders = Arc::new(folders);
        self
    }

    /// The same driver with a cache directory for compiled CUDA C.
    pub fn unit_cache(mut self, folder: PathBuf) -> Driver {
        self.unit_cache = Some(folder);
        self
    }

    /// This driver, with this cache directory for compiled CUDA C if it has none.
    pub(crate) fn with_unit_cache(&self, folder: &Path) -> Driver {
        let folder = self.unit_cache.clone().unwrap_or_else(|| folder.to_owned());
        self.clone().unit_cache(folder)
    }

    /// The same driver with a pass added at the end of a slot of the pipeline.
    pub fn pass(mut self, slot: Slot, pass: impl Pass + 'static) -> Driver {
        let pass: Arc<dyn Pass> = Arc::new(pass);
        self.passes.add(Arc::clone(&pass));
        self.slots.push((slot, pass));
        self
    }

    /// This driver with rewrite rules, each a pass of its own: see [`passes::rules`]. The error has all problems of a
    /// file.
    pub fn rewrites(&self, files: &[RewriteFile]) -> Result<Driver, Error> {
        let mut driver = self.clone();
        for RewriteFile { path, text } in files {
            let rules = rules::parse(text, &self.ops).map_err(|errors| {
                let errors = errors.iter().map(|error| format!("{}: {error}", path.display()));
                Error::BadInput(plan::listed(errors, "\n"))
            })?;
            for rule in rules {
                let (slot, name, rule) = (rule.slot(), rule.name().into_owned(), Arc::new(rule));
                if driver.passes.find(&name).is_some() {
                    let reason = format!("a pass `{name}` already exists, give the rule another name");
                    return Err(Error::BadInput(format!("{}: {reason}", path.display())));
                }
                driver.passes.add(rule.clone());
                driver.slots.push((slot, rule));
                driver.rules.push(name);
            }
        }
        Ok(driver)
    }

    /// The error for a failed pass: a bug of smelt or of the user's rule.
    pub(crate) fn pass_failed(&self, failure: Box<PassFailure>) -> Error {
        match failure.cause {
            Cause::Input => Error::BadInput(failure.reason),
            Cause::Unsupported => Error::Unsupported(failure.reason),
            Cause::Bug if self.rules.contains(&failure.pass) => Error::Rule(failure),
            Cause::Bug => Error::Pass(failure),
        }
    }

    /// The same driver with another op for graphs and texts.
    ///
    /// # Panics
    /// If there is an op of this name.
    pub fn op<T: DeclaredOp>(mut self) -> Driver {
        self.ops = self.ops.with::<T>();
        self
    }

    /// The same driver with a kernel for the CPU, preferred to smelt's own: how code generation calls it, and its code.
    pub fn cpu_kernel(mut self, kernel: impl Kernel + 'static, code: impl CpuKernel + 'static) -> Driver {
        self.kernels.push((Target::Cpu, Arc::new(kernel)));
        self.cpu_kernels.push(Arc::new(code));
        self
    }

    /// The same driver with a kernel for NVIDIA GPUs, preferred to smelt's own: how code generation calls it. Its code
    /// is the unit of the call and its headers.
    pub fn cuda_kernel(mut self, kernel: impl Kernel + 'static) -> Driver {
        self.kernels.push((Target::Sm90a, Arc::new(kernel)));
        self
    }

    /// The ops of the graph text.
    pub fn ops(&self) -> &OpSet {
        &self.ops
    }

    /// The passes of the command line.
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
        let own = self.kernels.iter().filter(|(wanted, _)| *wanted == target);
        own.fold(target.catalog(), |catalog, (_, kernel)| catalog.with(Box::new(Shared(Arc::clone(kernel)))))
    }

    /// Runs passes on the text of a graph, or the whole pipeline if none is named. Returns the graph, and what each pass
    /// did.
    pub fn optimize(
        &self,
        text: &str,
        names: &[String],
        options: &PassOptions,
        observer: &mut dyn Observer,
    ) -> Result<(Graph, Vec<PassTime>), Error> {
        self.check_disabled(&options.disabled)?;
        let passes = names.iter().map(|name| self.pass_named(name)).collect::<Result<Vec<_>, _>>()?;
        let parsed = ir::text::parse(text, &self.ops).map_err(|error| Error::BadInput(error.to_string()))?;
        let mut graph = parsed.graph;
        if let Err(found) = ir::verify(&graph, Stage::Imported) {
            let found: Vec<String> = found.iter().take(8).map(ToString::to_string).collect();
            return Err(Error::BadInput(format!("the graph is not legal: {}", found.join("; "))));
        }
        observer.imported(&graph);
        if let Some(pass) = passes.iter().find(|pass| pass.needs_calibration()) {
            let name = pass.name();
            return Err(Error::Usage(format!(
                "pass `{name}` needs a calibration, which only `Driver::compile` reads (`precision.calibration`)"
            )));
        }
        let pipeline = if names.is_empty() { self.pipeline() } else { Pipeline::of(passes) };
        let weights = DerivedWeights::over(&ir::NoWeights);
        let (manager, context) = (PassManager::new(options.clone()), PassContext::new(&weights));
        let reports = manager.run(&pipeline, &mut graph, &context, &mut ObservedPasses(Some(observer)));
        let reports = reports.map_err(|failure| self.pass_failed(failure))?;
        Ok((graph, reports.iter().map(PassTime::from).collect()))
    }

    /// Passes to disable must be known, and optional.
    pub(crate) fn check_disabled(&self, names: &[String]) -> Result<(), Error> {
        for name in names {
            if self.pass_named(name)?.required() {
                return Err(Error::Usage(format!(
                    "pass `{name}` cannot be disabled: later stages or the options require it"
                )));
            }
        }
        Ok(())
    }

    /// The pass of this name; the error lists known ones.
    pub fn pass_named(&self, name: &str) -> Result<Arc<dyn Pass>, Error> {
        self.passes.find(name).ok_or_else(|| {
            let known: Vec<String> = self.passes.iter().map(|pass| pass.name().into_owned()).collect();
            let near = ir::text::suggestion(name, known.iter().map(String::as_str));
            Error::Usage(format!("unknown pass `{name}`{near}, expected one of: {}", known.join(", ")))
        })
    }

    /// NVRTC with this driver's cache.
    pub(crate) fn compiler(&self) -> Result<Compiler, Error> {
        let nvrtc = codegen::cuda::find(&(self.cuda_folders)()).map_err(|reason| {
            let install = "`python3 -m pip install nvidia-cuda-nvrtc`, or SMELT_CUDA_HOME=DIR";
            Error::NoDevice(format!("compiling for a GPU requires NVRTC: {reason} ({install})"))
        })?;
        Ok(Compiler::new(nvrtc, self.unit_cache.clone()))
    }

    /// The target of a choice: the best that this machine can both compile for and run, unless one is named. A note
    /// says why a GPU is not used.
    pub(crate) fn target(&self, choice: &TargetChoice, progress: &mut dyn Progress) -> Result<ChosenTarget, Error> {
        let chosen = self.chosen_target(choice)?;
        if let Some(note) = chosen.note() {
            progress.note(&note);
        }
        Ok(chosen)
    }

    /// The same, with its reason.
    pub(crate) fn chosen_target(&self, choice: &TargetChoice) -> Result<ChosenTarget, Error> {
        match choice {
            TargetChoice::Named(name) => {
                let target =
                    name.parse().map_err(|error: codegen::UnknownTarget| Error::Unsupported(error.to_string()))?;
                Ok(ChosenTarget { target, reason: String::new(), unused_gpu: false })
            }
            TargetChoice::Auto => {
                let nvrtc = || self.compiler().map(|compiler| compiler.version()).map_err(|error| error.to_string());
                Ok(best_target(runtime::cuda::probe(), nvrtc))
            }
        }
    }

    /// Whether a plan for a choice of target can be compiled here, before any work is done for it: a GPU's requires NVRTC.
    pub fn check_compiler(&self, choice: &TargetChoice) -> Result<(), Error> {
        match self.chosen_target(choice)?.target.is_gpu() {
            true => self.compiler().map(drop),
            false => Ok(()),
        }
    }

    /// The memory that plans of a target have to fit in: that of the GPU here, or of the one that the target is for.
    pub fn device_memory(&self, target: Target) -> Option<DeviceMemory> {
        if !target.is_gpu() {
            let bytes = runtime::cpu::available_memory()?;
            return Some(DeviceMemory { device: "this machine, available now".to_owned(), bytes });
        }
        let here = runtime::cuda::probe().ok().and_then(|driver| {
            let device = driver.devices.get(usize::try_from(driver.device_for_plans().ok()?).ok()?)?;
            Some(DeviceMemory { device: device.name.clone(), bytes: device.memory_bytes })
        });
        let machine = Machine::of_target(target.name());
        here.or_else(|| Some(DeviceMemory { device: machine.title.to_owned(), bytes: machine.memory_bytes? }))
    }

    /// An executor for plans of a target.
    pub fn executor(&self, target: &str, options: RunOptions) -> Result<Box<dyn Executor>, ExecError> {
        match target.parse() {
            Ok(Target::Cpu) => Ok(Box::new(self.cpu_executor(options.threads)?)),
            Ok(Target::Sm90a) => {
                let executor = CudaExecutor::new()?;
                Ok(Box::new(if options.blocking { executor.blocking() } else { executor }))
            }
            Err(_) => Err(ExecError::WrongTarget { plan: target.to_owned(), executor: "cpu".to_owned() }),
        }
    }

    /// An executor for the CPU.
    pub fn cpu_executor(&self, threads: Option<usize>) -> Result<CpuExecutor, ExecError> {
        let own = self.cpu_kernels.iter().map(|kernel| -> Box<dyn CpuKernel> { Box::new(Shared(Arc::clone(kernel))) });
        Ok(CpuExecutor::new(threads)?.with_kernels(own.collect()))
    }
}

/// A target, and why it is the one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ChosenTarget {
    pub target: Target,
    /// Why the machine's best target is this one; empty if it was named.
    pub reason: String,
    /// Whether there is a GPU that cannot be used.
    unused_gpu: bool,
}

impl ChosenTarget {
    /// What a user who has a GPU may not expect.
    pub fn note(&self) -> Option<String> {
        self.unused_gpu.then(|| format!("compiling for the CPU: {}", self.reason))
    }
}

/// The best target of a machine.
fn best_target(
    driver: Result<runtime::cuda::Driver, String>,
    nvrtc: impl FnOnce() -> Result<(i32, i32), String>,
) -> ChosenTarget {
    let cpu = |reason: String, unused_gpu| ChosenTarget { target: Target::Cpu, reason, unused_gpu };
    let driver = match driver {
        Ok(driver) if driver.devices.is_empty() => return cpu("the NVIDIA driver reports no GPU".to_owned(), false),
        Ok(driver) => driver,
        Err(reason) => return cpu(format!("no NVIDIA driver: {reason}"), false),
    };
    let usable = || {
        let device = driver.device_for_plans()?;
        let ((major, minor), (newest, _)) = (nvrtc()?, driver.cuda_version);
        match major > newest {
            true => {
                Err(format!("the driver supports CUDA {newest}, NVRTC {major}.{minor} generates code for later ones"))
            }
            false => Ok(usize::try_from(device).ok().and_then(|device| driver.devices.get(device))),
        }
    };
    match usable() {
        Ok(device) => {
            let reason = device.map_or_else(String::new, |device| device.name.clone());
            ChosenTarget { target: Target::Sm90a, reason, unused_gpu: false }
        }
        Err(reason) => cpu(reason, true),
    }
}

/// A kernel that several catalogs hold.
#[derive(Debug)]
struct Shared<T: ?Sized>(Arc<T>);

impl Kernel for Shared<dyn Kernel> {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn call(&self, site: &Site<'_>) -> Result<Call, Refusal> {
        self.0.call(site)
    }

    fn candidates(&self, site: &Site<'_>) -> Result<Vec<Call>, Refusal> {
        self.0.candidates(site)
    }

    fn about(&self) -> About {
        self.0.about()
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

    unsafe fn run(&self, args: &Args, task: usize) -> Result<(), String> {
        // SAFETY: promised by the caller.
        unsafe { self.0.run(args, task) }
    }
}

impl std::fmt::Debug for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let passes: Vec<Cow<'_, str>> = self.passes.iter().map(|pass| pass.name()).collect();
        f.debug_struct("Driver").field("passes", &passes).field("slots", &self.slots).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use runtime::cuda::Device;

    use super::*;

    #[test]
    fn a_gpu_is_taken_where_all_is_there_for_it_or_the_reason_told() {
        let driver = |version, devices: &[(&str, (i32, i32))]| {
            let device = |(name, compute_capability): &(&str, (i32, i32))| Device {
                name: (*name).to_owned(),
                compute_capability: *compute_capability,
                memory_bytes: 1 << 30,
                uuid: String::new(),
            };
            Ok(runtime::cuda::Driver { cuda_version: version, devices: devices.iter().map(device).collect() })
        };
        let (a100, h200) = (("A100", (8, 0)), ("H200", (9, 0)));
        let nvrtc = |version| move || Ok(version);
        let chosen = |target, reason: &str| ChosenTarget { target, reason: reason.to_owned(), unused_gpu: false };
        let none = best_target(Err("libcuda.so was not found".to_owned()), nvrtc((13, 0)));
        assert_eq!(none, chosen(Target::Cpu, "no NVIDIA driver: libcuda.so was not found"));
        let empty = best_target(driver((13, 0), &[]), nvrtc((13, 0)));
        assert_eq!(empty, chosen(Target::Cpu, "the NVIDIA driver reports no GPU"));
        assert_eq!(best_target(driver((13, 0), &[h200]), nvrtc((13, 2))), chosen(Target::Sm90a, "H200"));
        let both = driver((13, 0), &[a100, h200]).expect("two devices");
        assert_eq!(both.device_for_plans(), Ok(1));
        assert_eq!(best_target(Ok(both), nvrtc((13, 0))), chosen(Target::Sm90a, "H200"));
        for (driver, version, reason) in [
            (driver((13, 0), &[a100]), Ok((13, 0)), "9.0, A100 has 8.0"),
            (driver((12, 8), &[h200]), Ok((13, 0)), "the driver supports CUDA 12.8, plans for sm_90a need 13.0"),
            (driver((13, 0), &[h200]), Ok((14, 1)), "NVRTC 14.1 generates code for later ones"),
            (driver((13, 0), &[h200]), Err("NVRTC was not found".to_owned()), "NVRTC was not found"),
        ] {
            let chosen = best_target(driver, || version);
            assert!(chosen.unused_gpu && chosen.target == Target::Cpu && chosen.reason.contains(reason), "{chosen:?}");
        }
    }
}
