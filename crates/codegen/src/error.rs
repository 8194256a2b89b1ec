//! Why no plan was made.

use ir::EvalError;
use plan::{ExecError, PlanError};

use crate::recipe::WriteError;

/// Errors of code generation.
#[derive(Debug, thiserror::Error)]
pub enum CodegenError {
    /// Ops without a kernel.
    #[error("target `{target}`: {}", .problems.join("\n"))]
    NoKernel {
        /// Name of the target.
        target: String,
        /// One line per op.
        problems: Vec<String>,
    },
    /// Units that do not compile.
    #[error("{}", .problems.join("\n"))]
    Units {
        /// The compiler's log of each unit.
        problems: Vec<String>,
    },
    /// Candidates for an op could not be timed.
    #[error("timing `{op}`: {error}")]
    Timing {
        /// The op.
        op: String,
        /// The device's error.
        error: Box<ExecError>,
    },
    /// A constant could not be computed.
    #[error("weights: {0}")]
    Constant(#[from] EvalError),
    /// The checkpoint could not be read.
    #[error("weights: {0}")]
    Weights(String),
    /// The plan could not be written.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The graph cannot be executed.
    #[error("{0}")]
    Graph(String),
}

impl From<WriteError> for CodegenError {
    fn from(error: WriteError) -> CodegenError {
        match error {
            WriteError::Weights(reason) => CodegenError::Weights(reason),
            WriteError::Plan(error) => CodegenError::Plan(error),
        }
    }
}
