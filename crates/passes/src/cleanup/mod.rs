//! Passes that make a graph smaller or simpler without fusing ops.

mod canonicalize;
mod eliminate_common_subexpressions;
mod fold_casts;
mod gather_rows_early;
mod remove_dead_ops;
mod simplify;

pub use canonicalize::Canonicalize;
pub use eliminate_common_subexpressions::EliminateCommonSubexpressions;
pub use fold_casts::FoldCasts;
pub use gather_rows_early::GatherRowsEarly;
pub use remove_dead_ops::RemoveDeadOps;
pub use simplify::Simplify;
