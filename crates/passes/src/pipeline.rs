//! The order of passes, with the reason for each position.

use std::sync::Arc;

use ir::Stage;

use crate::Pass;
use crate::cleanup::*;
use crate::fusion::*;

/// Where a user's passes may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// On the graph as imported.
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
    /// A user's passes run here.
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
            pass(Simplify),  // before fusion: finds silu that is written with a sigmoid
            pass(FoldCasts), // before merge-linears, which merges those with one result dtype
            pass(EliminateCommonSubexpressions), // after the above: equal values are then written alike
            pass(RemoveDeadOps),
            Entry::Reach(Stage::Canonical),
            Entry::Slot(Slot::BeforeFusion),
            pass(GatherRowsEarly), // first: it moves through simple ops, and fused ones have several results
            pass(MergeLinears),    // the fusions below look for the splits it makes
            pass(FuseSiluMul),     // before fuse-linear-activation, which would take the activation from its gate
            pass(FuseSwiglu),      // after fuse-silu-mul, whose op it matches
            pass(FuseLinearSwiglu), // after fuse-swiglu, whose op it matches
            pass(FuseLinearActivation), // after fuse-silu-mul: activations that are left gate nothing
            pass(FuseLinearAdd),   // before fuse-add-rms-norm: in an epilogue the sum costs no launch
            pass(FuseLinearQuantize), // after the other epilogues
            pass(FuseAddRmsNorm),  // sums of anything else
            pass(FuseAddLayerNorm), // the same
            pass(FuseNormLinear),  // after the two above, which fuse more
            pass(FuseNormQuantize), // for the same reason
            pass(FuseRopeAppendKv), // after merge-linears: q, k and v must be one packed row
            pass(FuseRopeAttention), // after fuse-rope-append-kv, whose op it matches
            pass(FuseElementwise), // last: takes what no fusion above has a kernel for
            pass(RemoveDeadOps),
            Entry::Reach(Stage::Fused),
            Entry::Slot(Slot::AfterFusion),
            Entry::Reach(Stage::Fused), // again: a user's pass must leave a graph that code generation accepts
        ],
    }
}

fn pass(pass: impl Pass + 'static) -> Entry {
    Entry::Pass(Arc::new(pass))
}

impl Pipeline {
    /// A pipeline of only these passes, for tests and `smelt opt`.
    pub fn of(passes: Vec<Arc<dyn Pass>>) -> Pipeline {
        Pipeline { entries: passes.into_iter().map(Entry::Pass).collect() }
    }

    /// The entries, in order.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The same pipeline with a pass at the end of a slot.
    pub fn with(mut self, slot: Slot, pass: Arc<dyn Pass>) -> Pipeline {
        let at = self.entries.iter().position(|entry| matches!(entry, Entry::Slot(found) if *found == slot));
        // The pass is inserted before the slot's mark: the next one at the same slot then follows it.
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
