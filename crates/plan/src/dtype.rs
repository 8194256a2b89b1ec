//! Storage types of tensor elements.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::e4m3;

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
    /// Signed 8-bit integer, a quantized type: values mean themselves times a scale.
    I8,
    /// Floating point in 8 bits, 4 of exponent and 3 of mantissa, without infinities; a quantized type. (OCP OFP8,
    /// "E4M3".)
    F8E4M3,
    /// Signed 4-bit integer, a quantized type. One byte each, except in layouts that pack two into one.
    I4,
}

impl DType {
    /// All types, in the order in which messages list them.
    pub const ALL: [DType; 7] = [DType::F32, DType::F16, DType::BF16, DType::I32, DType::I8, DType::F8E4M3, DType::I4];

    /// Bytes of one element.
    pub fn bytes(self) -> u64 {
        match self {
            DType::F32 | DType::I32 => 4,
            DType::F16 | DType::BF16 => 2,
            DType::I8 | DType::F8E4M3 | DType::I4 => 1,
        }
    }

    /// Whether it is a floating-point type that ops compute with.
    pub fn is_float(self) -> bool {
        matches!(self, DType::F32 | DType::F16 | DType::BF16)
    }

    /// Whether it is a quantized type, whose values mean something only together with a scale.
    pub fn is_code(self) -> bool {
        self.largest_code().is_some()
    }

    /// The largest value, which scales map to: symmetric for both signs. `None` for types that are not quantized.
    pub fn largest_code(self) -> Option<f32> {
        match self {
            DType::I8 => Some(127.0),
            DType::F8E4M3 => Some(e4m3::MAX),
            DType::I4 => Some(7.0),
            DType::F32 | DType::F16 | DType::BF16 | DType::I32 => None,
        }
    }

    /// The smallest value, to which smaller ones saturate. `None` for types that are not quantized.
    pub fn smallest_code(self) -> Option<f32> {
        match self {
            DType::I8 => Some(-128.0),
            DType::F8E4M3 => Some(-e4m3::MAX),
            DType::I4 => Some(-8.0),
            DType::F32 | DType::F16 | DType::BF16 | DType::I32 => None,
        }
    }

    /// The name as printed in IR text and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::BF16 => "bf16",
            DType::I32 => "i32",
            DType::I8 => "i8",
            DType::F8E4M3 => "f8e4m3",
            DType::I4 => "i4",
        }
    }

    /// Rounds a value to this type (nearest, ties to even) and back; quantized types saturate. 32-bit integers are
    /// unchanged.
    #[inline]
    pub fn round(self, value: f32) -> f32 {
        match self {
            DType::F32 | DType::I32 => value,
            DType::F16 => half::f16::from_f32(value).to_f32(),
            DType::BF16 => half::bf16::from_f32(value).to_f32(),
            // integers have no negative zero
            DType::I8 => value.round_ties_even().clamp(-128.0, 127.0) + 0.0,
            DType::F8E4M3 => e4m3::decode(e4m3::encode(value)),
            DType::I4 => value.round_ties_even().clamp(-8.0, 7.0) + 0.0,
        }
    }

    /// Writes values little-endian, each rounded as by [`DType::round`]. `out` has room for as many.
    pub fn encode(self, values: impl IntoIterator<Item = f32>, out: &mut [u8]) {
        fn cells<const N: usize>(values: impl IntoIterator<Item = f32>, out: &mut [u8], to: impl Fn(f32) -> [u8; N]) {
            out.as_chunks_mut::<N>().0.iter_mut().zip(values).for_each(|(cell, value)| *cell = to(value));
        }
        match self {
            DType::F32 => cells(values, out, f32::to_le_bytes),
            DType::I32 => cells(values, out, |value| (value as i32).to_le_bytes()),
            DType::F16 => cells(values, out, |value| half::f16::from_f32(value).to_le_bytes()),
            DType::BF16 => cells(values, out, |value| half::bf16::from_f32(value).to_le_bytes()),
            DType::F8E4M3 => cells(values, out, |value| [e4m3::encode(value)]),
            DType::I8 | DType::I4 => cells(values, out, |value| (self.round(value) as i8).to_le_bytes()),
        }
    }

    /// Reads little-endian values, widened; 32-bit integers to the nearest float.
    pub fn decode(self, bytes: &[u8]) -> Vec<f32> {
        match self {
            DType::F32 => bytes.as_chunks().0.iter().map(|cell| f32::from_le_bytes(*cell)).collect(),
            DType::I32 => bytes.as_chunks().0.iter().map(|cell| i32::from_le_bytes(*cell) as f32).collect(),
            DType::F16 => bytes.as_chunks().0.iter().map(|cell| half::f16::from_le_bytes(*cell).to_f32()).collect(),
            DType::BF16 => bytes.as_chunks().0.iter().map(|cell| half::bf16::from_le_bytes(*cell).to_f32()).collect(),
            DType::F8E4M3 => bytes.iter().map(|byte| e4m3::decode(*byte)).collect(),
            DType::I8 | DType::I4 => bytes.iter().map(|byte| f32::from(*byte as i8)).collect(),
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
        found.ok_or_else(|| format!("unknown dtype `{text}`, expected f32, f16, bf16, i32, i8, f8e4m3 or i4"))
    }
}
