//! Checkpoints quantized as on the Hub: their logits compared with a float64 model of the dequantized values.

mod common;

use std::path::Path;
use std::process::Command;

use common::expected::{Expected, worst};
use common::quantized::{CHECKPOINTS, calibrate, cases, least_share, prompts};
use common::{Checkpoint, Stored, ids, load};
use safetensors::Dtype;
use serde_json::json;
use smelt::{CompileOptions, DType, Driver, GenerationParams, PrecisionOptions, Quiet, Source, TargetChoice};

/// Everything unquantized, the KV cache included, in f32.
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

/// The largest difference from the expected logits of a directory of `tests/quantized`.
fn apart(checkpoint: &Checkpoint, name: &str) -> f32 {
    let expected = Expected::of(&tests::folder().join("quantized").join(name));
    let mut llm = load(checkpoint.path(), in_f32()).unwrap();
    let params = GenerationParams { max_tokens: 0, ignore_eos: true, logits: true };
    let prompts: Vec<_> = expected.prompts.iter().map(|prompt| ids(prompt)).collect();
    let found = llm.generate(&prompts, &params).unwrap();
    found.iter().zip(&expected.logits).map(|(found, expected)| worst(&found.logits, expected)).fold(0.0, f32::max)
}

/// The same weights with permuted group numbers: the position does not determine the group of a column.
#[test]
fn groups_in_any_order_mean_the_same() {
    let checkpoint = Checkpoint::copy(&tests::folder().join("quantized/gptq"));
    checkpoint.edit(|tensors| {
        for (name, tensor) in tensors.iter_mut() {
            if name.ends_with(".scales") || name.ends_with(".qzeros") {
                let row = tensor.bytes.len() / tensor.shape[0];
                tensor.bytes = tensor.bytes.chunks(row).rev().flatten().copied().collect();
            } else if name.ends_with(".g_idx") {
                let last = tensor.shape[0] as i32 / 32 - 1;
                let groups = tensor.bytes.as_chunks().0.iter().map(|group| last - i32::from_le_bytes(*group));
                tensor.bytes = groups.flat_map(i32::to_le_bytes).collect();
            }
        }
    });
    let report = Driver::new().dry_run(checkpoint.path(), &in_f32(), &mut Quiet).unwrap();
    assert!(report.warnings.iter().any(|warning| warning.contains("dequantized")), "{:?}", report.warnings);
    let error = apart(&checkpoint, "gptq");
    assert!(error < 1e-4, "{error}");
}

/// One scale per weight, and one for activations, under the names of transformers.
#[test]
fn fp8_as_transformers_writes_it() {
    let checkpoint = Checkpoint::copy(&tests::folder().join("quantized/modelopt-fp8"));
    let scheme = json!({ "quant_method": "fp8", "activation_scheme": "static", "weight_block_size": null });
    checkpoint.set("quantization_config", scheme);
    checkpoint.edit(|tensors| {
        let name = |name: String| {
            name.replace(".weight_scale", ".weight_scale_inv").replace(".input_scale", ".activation_scale")
        };
        *tensors = std::mem::take(tensors).into_iter().map(|(old, tensor)| (name(old), tensor)).collect();
    });
    let error = apart(&checkpoint, "modelopt-fp8");
    assert!(error < 1e-4, "{error}");
}

/// Keys out of range of E4M3, in an unquantized model and in a quantized one.
#[test]
fn a_cache_of_codes_has_the_scales_of_its_checkpoint() {
    let scale = |value: f32| Stored { dtype: Dtype::F32, shape: vec![1], bytes: value.to_le_bytes().to_vec() };
    let large = 2f32.powi(14);
    let numbers = Checkpoint::copy_of("llama-mha");
    numbers.edit(|tensors| {
        for (name, tensor) in tensors.iter_mut() {
            let by = [("k_proj.weight", large), ("q_proj.weight", 1.0 / large)];
            let Some((_, by)) = by.into_iter().find(|(end, _)| name.ends_with(end)) else { continue };
            let dtype = match tensor.dtype {
                Dtype::F32 => DType::F32,
                Dtype::BF16 => DType::BF16,
                other => panic!("{other}"),
            };
            let values = dtype.decode(&tensor.bytes);
            dtype.encode(values.into_iter().map(|value| value * by), &mut tensor.bytes);
        }
    });
    let codes = Checkpoint::copy(&tests::folder().join("quantized/ct-fp8-token"));
    codes.edit(|tensors| {
        for (end, by) in [("k_proj.weight_scale", large), ("q_proj.weight_scale", 1.0 / large)] {
            for (_, tensor) in tensors.iter_mut().filter(|(name, _)| name.ends_with(end)) {
                let values = DType::BF16.decode(&tensor.bytes);
                DType::BF16.encode(values.into_iter().map(|value| value * by), &mut tensor.bytes);
            }
        }
    });
    let with = |kv: Option<DType>| CompileOptions {
        precision: PrecisionOptions { kv, ..PrecisionOptions::default() },
        ..in_f32()
    };
    let params = GenerationParams { max_tokens: 0, ignore_eos: true, logits: true };
    let prompt: Vec<u32> = (1..30).map(|token| token * 7 % 60).collect();
    let logits_of =
        |model: &Path, kv| load(model, with(kv)).unwrap().generate(&[ids(&prompt)], &params).unwrap().remove(0).logits;
    let distance = |found: &[f32], expected: &[f32]| {
        let norm = |values: &mut dyn Iterator<Item = f32>| values.map(|value| value * value).sum::<f32>().sqrt();
        norm(&mut found.iter().zip(expected).map(|(a, b)| a - b)) / norm(&mut expected.iter().copied())
    };
    // Keys that need no scales: powers of two between queries and keys have no other effect.
    let small = Checkpoint::copy_of("llama-mha");
    let plain = distance(&logits_of(small.path(), Some(DType::F8E4M3)), &logits_of(small.path(), None));
    for checkpoint in [numbers, codes] {
        let logits = |kv| logits_of(checkpoint.path(), kv);
        let expected = logits(None);
        let off = |found: Vec<f32>| distance(&found, &expected);
        let warned = |kv| {
            let report = Driver::new().dry_run(checkpoint.path(), &with(kv), &mut Quiet).unwrap();
            report.warnings.join("\n")
        };
        let clipped = off(logits(Some(DType::F8E4M3)));
        assert!(warned(Some(DType::F8E4M3)).contains("has no scales of keys and values"));
        checkpoint.edit(|tensors| {
            let layers: Vec<String> =
                tensors.keys().filter_map(|name| Some(name.strip_suffix("k_proj.weight")?.to_owned())).collect();
            for layer in layers {
                tensors.insert(format!("{layer}k_scale"), scale(large / 64.0));
                tensors.insert(format!("{layer}v_scale"), scale(1.0 / 64.0));
            }
        });
        for kv in [DType::F8E4M3, DType::I8] {
            let scaled = off(logits(Some(kv)));
            eprintln!("{kv}: {scaled} off, {clipped} without scales, {plain} of keys that need none");
            assert!(scaled < 1.5 * plain && clipped > 5.0 * scaled, "{kv}: {scaled} with scales, {clipped} without");
        }
        assert_eq!(warned(Some(DType::F8E4M3)), "");
        assert!(warned(None).contains("`*.k_scale`, `*.v_scale`"), "{}", warned(None));
    }
}

#[test]
fn dummies_have_the_format_of_their_configuration() {
    for (name, precision) in [("gptq", "int4"), ("modelopt-fp8", "fp8")] {
        let folder = tests::folder().join("quantized").join(name);
        let dummy = CompileOptions { weights: smelt::WeightsChoice::Dummy, dtype: None, ..in_f32() };
        let report = Driver::new().dry_run(&folder, &dummy, &mut Quiet).unwrap();
        assert!(report.config.contains(&("precision".to_owned(), precision.to_owned())), "{name}: {:?}", report.config);
        assert!(report.warnings[0].contains("dummy weights are quantized"), "{:?}", report.warnings);
    }
}

#[test]
fn a_written_checkpoint_is_what_compile_makes_of_the_numbers() {
    let scratch = tempfile::tempdir().unwrap();
    let prompts: Vec<_> = prompts().iter().map(|prompt| ids(prompt)).collect();
    let params = GenerationParams { max_tokens: 8, ignore_eos: true, logits: true };
    for (index, (model, precision)) in cases(&calibrate(scratch.path())).into_iter().enumerate() {
        let out = scratch.path().join(index.to_string());
        let options = CompileOptions { precision: precision.clone(), ..CompileOptions::default() };
        Driver::new().quantize(&Source::open(&model, &options).unwrap(), &out, &options.precision, &mut Quiet).unwrap();
        let numbers = CompileOptions { dtype: None, ..in_f32() };
        let direct = CompileOptions { precision: precision.clone(), ..numbers.clone() };
        let direct = load(&model, direct).unwrap().generate(&prompts, &params).unwrap();
        let read = load(&out, numbers).unwrap().generate(&prompts, &params).unwrap();
        assert!(direct == read, "{}, {precision:?}", model.display());
    }
}

/// transformers with compressed-tensors reads the export, if a Python has them.
#[test]
fn transformers_reads_what_is_written() {
    let python = std::env::var_os("SMELT_PYTHON").unwrap_or_else(|| "python3".into());
    let scratch = tempfile::tempdir().unwrap();
    for (index, (model, precision)) in cases(&calibrate(scratch.path())).into_iter().enumerate() {
        let folder = scratch.path().join(index.to_string());
        std::fs::create_dir(&folder).unwrap();
        let out = folder.join("quantized");
        let options = CompileOptions { precision: precision.clone(), ..CompileOptions::default() };
        Driver::new().quantize(&Source::open(&model, &options).unwrap(), &out, &options.precision, &mut Quiet).unwrap();
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
