//! GPU plans without a GPU: launches are checked instead of run.

use std::sync::Arc;

use plan::{ExecError, Executor, PlanFile, Session};
use runtime::TraceExecutor;

/// Accepts plans for `sm_90a`, and runs them as [`TraceExecutor`] does.
#[derive(Debug, Default)]
pub struct Traced(TraceExecutor);

impl Executor for Traced {
    fn target(&self) -> &str {
        "sm_90a"
    }

    fn device(&self) -> String {
        self.0.device()
    }

    fn load(&self, file: Arc<PlanFile>) -> Result<Box<dyn Session>, ExecError> {
        self.0.load(file)
    }
}
