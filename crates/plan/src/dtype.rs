//! Storage types of tensor elements.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The type of one stored element.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum DType {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary16.
    F16,
    /// bfloat16: the upper half of a binary32.
    BF16,
    /// Signed 32-bit integer: token ids, positions, block numbers.
    I32,
}

impl DType {
    /// All types, in the order in which messages list them.
    pub const ALL: [DType; 4] = [DType::F32, DType::F16, DType::BF16, DType::I32];

    /// Bytes of one element.
    pub fn bytes(self) -> u64 {
        match self {
            DType::F32 | DType::I32 => 4,
            DType::F16 | DType::BF16 => 2,
        }
    }

    /// Whether values are floating-point numbers.
    pub fn is_float(self) -> bool {
        self != DType::I32
    }

    /// The name as printed in IR text and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::BF16 => "bf16",
            DType::I32 => "i32",
        }
    }

    /// Rounds a value to this type (nearest, ties to even) and back. Integers pass unchanged.
    pub fn round(self, value: f32) -> f32 {
        match self {
            DType::F32 | DType::I32 => value,
            DType::F16 => half::f16::from_f32(value).to_f32(),
            DType::BF16 => half::bf16::from_f32(value).to_f32(),
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for DType {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = DType::ALL.into_iter().find(|dtype| dtype.name() == text);
        found.ok_or_else(|| format!("unknown dtype `{text}`, expected f32, f16, bf16 or i32"))
    }
}
