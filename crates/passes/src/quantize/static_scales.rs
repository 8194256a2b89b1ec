//! Activation scales: dynamic per token, or static from the calibration.

use std::fmt;
use std::str::FromStr;

use ir::ops::{Constant, Quantize};
use ir::{DType, Graph, Patch, TensorType, Value};

use super::by_input::multiply;
use super::linear::QuantizedValue;
use crate::calibration::{ClipMethod, Rows, TensorStats};
use crate::{PassContext, PassError};

/// Source of activation scales.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ActivationScales {
    /// One per token, computed at run time.
    #[default]
    Dynamic,
    /// One per tensor, by the clip of its calibration.
    Static,
}

impl ActivationScales {
    /// Both.
    pub const ALL: [ActivationScales; 2] = [ActivationScales::Dynamic, ActivationScales::Static];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            ActivationScales::Dynamic => "dynamic",
            ActivationScales::Static => "static",
        }
    }
}

impl fmt::Display for ActivationScales {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for ActivationScales {
    type Err = String;

    fn from_str(text: &str) -> Result<ActivationScales, String> {
        let found = ActivationScales::ALL.into_iter().find(|scales| scales.name() == text);
        found.ok_or_else(|| format!("expected dynamic or static, found `{text}`"))
    }
}

/// The static scale of the calibrated tensor `name`, by the calibration's clipping method. Floating-point formats,
/// whose steps shrink with the values, gain nothing from the default's clipping and cover the largest magnitude. `by`
/// is what channels have been multiplied by since: then most methods use the sampled `rows`, which have been, too.
pub(crate) fn scale(
    ctx: &PassContext<'_>,
    name: &str,
    by: Option<&[f32]>,
    rows: &Rows,
    to: DType,
) -> Result<f32, PassError> {
    let stats = stats(ctx, name)?;
    let method = match ctx.calibration.map_or(ClipMethod::default(), |calibration| calibration.method) {
        method if to == DType::F8E4M3 && method == ClipMethod::default() => ClipMethod::MinMax,
        method => method,
    };
    let clip = match (by, method) {
        (None, _) => stats.clip(method, to),
        (Some(by), ClipMethod::MinMax) => {
            let mut largest = stats.channel_absmax.clone();
            multiply(&mut largest, by);
            super::rounding::absmax(&largest)
        }
        (Some(_), _) => TensorStats::of(rows.channels, &rows.values).clip(method, to),
    };
    Ok(ir::scale_of(clip, to))
}

/// The statistics of a tensor.
pub(crate) fn stats<'a>(ctx: &PassContext<'a>, name: &str) -> Result<&'a TensorStats, PassError> {
    let stats = ctx.calibration.and_then(|calibration| calibration.tensors.get(name));
    stats.ok_or_else(|| PassError::Input(format!("the calibration has no statistics of `{name}`")))
}

/// Quantizes `x` with a scale that is stored with the weights.
pub(crate) fn quantize(
    graph: &Graph,
    ctx: &PassContext<'_>,
    patch: &mut Patch,
    x: Value,
    scale: f32,
    to: DType,
) -> QuantizedValue {
    let key = format!("{}.scale.{to}", graph.value_name(x));
    ctx.weights.add(&key, DType::F32, &[scale]);
    let ty = TensorType { dtype: DType::F32, shape: vec![1.into(), 1.into()] };
    let scale = patch.add(graph, Constant { key, ty }, &[]);
    let codes = patch.add(graph, Quantize { to }, &[x.into(), scale]);
    QuantizedValue { codes, scale, zero_point: None }
}
