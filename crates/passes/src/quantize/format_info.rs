//! What the row of a format holds, and what its search is given.

use ir::ops::QuantizeBlocks;
use ir::{Graph, Value};

use super::{ActivationScales, Layers};
#[cfg(doc)]
use crate::Numerics;
use crate::{PassContext, PassError};

/// What a format is. Everything else follows: its pass, its bits, its name in exported checkpoints.
pub(crate) struct FormatInfo {
    /// The name on the command line and in tables.
    pub name: &'static str,
    /// Its names in TensorRT-LLM, vLLM and papers, which are read, too.
    pub also: &'static [&'static str],
    /// What it is, in a few words.
    pub help: &'static str,
    /// How weights are stored.
    pub weight: QuantizeBlocks,
    /// How activations are quantized, if they are.
    pub activations: Option<QuantizeBlocks>,
    /// Chooses the quantized values by a calibration; without it, they are rounded to nearest.
    pub search: Option<Search>,
    /// By how much the result of a layer may differ: see [`Numerics::Quantizing`].
    pub percent: u32,
}

/// Chooses the quantized values of linear layers with one input, and replaces the layers.
pub(crate) type Search = fn(&mut Graph, &InputGroup<'_>) -> Result<(), PassError>;

/// Linear layers with one input, which are quantized together.
pub(crate) struct InputGroup<'a> {
    /// Their input.
    pub x: Value,
    /// Which of its users are quantized.
    pub layers: &'a Layers,
    /// Source of activation scales.
    pub activations: ActivationScales,
    /// Their format.
    pub format: &'a FormatInfo,
    /// The weights and the calibration.
    pub ctx: &'a PassContext<'a>,
}
