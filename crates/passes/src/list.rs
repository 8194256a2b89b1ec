//! The list of passes that text and command lines may name.

use std::sync::Arc;

use crate::calibration::InsertObservers;
use crate::quantize::{
    QuantizeFp8, QuantizeFp8Block, QuantizeInt4, QuantizeInt4Awq, QuantizeInt4Gptq, QuantizeInt8Smoothquant,
    QuantizeInt8Weight, ScaleKv,
};
use crate::{
    Canonicalize, EliminateCommonSubexpressions, FoldCasts, FuseAddLayerNorm, FuseAddRmsNorm, FuseElementwise,
    FuseLinearActivation, FuseLinearAdd, FuseLinearQuantize, FuseLinearSwiglu, FuseNormLinear, FuseNormQuantize,
    FuseRopeAppendKv, FuseRopeAttention, FuseSiluMul, FuseSwiglu, GatherRowsEarly, MergeLinears, Pass, RemoveDeadOps,
    Simplify,
};

/// A row of the list.
#[derive(Clone, Debug)]
pub struct PassInfo {
    /// The pass.
    pub pass: Arc<dyn Pass>,
    /// One line: what it does.
    pub summary: &'static str,
}

/// Passes by name.
#[derive(Clone, Debug)]
pub struct PassList {
    passes: Vec<PassInfo>,
}

macro_rules! declare_passes {
    ($($pass:ident: $summary:literal),* $(,)?) => {
        PassList { passes: vec![$(PassInfo { pass: Arc::new($pass::default()), summary: $summary }),*] }
    };
}

impl PassList {
    /// The passes of smelt.
    pub fn standard() -> PassList {
        declare_passes![
            Canonicalize: "one spelling per meaning: drops casts, joins and splits that do nothing",
            EliminateCommonSubexpressions: "equal ops over equal operands become one",
            FoldCasts: "casts of what linears, norms and rotations compute become their rounding",
            FuseAddLayerNorm: "layer_norm(a + b, w, bias) becomes add_layer_norm(a, b, w, bias)",
            FuseAddRmsNorm: "rms_norm(a + b, w) becomes add_rms_norm(a, b, w)",
            FuseElementwise: "ops on elements that read each other's values become one map",
            FuseLinearActivation: "f(linear(x, w)) becomes fused_linear with the activation or scale f behind the product",
            FuseLinearAdd: "r + linear(x, w) becomes fused_linear with the residual behind the product",
            FuseLinearQuantize: "quantize(linear(x, w), scale) becomes fused_linear that makes codes, by one scale for all",
            FuseLinearSwiglu: "swiglu(linear(x, w)) becomes fused_linear with the gate behind the product",
            FuseNormLinear: "linear(rms_norm(x, gain), w) becomes fused_linear with the norm before the product, and layer_norm alike",
            FuseNormQuantize: "quantize_blocks(rms_norm(x, gain)) becomes rms_norm_quantize(x, gain), and quantize by one scale alike",
            FuseRopeAppendKv: "rope of q and k and append_kv of k and v over one packed row become rope_append_kv",
            FuseRopeAttention: "rope_append_kv and the attention over what it leaves become rope_attention",
            FuseSiluMul: "silu(g) * u becomes silu_mul(g, u)",
            FuseSwiglu: "silu_mul of the two halves of a packed row becomes swiglu",
            GatherRowsEarly: "gather_rows moves up through what works row by row",
            InsertObservers: "what linears read and the KV cache keeps becomes outputs, for calibration",
            MergeLinears: "linears over one x become one linear with joined weights, and a split",
            QuantizeFp8: "linears over E4M3 codes, scaled by output and by token",
            QuantizeFp8Block: "linears over E4M3 codes, scaled by 128 x 128 weights and 128 activations",
            QuantizeInt4: "linears over 4-bit weights in groups of 128, rounded to the nearest",
            QuantizeInt4Awq: "the same behind factors that spare what large activations meet; needs a calibration",
            QuantizeInt4Gptq: "the same, each column making good what those before did; needs a calibration",
            QuantizeInt8Smoothquant: "linears over 8-bit integers on both sides, channels smoothed; needs a calibration",
            QuantizeInt8Weight: "linears over 8-bit weights, scaled by output",
            RemoveDeadOps: "removes ops whose results nothing uses",
            ScaleKv: "keys and values of a cache of codes get scales of heads, in weights; needs a calibration",
            Simplify: "drops scales and offsets that change nothing, and says in one op what was said in two",
        ]
    }

    /// Adds a pass.
    pub fn add(&mut self, pass: Arc<dyn Pass>, summary: &'static str) {
        self.passes.push(PassInfo { pass, summary });
    }

    /// The pass of this name.
    pub fn find(&self, name: &str) -> Option<Arc<dyn Pass>> {
        self.iter().find(|info| info.pass.name() == name).map(|info| Arc::clone(&info.pass))
    }

    /// All passes.
    pub fn iter(&self) -> impl Iterator<Item = &PassInfo> {
        self.passes.iter()
    }
}
