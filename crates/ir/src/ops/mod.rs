//! The ops, one line per file.

use crate::{DeclaredOp, OpInfo};

/// Declares the files with their ops: the modules, what they export, and the list that text may name.
macro_rules! ops {
    ($($file:ident: $($op:ident),+;)+) => {
        $(mod $file;)+
        $(pub use $file::*;)+

        /// The ops of these files.
        fn listed() -> Vec<OpInfo> {
            vec![$($(OpInfo::of::<$op>()),+),+]
        }
    };
}

ops! {
    argmax: Argmax;
    attention: AppendKv, PagedAttention, RopeAppendKv, RopeAttention;
    concat: Concat, Split;
    embedding: Embedding;
    fused_linear: FusedLinear;
    gated: SiluMul, Swiglu;
    gather: GatherRows;
    layer_norm: AddLayerNorm, LayerNorm;
    linear: Linear;
    map: Map;
    norm: AddRmsNorm, RmsNorm;
    norm_quantize: RmsNormQuantize;
    quantize: Dequantize, Quantize, QuantizeBlocks;
    rope: Rope, RopeFrequencies;
}

// `constant` and inputs have a syntax of their own in text
mod constant;
// lists its ops itself, in its rows
mod elementwise;

pub use constant::{Constant, Input};
pub use elementwise::*;

/// The ops that text may name. `constant` and graph inputs have their own syntax.
#[derive(Clone, Debug)]
pub struct OpSet {
    ops: Vec<OpInfo>,
}

impl OpSet {
    /// The ops of smelt.
    pub fn standard() -> OpSet {
        let mut ops = elementwise::listed();
        ops.extend(listed());
        ops.sort_by_key(|op| op.mnemonic);
        OpSet { ops }
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
