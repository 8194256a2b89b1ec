//! The order of passes, with the reason for each place in the margin.

use std::sync::Arc;

use ir::Stage;

use crate::{
    Canonicalize, EliminateCommonSubexpressions, FoldCasts, FuseAddLayerNorm, FuseAddRmsNorm, FuseElementwise,
    FuseLinearActivation, FuseLinearAdd, FuseLinearQuantize, FuseLinearSwiglu, FuseNormLinear, FuseNormQuantize,
    FuseRopeAppendKv, FuseRopeAttention, FuseSiluMul, FuseSwiglu, GatherRowsEarly, MergeLinears, Pass, RemoveDeadOps,
    Simplify,
};

/// Where a user's passes may enter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// On the graph as the frontend made it.
    AfterImport,
    /// On the canonical graph, before anything is fused.
    BeforeFusion,
    /// On the fused graph, before kernels are chosen.
    AfterFusion,
}

/// One line of a pipeline.
#[derive(Debug)]
pub enum Entry {
    /// Runs a pass.
    Pass(Arc<dyn Pass>),
    /// From here on the graph must be legal at this stage.
    Reach(Stage),
    /// A user's passes enter here.
    Slot(Slot),
}

/// Passes in order.
#[derive(Debug)]
pub struct Pipeline {
    entries: Vec<Entry>,
}

/// The pipeline that `compile` runs.
pub fn standard() -> Pipeline {
    Pipeline {
        entries: vec![
            Entry::Reach(Stage::Imported),
            Entry::Slot(Slot::AfterImport),
            pass(Canonicalize),
            pass(Simplify),  // before fusion: finds the silu that others write as a sigmoid
            pass(FoldCasts), // before merge-linears, which joins those that round alike
            pass(EliminateCommonSubexpressions), // after the above: equal values are then spelled alike
            pass(RemoveDeadOps),
            Entry::Reach(Stage::Canonical),
            Entry::Slot(Slot::BeforeFusion),
            pass(GatherRowsEarly), // first: rows move through single ops, and fused ones have several results
            pass(MergeLinears),    // the fusions below look for the splits it makes
            pass(FuseSiluMul),
            pass(FuseSwiglu),           // after fuse-silu-mul, whose op it matches
            pass(FuseLinearSwiglu),     // after fuse-swiglu, whose op it matches
            pass(FuseLinearActivation), // after fuse-silu-mul: an activation that gates goes with its gate
            pass(FuseLinearAdd),        // before fuse-add-rms-norm: behind a linear the sum costs no launch
            pass(FuseLinearQuantize),   // after what else stands behind a linear
            pass(FuseAddRmsNorm),       // sums of anything else
            pass(FuseAddLayerNorm),     // the same
            pass(FuseNormLinear),       // after the two above, which take more with them
            pass(FuseNormQuantize),     // for the same reason
            pass(FuseRopeAppendKv),     // after merge-linears: q, k and v must be one packed row
            pass(FuseRopeAttention),    // after fuse-rope-append-kv, whose op it matches
            pass(FuseElementwise),      // last: takes what no fusion above has a kernel for
            pass(RemoveDeadOps),
            Entry::Reach(Stage::Fused),
            Entry::Slot(Slot::AfterFusion),
            Entry::Reach(Stage::Fused), // again: a user's pass must leave what code generation takes
        ],
    }
}

fn pass(pass: impl Pass + 'static) -> Entry {
    Entry::Pass(Arc::new(pass))
}

impl Pipeline {
    /// A pipeline of these passes alone, for tests and `smelt opt`.
    pub fn of(passes: Vec<Arc<dyn Pass>>) -> Pipeline {
        Pipeline { entries: passes.into_iter().map(Entry::Pass).collect() }
    }

    /// The lines, in order.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The same pipeline with a pass at the end of a slot.
    pub fn with(mut self, slot: Slot, pass: Arc<dyn Pass>) -> Pipeline {
        let at = self.entries.iter().position(|entry| matches!(entry, Entry::Slot(found) if *found == slot));
        // The pass goes before the slot's mark: the next one at the same slot then comes behind it.
        let at = at.unwrap_or(self.entries.len());
        self.entries.insert(at, Entry::Pass(pass));
        self
    }

    /// The pipeline up to the point where the graph has reached a stage.
    pub fn until(mut self, stage: Stage) -> Pipeline {
        let at = self.entries.iter().position(|entry| matches!(entry, Entry::Reach(found) if *found == stage));
        self.entries.truncate(at.map_or(self.entries.len(), |at| at + 1));
        self
    }
}
