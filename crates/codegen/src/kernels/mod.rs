//! What code generation knows of each target's kernels.

mod about;
pub(crate) mod cpu;
pub(crate) mod cuda;
