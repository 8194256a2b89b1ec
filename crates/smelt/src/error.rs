//! Errors, grouped by who has to act.

use std::path::PathBuf;
use std::time::Duration;

/// Why something was not compiled, loaded or generated.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The checkpoint was not imported.
    #[error(transparent)]
    Import(#[from] frontend::ImportError),
    /// A pass produced an invalid graph.
    #[error(transparent)]
    Pass(#[from] Box<passes::PassFailure>),
    /// A user's rewrite rule did.
    #[error(transparent)]
    Rule(Box<passes::PassFailure>),
    /// The graph could not be lowered to a plan.
    #[error(transparent)]
    Codegen(#[from] codegen::CodegenError),
    /// A plan file was not written or not read.
    #[error(transparent)]
    Plan(#[from] plan::PlanError),
    /// A device failed.
    #[error(transparent)]
    Exec(#[from] plan::ExecError),
    /// A request was refused, or its step failed.
    #[error(transparent)]
    Engine(#[from] engine::EngineError),
    /// A service did not take a request.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The tokenizer failed.
    #[error(transparent)]
    Text(#[from] text::TextError),
    /// A file changed while it was read.
    #[error(transparent)]
    Changed(#[from] plan::input::Changed),
    /// A file was not read or written.
    #[error("{path}: {error}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        error: std::io::Error,
    },
    /// An option has an invalid value.
    #[error("{0}")]
    Usage(String),
    /// The input is invalid.
    #[error("{0}")]
    BadInput(String),
    /// Unsupported by this program.
    #[error("{0}")]
    Unsupported(String),
    /// No device, driver or CUDA library.
    #[error("{0}")]
    NoDevice(String),
    /// More memory than available, or than allowed.
    #[error("{0}")]
    DoesNotFit(String),
    /// A plan fails its accuracy gate.
    #[error(transparent)]
    Gate(Box<crate::GateFailure>),
}

/// Why a service did not take a request, which is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// As many wait as may.
    #[error("too many requests wait, try again in {:.1} s", .retry_after.as_secs_f64())]
    Full {
        /// When one of them is likely to have left.
        retry_after: Duration,
    },
    /// It finishes what it has.
    #[error("the service is shutting down")]
    Draining,
    /// Its thread has ended.
    #[error("the service has stopped")]
    Stopped,
}

/// Classes of errors: a command line has an exit code for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// A bug of smelt, or of an extension.
    Internal,
    /// A bad option.
    Usage,
    /// A bad checkpoint, plan or prompt.
    BadInput,
    /// An architecture, op, format or target that is not supported.
    Unsupported,
    /// No device or CUDA library.
    NoDevice,
    /// Does not fit.
    DoesNotFit,
    /// Fails its accuracy gate.
    Inaccurate,
}

impl Error {
    /// The file system's error, if it refused.
    fn io(&self) -> Option<&std::io::Error> {
        use codegen::CodegenError;
        use plan::{ExecError, PlanError};
        let plan = match self {
            Error::Io { error, .. } => return Some(error),
            Error::Plan(error) | Error::Codegen(CodegenError::Plan(error)) | Error::Exec(ExecError::Plan(error)) => {
                error
            }
            Error::Codegen(CodegenError::Timing { error, .. }) => match error.as_ref() {
                ExecError::Plan(error) => error,
                _ => return None,
            },
            _ => return None,
        };
        if let PlanError::Io { error, .. } = plan { Some(error) } else { None }
    }

    /// The class of the error.
    pub fn kind(&self) -> ErrorKind {
        use codegen::CodegenError;
        use engine::EngineError;
        use frontend::ImportError;
        if let Some(error) = self.io() {
            return io_kind(error);
        }
        match self {
            Error::Usage(_) => ErrorKind::Usage,
            Error::BadInput(_)
            | Error::Rule(_)
            | Error::Plan(_)
            | Error::Changed(_)
            | Error::Io { .. }
            | Error::Text(_) => ErrorKind::BadInput,
            Error::Unsupported(_) => ErrorKind::Unsupported,
            Error::NoDevice(_) => ErrorKind::NoDevice,
            Error::DoesNotFit(_) => ErrorKind::DoesNotFit,
            Error::Gate(_) => ErrorKind::Inaccurate,
            Error::Refused(Refused::Full { .. } | Refused::Draining) => ErrorKind::DoesNotFit,
            Error::Refused(Refused::Stopped) => ErrorKind::Internal,
            Error::Pass(_) => ErrorKind::Internal,
            Error::Import(ImportError::BadInput(_)) => ErrorKind::BadInput,
            Error::Import(ImportError::Unsupported(_)) => ErrorKind::Unsupported,
            Error::Import(ImportError::Options(_)) => ErrorKind::Usage,
            Error::Import(ImportError::Graph(_)) => ErrorKind::Internal,
            Error::Codegen(CodegenError::NoKernel { .. }) => ErrorKind::Unsupported,
            Error::Codegen(CodegenError::Weights(_) | CodegenError::Plan(_)) => ErrorKind::BadInput,
            Error::Codegen(CodegenError::Constant(_) | CodegenError::Graph(_) | CodegenError::Units { .. }) => {
                ErrorKind::Internal
            }
            Error::Engine(EngineError::Request(_) | EngineError::Plan(_) | EngineError::NotFinite { .. }) => {
                ErrorKind::BadInput
            }
            Error::Exec(error) => exec_kind(error),
            Error::Engine(EngineError::Exec(error)) => exec_kind(error),
            Error::Codegen(CodegenError::Timing { error, .. }) => exec_kind(error),
        }
    }
}

/// An output that is an input is a bad option; a full disk, and the limits on files that act like one, mean "does not
/// fit".
fn io_kind(error: &std::io::Error) -> ErrorKind {
    use std::io::ErrorKind as Io;
    match error.kind() {
        _ if plan::claims::is_conflict(error) => ErrorKind::Usage,
        Io::StorageFull | Io::QuotaExceeded | Io::FileTooLarge => ErrorKind::DoesNotFit,
        _ => ErrorKind::BadInput,
    }
}

fn exec_kind(error: &plan::ExecError) -> ErrorKind {
    use plan::ExecError;
    match error {
        ExecError::WrongTarget { .. } | ExecError::Unsupported(_) => ErrorKind::Unsupported,
        ExecError::Plan(_) => ErrorKind::BadInput,
        ExecError::NoDevice(_) => ErrorKind::NoDevice,
        ExecError::OutOfMemory(_) => ErrorKind::DoesNotFit,
        ExecError::Bindings { .. } | ExecError::Kernel { .. } | ExecError::Device { .. } => ErrorKind::Internal,
    }
}
