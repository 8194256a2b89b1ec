//! Kernel descriptions of each target.

mod about;
pub(crate) mod cpu;
pub(crate) mod cuda;

use crate::{Call, Refusal};

/// All distinct configurations of a kernel for an op: its own choice, and other candidates.
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
