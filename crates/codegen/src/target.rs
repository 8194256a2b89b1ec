//! Compilation targets.

use std::fmt;
use std::str::FromStr;

use plan::DType;
use plan::devices::sm90;

use crate::{Catalog, kernels};

/// A compilation target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Any CPU that Rust runs on.
    Cpu,
    /// NVIDIA GPUs of compute capability 9.0: H100, H200, GH200.
    Sm90a,
}

/// An unsupported target.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown target `{0}`, this program compiles for: cpu, sm_90a")]
pub struct UnknownTarget(pub String);

impl Target {
    /// All targets.
    pub const ALL: [Target; 2] = [Target::Cpu, Target::Sm90a];

    /// The name in plans and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Target::Cpu => "cpu",
            Target::Sm90a => "sm_90a",
        }
    }

    /// Whether plans contain compiled kernels.
    pub fn is_gpu(self) -> bool {
        self != Target::Cpu
    }

    /// The dtype of values between ops for weights of type `weights`. CPUs have no 16-bit arithmetic: there, values are
    /// f32 and only weights and the KV cache are narrow. Tensor cores require one type for both operands; values that
    /// they do not read are f32 anyway, see ADR 0007.
    pub fn activations(self, weights: DType) -> DType {
        match self {
            Target::Cpu => DType::F32,
            Target::Sm90a => weights,
        }
    }

    /// Tokens per KV block. 64 rows of one head are contiguous: one bulk copy on a GPU, a page or two on a CPU.
    pub fn block_tokens(self) -> u32 {
        sm90::KV_BLOCK_TOKENS
    }

    /// The kernels of the target.
    pub fn catalog(self) -> Catalog {
        match self {
            Target::Cpu => kernels::cpu::catalog(),
            Target::Sm90a => kernels::cuda::catalog(),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Target {
    type Err = UnknownTarget;

    fn from_str(text: &str) -> Result<Target, UnknownTarget> {
        let found = Target::ALL.into_iter().find(|target| target.name() == text);
        found.ok_or_else(|| UnknownTarget(text.to_owned()))
    }
}
