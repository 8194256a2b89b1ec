//! Checkpoints quantized as they are on the Hub: their logits against a float64 model of what their codes mean.

mod common;

use std::process::Command;

use common::expected::{Expected, worst};
use common::quantized::{CHECKPOINTS, calibrate, cases, least_share, prompts};
use common::{ids, load};
use smelt::{CompileOptions, DType, Driver, GenerationParams, Quiet, TargetChoice};

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

#[test]
fn a_written_checkpoint_is_what_compile_makes_of_the_numbers() {
    let scratch = tempfile::tempdir().unwrap();
    let prompts: Vec<_> = prompts().iter().map(|prompt| ids(prompt)).collect();
    let params = GenerationParams { max_tokens: 8, ignore_eos: true, logits: true };
    for (index, (model, precision)) in cases(&calibrate(scratch.path())).into_iter().enumerate() {
        let out = scratch.path().join(index.to_string());
        let options = CompileOptions { precision: precision.clone(), ..CompileOptions::default() };
        Driver::new().quantize(&model, &out, &options, &mut Quiet).unwrap();
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
        let options = CompileOptions { precision: precision.clone(), ..CompileOptions::default() };
        Driver::new().quantize(&model, &out, &options, &mut Quiet).unwrap();
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
        let agrees = least_share(&precision).map_or(apart <= 1e-4, |least| share >= least);
        assert!(agrees, "{}, {precision:?}: {text}", model.display());
    }
}
