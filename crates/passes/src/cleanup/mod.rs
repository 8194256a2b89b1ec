//! Passes that make a graph smaller or plainer without fusing anything.

mod canonicalize;
mod fold_constants;
mod remove_dead_ops;

pub use canonicalize::Canonicalize;
pub use fold_constants::FoldConstants;
pub use remove_dead_ops::RemoveDeadOps;
