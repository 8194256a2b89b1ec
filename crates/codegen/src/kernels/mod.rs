//! What code generation knows of each target's kernels.

pub(crate) mod cpu;
pub(crate) mod cuda;
