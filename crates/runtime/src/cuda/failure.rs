//! Errors of driver calls. Out of memory is distinguished by the driver's code, for any call: it is not a failure of
//! the device, and a smaller plan helps.

use cudarc::driver::{result, sys};
use plan::ExecError;

/// A call that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    reason: String,
    out_of_memory: bool,
}

impl Failure {
    /// The driver's error of a call for `what`.
    pub fn of(what: &str, error: result::DriverError) -> Failure {
        let text =
            error.error_string().map_or_else(|_| format!("{error:?}"), |text| text.to_string_lossy().into_owned());
        let out_of_memory = error.0 == sys::cudaError_enum::CUDA_ERROR_OUT_OF_MEMORY;
        let free = if out_of_memory { result::mem_get_info().ok() } else { None };
        let free = free.map(|(free, total)| format!(", {free} of {total} bytes are free")).unwrap_or_default();
        Failure { reason: format!("{what}: {text}{free}"), out_of_memory }
    }

    /// The same failure with its location.
    pub fn at(self, place: &str) -> Failure {
        Failure { reason: format!("{place}: {}", self.reason), ..self }
    }

    /// The error of a session: out of memory, or the one that `otherwise` returns for the reason.
    pub fn or(self, otherwise: impl FnOnce(String) -> ExecError) -> ExecError {
        if self.out_of_memory { ExecError::OutOfMemory(self.reason) } else { otherwise(self.reason) }
    }

    /// The error of a device that fails a basic call.
    pub fn device(self) -> ExecError {
        self.or(ExecError::NoDevice)
    }
}

impl From<String> for Failure {
    fn from(reason: String) -> Failure {
        Failure { reason, out_of_memory: false }
    }
}

impl From<&str> for Failure {
    fn from(reason: &str) -> Failure {
        reason.to_owned().into()
    }
}
