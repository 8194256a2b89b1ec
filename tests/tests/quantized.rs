//! Checkpoints quantized as they are on the Hub: their logits against a float64 model of what their codes mean.

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::expected::{Expected, ORACLES, worst};
use common::{demo, ids, load, oracle};
use smelt::{
    ActivationScales, CalibrateOptions, CompileOptions, DType, Dataset, Driver, Format, GenerationParams, PrecisionMap,
    PrecisionOptions, Quiet, TargetChoice,
};

/// A folder of `tests/quantized`, and how far a logit may be from what is expected. Where activations are codes, one that
/// lies between two may become the other.
const CHECKPOINTS: [(&str, f32); 12] = [
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

/// Everything that is no code, the KV cache included, in f32.
fn in_f32() -> CompileOptions {
    let target = TargetChoice::Named("cpu".to_owned());
    CompileOptions { target, dtype: Some(DType::F32), ..CompileOptions::default() }
}

#[test]
fn logits_are_those_that_the_codes_mean() {
    let mut apart = Vec::new();
    for (name, tolerance) in CHECKPOINTS {
        let folder = tests::folder().join("quantized").join(name);
        let expected = Expected::of(&folder);
        let mut llm = load(&folder, in_f32()).unwrap();
        for (prompt, expected) in expected.prompts.iter().zip(&expected.logits) {
            let params = GenerationParams { max_tokens: 0, ignore_eos: true, logits: true };
            let found = llm.generate(&[ids(prompt)], &params).unwrap().remove(0);
            let error = worst(&found.logits, expected);
            eprintln!("{name}, {} tokens: {error:.1e}", prompt.len());
            apart.extend((error > tolerance).then_some((name, prompt.len(), error)));
        }
    }
    assert!(apart.is_empty(), "{apart:?}");
}

/// Checkpoints and what they are quantized to. Groups of 128 columns are whole in the demo model alone.
fn cases(calibration: &Path) -> Vec<(PathBuf, PrecisionOptions)> {
    let plain = |format| PrecisionOptions { linears: Some(format), ..PrecisionOptions::default() };
    let calibrated = |format| PrecisionOptions { calibration: Some(calibration.to_owned()), ..plain(format) };
    let static_scales = |format| PrecisionOptions { activations: ActivationScales::Static, ..calibrated(format) };
    // compressed-tensors scales int8 codes of activations by 1/127.5 of the largest where it looks for that itself
    let dynamic = Format::ALL.into_iter().filter(|format| *format != Format::Int8Smoothquant).map(calibrated);
    let scaled = [Format::Int8Smoothquant, Format::Fp8].map(static_scales);
    let of_demo = dynamic.chain(scaled).chain([mixture()]);
    let small = [Format::Int8Weight, Format::Fp8];
    let oracles = ORACLES.into_iter().flat_map(|name| small.map(|format| (oracle(name), plain(format))));
    of_demo.map(|precision| (demo(), precision)).chain(oracles).collect()
}

/// The head of a tied model as well, and formats of all kinds side by side.
fn mixture() -> PrecisionOptions {
    let text = "layers.*.attn.* int8-weight\nlayers.0.mlp.down fp8\nlayers.1.* none".to_owned();
    let map = PrecisionMap { path: "map".into(), text };
    let (linears, head) = (Some(Format::Int4), Some(Format::Int8Weight));
    PrecisionOptions { linears, head, map: Some(map), ..PrecisionOptions::default() }
}

fn calibrate(folder: &Path) -> PathBuf {
    let text = std::fs::read_to_string(demo().join("heldout.txt")).unwrap();
    let text = text[..text.floor_char_boundary(9000)].to_owned();
    let dataset = Dataset { path: PathBuf::from("heldout.txt"), text, lines: false };
    let out = folder.join("calibration.json");
    let target = TargetChoice::Named("cpu".to_owned());
    let options = CalibrateOptions { target, hessian: true, ..CalibrateOptions::default() };
    Driver::new().calibrate(&demo(), &dataset, &out, &options, &mut Quiet).unwrap();
    out
}

/// Many of one token, of which none sees what happened to another, and a longer one.
fn prompts() -> Vec<Vec<u32>> {
    let tokens = |range: std::ops::Range<u32>| range.map(|index| 3 + index * 37 % 300).collect();
    (0..40).map(|index| tokens(index..index + 1)).chain([tokens(0..80)]).collect()
}

#[test]
fn a_written_checkpoint_is_what_compile_makes_of_the_numbers() {
    let scratch = tempfile::tempdir().unwrap();
    let prompts: Vec<_> = prompts().iter().map(|prompt| ids(prompt)).collect();
    let params = GenerationParams { max_tokens: 8, ignore_eos: true, logits: true };
    for (index, (model, precision)) in cases(&calibrate(scratch.path())).into_iter().enumerate() {
        let out = scratch.path().join(index.to_string());
        Driver::new().quantize(&model, &out, &precision, &mut Quiet).unwrap();
        let numbers = CompileOptions { dtype: None, ..in_f32() };
        let direct = CompileOptions { precision: precision.clone(), ..numbers.clone() };
        let direct = load(&model, direct).unwrap().generate(&prompts, &params).unwrap();
        let read = load(&out, numbers).unwrap().generate(&prompts, &params).unwrap();
        assert!(direct == read, "{}, {precision:?}", model.display());
    }
}

/// transformers with compressed-tensors reads what is written, where a Python has them.
#[test]
fn transformers_reads_what_is_written() {
    let python = std::env::var_os("SMELT_PYTHON").unwrap_or_else(|| "python3".into());
    let scratch = tempfile::tempdir().unwrap();
    for (index, (model, precision)) in cases(&calibrate(scratch.path())).into_iter().enumerate() {
        let folder = scratch.path().join(index.to_string());
        std::fs::create_dir(&folder).unwrap();
        let out = folder.join("quantized");
        Driver::new().quantize(&model, &out, &precision, &mut Quiet).unwrap();
        let mut llm = load(&out, in_f32()).unwrap();
        let params = GenerationParams { max_tokens: 0, ignore_eos: true, logits: true };
        let logits =
            prompts().into_iter().map(|prompt| llm.generate(&[ids(&prompt)], &params).unwrap().remove(0).logits);
        let logits: Vec<Vec<f32>> = logits.collect();
        let found = serde_json::json!({ "prompts": prompts(), "logits": logits });
        std::fs::write(folder.join("found.json"), found.to_string()).unwrap();
        let mut command = Command::new(&python);
        command.arg(tests::folder().join("quantized/compare.py")).arg(&folder);
        let Some(output) = command.output().ok().filter(|output| output.status.code() != Some(77)) else {
            return eprintln!("skipped: no Python with transformers and compressed-tensors (SMELT_PYTHON)");
        };
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
        let format = precision.linears.unwrap();
        eprintln!("{}, {format}, {}: {}", model.display(), precision.activations, text.trim());
        let [apart, share] = text.split_whitespace().collect::<Vec<_>>()[..] else { panic!("{text}") };
        let (apart, share): (f64, f64) = (apart.parse().unwrap(), share.parse().unwrap());
        // an activation that lies between two codes may become the other, and all that follows in that prompt sees it
        let activations_are_codes = format.narrow_activations() || precision.map.is_some();
        let agrees = if activations_are_codes { share >= 0.85 } else { apart <= 1e-4 };
        assert!(agrees, "{}, {precision:?}: {text}", model.display());
    }
}
