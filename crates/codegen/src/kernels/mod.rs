//! What code generation knows of each target's kernels.

mod about;
pub(crate) mod cpu;
pub(crate) mod cuda;

use crate::{Call, Refusal};

/// What a kernel offers for an op, each configuration once: its own choice, and those of others that it takes.
fn distinct(
    own: Result<Call, Refusal>,
    others: impl Iterator<Item = Result<Call, Refusal>>,
) -> Result<Vec<Call>, Refusal> {
    let mut calls = vec![own?];
    for call in others.flatten() {
        if !calls.contains(&call) {
            calls.push(call);
        }
    }
    Ok(calls)
}
