//! Quantized checkpoints, and checkpoints to be quantized.

use std::path::{Path, PathBuf};

use smelt::{
    ActivationScales, CalibrateOptions, CompileOptions, Dataset, Driver, Format, PrecisionMap, PrecisionOptions, Quiet,
    Source, TargetChoice,
};

use super::expected::ORACLES;
use super::{demo, oracle};

/// A directory of `tests/quantized`, and the tolerance of its logits. If activations are quantized, one near a rounding
/// boundary may be rounded either way.
pub const CHECKPOINTS: [(&str, f32); 12] = [
    ("ct-int8-token", 1e-4),
    ("ct-int8-static", 1e-4),
    ("ct-fp8-token", 1e-4),
    ("ct-fp8-block", 5e-3),
    ("ct-int4-group", 1e-4),
    ("ct-int4-zeros", 1e-4),
    ("ct-mixed", 1e-4),
    ("modelopt-fp8", 1e-4),
    ("fp8-block", 5e-3),
    ("awq", 1e-4),
    ("gptq", 1e-4),
    ("gptq-v2-int8", 1e-4),
];

/// Checkpoints and their formats. Only the demo model has whole groups of 128 columns.
pub fn cases(calibration: &Path) -> Vec<(PathBuf, PrecisionOptions)> {
    let plain = |format| PrecisionOptions { linears: Some(format), ..PrecisionOptions::default() };
    let calibrated = |format| PrecisionOptions { calibration: Some(calibration.to_owned()), ..plain(format) };
    let static_scales = |format| PrecisionOptions { activations: ActivationScales::Static, ..calibrated(format) };
    // compressed-tensors divides by 127.5 for dynamic scales of int8 activations
    let dynamic = Format::ALL.into_iter().filter(|format| *format != Format::Int8Smoothquant).map(calibrated);
    let scaled = [Format::Int8Smoothquant, Format::Fp8].map(static_scales);
    let of_demo = dynamic.chain(scaled).chain([mixture()]);
    let small = [Format::Int8Weight, Format::Fp8];
    let oracles = ORACLES.into_iter().flat_map(|name| small.map(|format| (oracle(name), plain(format))));
    of_demo.map(|precision| (demo(), precision)).chain(oracles).collect()
}

/// Also lm_head of a tied model, and formats of all kinds together.
pub fn mixture() -> PrecisionOptions {
    let text = "layers.*.attn.* int8-weight\nlayers.0.mlp.down fp8\nlayers.1.* none".to_owned();
    let map = PrecisionMap { path: "map".into(), text };
    let (linears, head) = (Some(Format::Int4), Some(Format::Int8Weight));
    PrecisionOptions { linears, head, map: Some(map), ..PrecisionOptions::default() }
}

pub fn calibrate(folder: &Path) -> PathBuf {
    let text = std::fs::read_to_string(demo().join("heldout.txt")).unwrap();
    let text = text[..text.floor_char_boundary(9000)].to_owned();
    let dataset = Dataset { path: PathBuf::from("heldout.txt"), text, lines: false };
    let out = folder.join("calibration.json");
    let target = TargetChoice::Named("cpu".to_owned());
    let options = CalibrateOptions { target, hessian: true, ..CalibrateOptions::default() };
    let source = Source::open(demo(), &CompileOptions::default()).unwrap();
    Driver::new().calibrate(&source, &dataset, &out, &options, &mut Quiet).unwrap();
    out
}

/// Many of one token, which are independent of each other, and a longer one.
pub fn prompts() -> Vec<Vec<u32>> {
    let tokens = |range: std::ops::Range<u32>| range.map(|index| 3 + index * 37 % 300).collect();
    (0..40).map(|index| tokens(index..index + 1)).chain([tokens(0..80)]).collect()
}

/// The minimum share of the prompts whose logits two computations agree on, if activations are quantized: one near a
/// rounding boundary may be rounded either way, which affects all that follows in that prompt. `None` if they agree on
/// all.
pub fn least_share(precision: &PrecisionOptions) -> Option<f64> {
    let codes = precision.linears.is_some_and(Format::narrow_activations) || precision.map.is_some();
    (codes || precision.kv.is_some()).then_some(0.85)
}
