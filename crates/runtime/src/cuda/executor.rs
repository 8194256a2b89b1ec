//! Loading plans onto a GPU: whether they are for it, and whether they fit.

use std::sync::Arc;

use plan::{ExecError, Executor, PlanFile, Session};

use super::driver::Context;
use super::failure::Failure;
use super::session::{CudaSession, Options, arena_bytes};

/// Runs plans for `sm_90a`.
#[derive(Clone, Debug)]
pub struct CudaExecutor {
    options: Options,
}

impl CudaExecutor {
    /// An executor on the first device that runs plans for `sm_90a`.
    pub fn new() -> Result<CudaExecutor, ExecError> {
        let driver = super::probe().map_err(|reason| ExecError::NoDevice(format!("no NVIDIA driver: {reason}")))?;
        let ordinal = driver.device_for_plans().map_err(ExecError::NoDevice)?;
        let context = Context::new(ordinal).map_err(Failure::device)?;
        Ok(CudaExecutor { options: Options { context, blocking: false, poison: false } })
    }

    /// Synchronizes after every launch, so that an error names its kernel. Slow.
    pub fn blocking(self) -> CudaExecutor {
        CudaExecutor { options: Options { blocking: true, ..self.options } }
    }

    /// Fills the arena with NaN before every step: elements that a kernel does not write become visible.
    pub fn poisoning(self) -> CudaExecutor {
        CudaExecutor { options: Options { poison: true, ..self.options } }
    }

    /// Free device memory in bytes.
    pub fn free_memory(&self) -> Result<u64, ExecError> {
        let free = self.options.context.make_current().and_then(|()| self.options.context.memory());
        free.map(|(free, _)| free).map_err(Failure::device)
    }
}

impl Executor for CudaExecutor {
    fn target(&self) -> &str {
        "sm_90a"
    }

    fn device(&self) -> String {
        self.options.context.name.clone()
    }

    fn load(&self, file: Arc<PlanFile>) -> Result<Box<dyn Session>, ExecError> {
        let plan = file.plan();
        if plan.target != self.target() {
            return Err(ExecError::WrongTarget { plan: plan.target.clone(), executor: self.target().to_owned() });
        }
        self.options.context.make_current().map_err(Failure::device)?;
        check_memory(&self.options.context, &file)?;
        Ok(Box::new(CudaSession::load(&self.options, &file)?))
    }
}

/// Refuses a plan that does not fit, with its sizes.
fn check_memory(context: &Context, file: &PlanFile) -> Result<(), ExecError> {
    let plan = file.plan();
    let (free, total) = context.memory().map_err(Failure::device)?;
    let weights: u64 = plan.weights.iter().filter_map(plan::Weight::bytes).sum();
    let kv: u64 = plan.kv.iter().map(plan::KvGroup::pool_bytes).sum();
    let workspace = arena_bytes(plan);
    // a generous estimate for modules, graphs and pinned tables
    let rest = 256 << 20;
    if weights + kv + workspace + rest <= free {
        return Ok(());
    }
    let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    let room = free.saturating_sub(weights + workspace + rest);
    let advice = match room {
        0 => "the weights alone do not fit".to_owned(),
        room => format!("compile again with --kv-cache {:.1}GiB or less", (gib(room) * 10.0).floor() / 10.0),
    };
    Err(ExecError::OutOfMemory(format!(
        "the plan does not fit {}: weights {:.2} GiB, KV cache {:.2} GiB, workspace {:.2} GiB; {:.2} GiB of {:.2} are \
         free; {advice}",
        context.name,
        gib(weights),
        gib(kv),
        gib(workspace),
        gib(free),
        gib(total)
    )))
}
