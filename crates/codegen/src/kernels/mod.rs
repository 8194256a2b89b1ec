//! What code generation knows of each target's kernels.

pub(crate) mod cpu;
pub(crate) mod cuda;

use crate::{Call, Refusal};

/// Candidates in their order, each once: some sizes make configurations equal.
fn distinct(candidates: impl Iterator<Item = Result<Call, Refusal>>) -> Result<Vec<Call>, Refusal> {
    let mut calls = Vec::new();
    for call in candidates {
        let call = call?;
        if !calls.contains(&call) {
            calls.push(call);
        }
    }
    Ok(calls)
}
