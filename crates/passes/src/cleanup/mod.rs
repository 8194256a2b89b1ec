//! Passes that make a graph smaller or simpler without fusing ops.

passes! {
    canonicalize: Canonicalize,
    eliminate_common_subexpressions: EliminateCommonSubexpressions,
    fold_casts: FoldCasts,
    gather_rows_early: GatherRowsEarly,
    remove_dead_ops: RemoveDeadOps,
    simplify: Simplify,
}
