//! Checkpoints quantized as they are on the Hub: their logits against a float64 model of what their codes mean.

mod common;

use std::process::Command;

use common::expected::{Expected, ORACLES, worst};
use common::{ids, load, oracle};
use smelt::{
    ActivationScales, CompileOptions, DType, Driver, Format, GenerationParams, PrecisionMap, PrecisionOptions, Quiet,
    TargetChoice,
};
use tempfile::TempDir;

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

/// A checkpoint and its quantization: what `smelt quantize` writes, and the options that compile the same.
fn quantized(name: &str, precision: &PrecisionOptions) -> (TempDir, CompileOptions) {
    let scratch = tempfile::tempdir().unwrap();
    let out = scratch.path().join("quantized");
    Driver::new().quantize(&oracle(name), &out, precision, &mut Quiet).unwrap();
    (scratch, CompileOptions { precision: precision.clone(), ..in_f32() })
}

fn formats() -> impl Iterator<Item = PrecisionOptions> {
    let written = Format::ALL.into_iter().filter(|format| !format.needs_calibration(ActivationScales::Dynamic));
    written.map(|format| PrecisionOptions { linears: Some(format), ..PrecisionOptions::default() })
}

/// The head of a tied model as well, and formats of all kinds side by side.
fn mixture() -> PrecisionOptions {
    let text = "layers.*.attn.* int8-weight\nlayers.0.mlp.down fp8\nlayers.1.* none".to_owned();
    let map = PrecisionMap { path: "map".into(), text };
    let (linears, head) = (Some(Format::Int4), Some(Format::Int8Weight));
    PrecisionOptions { linears, head, map: Some(map), ..PrecisionOptions::default() }
}

#[test]
fn a_written_checkpoint_is_what_compile_makes_of_the_numbers() {
    for name in ORACLES {
        let prompts: Vec<_> = Expected::read(name).prompts.iter().map(|prompt| ids(prompt)).collect();
        let params = GenerationParams { max_tokens: 8, ignore_eos: true, logits: true };
        for precision in formats().chain([mixture()]) {
            let (scratch, compile) = quantized(name, &precision);
            let direct = load(&oracle(name), compile).unwrap().generate(&prompts, &params).unwrap();
            let read = load(&scratch.path().join("quantized"), in_f32()).unwrap().generate(&prompts, &params).unwrap();
            assert!(direct == read, "{name}, {precision:?}");
        }
    }
}

/// transformers with compressed-tensors reads what is written, where a Python has them.
#[test]
fn transformers_reads_what_is_written() {
    let python = std::env::var_os("SMELT_PYTHON").unwrap_or_else(|| "python3".into());
    for name in ORACLES {
        for precision in formats().chain([mixture()]) {
            let (scratch, _) = quantized(name, &precision);
            let folder = scratch.path().join("quantized");
            let prompts = Expected::read(name).prompts;
            let mut llm = load(&folder, in_f32()).unwrap();
            let params = GenerationParams { max_tokens: 0, ignore_eos: true, logits: true };
            let logits = prompts.iter().map(|prompt| llm.generate(&[ids(prompt)], &params).unwrap().remove(0).logits);
            let logits: Vec<Vec<f32>> = logits.collect();
            let found = serde_json::json!({ "prompts": prompts, "logits": logits });
            std::fs::write(scratch.path().join("found.json"), found.to_string()).unwrap();
            let mut command = Command::new(&python);
            command.arg(tests::folder().join("quantized/compare.py")).arg(scratch.path());
            let Some(output) = command.output().ok().filter(|output| output.status.code() != Some(77)) else {
                return eprintln!("skipped: no Python with transformers and compressed-tensors (SMELT_PYTHON)");
            };
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
            eprintln!("{name}, {:?}: {}", precision.linears, text.trim());
            let [apart, share] = text.split_whitespace().collect::<Vec<_>>()[..] else { panic!("{text}") };
            let (apart, share): (f64, f64) = (apart.parse().unwrap(), share.parse().unwrap());
            // a code of an activation that lies between two may become the other, and all positions behind it see that
            let codes = precision.map.is_some() || matches!(precision.linears, Some(Format::Fp8 | Format::Fp8Block));
            assert!(if codes { share > 0.5 } else { apart <= 1e-4 }, "{name}, {precision:?}: {text}");
        }
    }
}
