//! The ops, one per file, and their list.

mod argmax;
mod attention;
mod concat;
mod constant;
mod elementwise;
mod embedding;
mod fused_linear;
mod gated;
mod gather;
mod layer_norm;
mod linear;
mod map;
mod norm;
mod norm_quantize;
mod pointwise;
pub mod quantize;
mod rope;

pub use argmax::Argmax;
pub use attention::{AppendKv, KvAccess, PagedAttention, RopeAppendKv, RopeAttention};
pub use concat::{Concat, Split};
pub use constant::{Constant, Input};
pub use elementwise::{Add, Cast, Clamp, Gelu, GeluTanh, Mul, Offset, Relu, Scale, Sigmoid, Silu, Softcap, Tanh};
pub use embedding::Embedding;
pub use fused_linear::{
    Epilogue, Epilogues, FusedLinear, LinearParts, Norm, OrderedEpilogue, Prologue, Quantized, Scales,
};
pub use gated::{SiluMul, Swiglu};
pub use gather::GatherRows;
pub use layer_norm::{AddLayerNorm, LayerNorm};
pub use linear::Linear;
pub use map::Map;
pub use norm::{AddRmsNorm, RmsNorm};
pub use norm_quantize::RmsNormQuantize;
pub use pointwise::Pointwise;
pub use quantize::{Dequantize, Quantize, QuantizeBlocks};
pub use rope::{Rope, RopeFrequencies, RopeScaling};

use crate::{DeclaredOp, OpInfo};

/// The ops that text may name. `constant` and graph inputs have their own syntax.
#[derive(Clone, Debug)]
pub struct OpSet {
    ops: Vec<OpInfo>,
}

impl OpSet {
    /// The ops of smelt.
    pub fn standard() -> OpSet {
        macro_rules! list {
            ($($op:ident),* $(,)?) => { OpSet { ops: vec![$(OpInfo::of::<$op>()),*] } };
        }
        list![
            Add,
            AddLayerNorm,
            AddRmsNorm,
            AppendKv,
            Argmax,
            Cast,
            Clamp,
            Concat,
            Dequantize,
            Embedding,
            FusedLinear,
            GatherRows,
            Gelu,
            GeluTanh,
            LayerNorm,
            Linear,
            Map,
            Mul,
            Offset,
            PagedAttention,
            Quantize,
            QuantizeBlocks,
            Relu,
            RmsNorm,
            RmsNormQuantize,
            Rope,
            RopeAppendKv,
            RopeAttention,
            RopeFrequencies,
            Scale,
            Sigmoid,
            Silu,
            SiluMul,
            Softcap,
            Split,
            Swiglu,
            Tanh,
        ]
    }

    /// The same set with one more op.
    ///
    /// # Panics
    /// If an op of this name exists: its text would be ambiguous.
    pub fn with<T: DeclaredOp>(mut self) -> OpSet {
        assert!(self.find(T::MNEMONIC).is_none(), "an op `{}` already exists", T::MNEMONIC);
        self.ops.push(OpInfo::of::<T>());
        self
    }

    /// The op of this name.
    pub fn find(&self, mnemonic: &str) -> Option<&OpInfo> {
        self.ops.iter().find(|op| op.mnemonic == mnemonic)
    }

    /// All ops.
    pub fn iter(&self) -> impl Iterator<Item = &OpInfo> {
        self.ops.iter()
    }
}
