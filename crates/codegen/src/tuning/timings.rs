//! Measurements on one device, and the choice by them.

use std::collections::BTreeMap;
use std::fmt::Write;

use plan::Param;

use crate::kernel::param_text;

/// Measurements on one device: for each op, the outcome of each candidate by its kernel and configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Timings {
    /// By the key of the op, then by that of the candidate.
    pub ops: BTreeMap<String, BTreeMap<String, Outcome>>,
}

/// The outcome of a candidate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// A hash of the measured code: for other code the outcome is invalid.
    pub code: String,
    /// Nanoseconds per launch, or why the compiled code was not measured.
    pub nanoseconds: Result<u64, String>,
}

/// A candidate with its outcome, for reports.
#[derive(Clone, Debug, PartialEq)]
pub struct Timed {
    /// Name of the kernel.
    pub kernel: &'static str,
    /// Its configuration.
    pub params: Vec<Param>,
    /// As in [`Outcome::nanoseconds`].
    pub nanoseconds: Result<u64, String>,
}

impl Timings {
    /// Adds outcomes for an op, replacing those of the same candidates.
    pub fn record(&mut self, op: &str, outcomes: BTreeMap<String, Outcome>) {
        self.ops.entry(op.to_owned()).or_default().extend(outcomes);
    }
}

/// `linear_skinny {warps = 8, strips = 1} 14.8 µs; {warps = 16, strips = 2} 15.6 µs`: a kernel is named where it
/// changes, and parameters that all its candidates share are omitted.
pub(crate) fn print_timed(timed: &[Timed]) -> String {
    let mut out = String::new();
    let mut last = "";
    for candidate in timed {
        let family = || timed.iter().filter(|other| other.kernel == candidate.kernel);
        let shared = |param: &&Param| family().count() > 1 && family().all(|other| other.params.contains(param));
        let own: Vec<String> = candidate.params.iter().filter(|param| !shared(param)).map(param_text).collect();
        let separator = if out.is_empty() { "" } else { "; " };
        let name = if candidate.kernel == last { String::new() } else { format!("{} ", candidate.kernel) };
        last = candidate.kernel;
        let outcome = match &candidate.nanoseconds {
            Ok(time) if *time < 10_000_000 => format!("{:.1} µs", *time as f64 / 1e3),
            Ok(time) => format!("{:.1} ms", *time as f64 / 1e6),
            Err(reason) => format!("slow ({reason})"),
        };
        // Writing to a String cannot fail.
        let _ = write!(out, "{separator}{name}{{{}}} {outcome}", own.join(", "));
    }
    out
}
