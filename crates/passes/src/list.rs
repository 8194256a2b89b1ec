//! The list of passes, by name, for test cases and the command line.

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
    /// A one-line description.
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
            Canonicalize: "removes redundant casts, joins and splits, and flattens nested ones",
            EliminateCommonSubexpressions: "merges equal ops with equal operands",
            FoldCasts: "folds casts into the linear, norm or rope that computes their operand",
            FuseAddLayerNorm: "layer_norm(a + b, w, bias) becomes add_layer_norm(a, b, w, bias)",
            FuseAddRmsNorm: "rms_norm(a + b, w) becomes add_rms_norm(a, b, w)",
            FuseElementwise: "fuses elementwise ops that read each other's results into one map",
            FuseLinearActivation: "f(linear(x, w)) becomes fused_linear with the activation or scale f in its epilogue",
            FuseLinearAdd: "r + linear(x, w) becomes fused_linear with the residual add in its epilogue",
            FuseLinearQuantize: "quantize(linear(x, w), scale) becomes fused_linear with a quantized result, one scale per tensor",
            FuseLinearSwiglu: "swiglu(linear(x, w)) becomes fused_linear with the gate in its epilogue",
            FuseNormLinear: "linear(rms_norm(x, g), w) becomes fused_linear with the norm in its prologue; the same for layer_norm",
            FuseNormQuantize: "quantize_blocks(rms_norm(x, g)) becomes rms_norm_quantize(x, g); the same for quantize with one scale",
            FuseRopeAppendKv: "rope of q and k and append_kv of k and v from one packed row become rope_append_kv",
            FuseRopeAttention: "rope_append_kv and the paged_attention after it become rope_attention",
            FuseSiluMul: "silu(g) * u becomes silu_mul(g, u)",
            FuseSwiglu: "silu_mul of the two halves of a packed row becomes swiglu",
            GatherRowsEarly: "moves gather_rows up through row-wise ops",
            InsertObservers: "makes inputs of linear layers and keys and values outputs, for calibration",
            MergeLinears: "merges linear layers with the same input into one with concatenated weights, and a split",
            QuantizeFp8: "E4M3 weights and activations, scales per output and per token",
            QuantizeFp8Block: "E4M3 weights and activations, scales per 128 x 128 weights and 128 activations",
            QuantizeInt4: "4-bit weights in groups of 128, rounded to nearest",
            QuantizeInt4Awq: "4-bit weights in groups of 128 with AWQ channel scaling; needs a calibration",
            QuantizeInt4Gptq: "4-bit weights in groups of 128 with GPTQ error compensation; needs a calibration",
            QuantizeInt8Smoothquant: "8-bit integer weights and activations with SmoothQuant channel scaling; needs a calibration",
            QuantizeInt8Weight: "8-bit integer weights, scales per output",
            RemoveDeadOps: "removes ops whose results nothing uses",
            ScaleKv: "folds per-head scales of a quantized KV cache into weights; needs a calibration",
            Simplify: "removes scales and offsets without effect, and merges pairs of ops",
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
