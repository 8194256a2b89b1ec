//! The list of passes that text and command lines may name.

use crate::{
    Canonicalize, FoldConstants, FuseAddRmsNorm, FuseRopeAppendKv, FuseSiluMul, FuseSwiglu, MergeLinears, Pass,
    RemoveDeadOps,
};

/// A row of the list.
#[derive(Clone, Copy, Debug)]
pub struct PassInfo {
    /// One line: what it does.
    pub summary: &'static str,
    /// Makes the pass.
    pub make: fn() -> Box<dyn Pass>,
}

/// Passes by name.
#[derive(Clone, Debug)]
pub struct PassList {
    passes: Vec<PassInfo>,
}

macro_rules! declare_passes {
    ($($pass:ident: $summary:literal),* $(,)?) => {
        PassList { passes: vec![$(PassInfo { summary: $summary, make: || Box::new($pass) }),*] }
    };
}

impl PassList {
    /// The passes of smelt.
    pub fn standard() -> PassList {
        declare_passes![
            Canonicalize: "one spelling per meaning: drops casts, joins and splits that do nothing",
            FoldConstants: "equal constants, and equal ops over constants, become one",
            FuseAddRmsNorm: "rms_norm(a + b, w) becomes add_rms_norm(a, b, w)",
            FuseRopeAppendKv: "rope of q and k and append_kv of k and v over one packed row become rope_append_kv",
            FuseSiluMul: "silu(g) * u becomes silu_mul(g, u)",
            FuseSwiglu: "silu_mul of the two halves of a packed row becomes swiglu",
            MergeLinears: "linears over one x become one linear with joined weights, and a split",
            RemoveDeadOps: "removes ops whose results nothing uses",
        ]
    }

    /// The same list with one more pass.
    pub fn with(mut self, info: PassInfo) -> PassList {
        self.passes.push(info);
        self
    }

    /// The pass of this name.
    pub fn find(&self, name: &str) -> Option<Box<dyn Pass>> {
        self.iter().find(|(pass, _)| pass.name() == name).map(|(pass, _)| pass)
    }

    /// All passes with their summaries.
    pub fn iter(&self) -> impl Iterator<Item = (Box<dyn Pass>, &'static str)> + '_ {
        self.passes.iter().map(|info| ((info.make)(), info.summary))
    }
}
