//! Plans against transformers: logits and greedy tokens of the oracle checkpoints; and plans against themselves:
//! however a text is cut into steps and batches, its logits are the same.

use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use smelt::{CompileOptions, DType, Driver, Generation, GenerationParams, Llm, LoadOptions, Prompt, Quiet};

const ORACLES: [&str; 3] = ["llama-mha", "llama-gqa-tied-llama3-rope", "llama-bias-wide-heads"];

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("oracle").join(name)
}

/// What transformers made of a checkpoint.
struct Expected {
    prompts: Vec<Vec<u32>>,
    greedy: Vec<Vec<u32>>,
    logits: Vec<Vec<f32>>,
}

impl Expected {
    fn read(name: &str) -> Expected {
        let text = std::fs::read_to_string(folder(name).join("expected.json")).unwrap();
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        let lists = |key: &str| serde_json::from_value::<Vec<Vec<u32>>>(json[key].clone()).unwrap();
        let bytes = std::fs::read(folder(name).join("expected.safetensors")).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let prompts = lists("prompts");
        let floats = |index: usize| {
            let tensor = tensors.tensor(&format!("logits.{index}")).unwrap();
            let words = tensor.data().chunks_exact(4);
            words.map(|word| f32::from_le_bytes(word.try_into().unwrap())).collect()
        };
        let logits = (0..prompts.len()).map(floats).collect();
        Expected { prompts, greedy: lists("greedy"), logits }
    }
}

fn load(name: &str, compile: CompileOptions, threads: usize) -> Llm {
    let options = LoadOptions { compile, threads: Some(threads), ..LoadOptions::default() };
    Llm::load_with(&Driver::new(), &folder(name), &options, &mut Quiet).unwrap()
}

fn generate(llm: &mut Llm, prompts: &[Vec<u32>], max_tokens: u32) -> Vec<Generation> {
    let prompts: Vec<Prompt> = prompts.iter().cloned().map(Prompt::Tokens).collect();
    llm.generate(&prompts, &GenerationParams { max_tokens, ignore_eos: true, logits: true }).unwrap()
}

/// The largest difference over `max(1, |expected|)`.
fn worst(found: &[f32], expected: &[f32]) -> f32 {
    assert!(found.len() >= expected.len(), "{} logits, expected {}", found.len(), expected.len());
    let errors = found.iter().zip(expected).map(|(found, expected)| {
        let error = (found - expected).abs() / expected.abs().max(1.0);
        if error.is_nan() { f32::INFINITY } else { error }
    });
    errors.fold(0.0, f32::max)
}

#[test]
fn logits_and_tokens_are_those_of_transformers() {
    for name in ORACLES {
        let expected = Expected::read(name);
        let mut llm = load(name, CompileOptions::default(), 2);
        for (index, prompt) in expected.prompts.iter().enumerate() {
            let found = generate(&mut llm, std::slice::from_ref(prompt), 24).remove(0);
            assert_eq!(found.token_ids, expected.greedy[index], "{name}, prompt {index}");
            let error = worst(&found.logits, &expected.logits[index]);
            assert!(error <= 1e-4, "{name}, prompt {index}: {error:e}");
        }
    }
}

#[test]
fn optimized_and_unoptimized_graphs_agree() {
    let disabled = ["merge-linears", "fuse-add-rms-norm", "fuse-silu-mul", "fuse-swiglu", "fuse-rope-append-kv"];
    for name in ORACLES {
        let prompts = Expected::read(name).prompts;
        let plain = CompileOptions { disabled_passes: disabled.map(str::to_owned).to_vec(), ..Default::default() };
        let fused = generate(&mut load(name, CompileOptions::default(), 2), &prompts, 8);
        let plain = generate(&mut load(name, plain, 2), &prompts, 8);
        for (fused, plain) in fused.iter().zip(&plain) {
            assert_eq!(fused.token_ids, plain.token_ids, "{name}");
            let error = worst(&fused.logits, &plain.logits);
            assert!(error <= 1e-4, "{name}: {error:e}");
        }
    }
}

#[test]
fn sixteen_bit_weights_stay_close() {
    for name in ORACLES {
        let expected = Expected::read(name);
        for dtype in [DType::BF16, DType::F16] {
            let mut llm = load(name, CompileOptions { dtype: Some(dtype), ..Default::default() }, 2);
            for (found, expected) in generate(&mut llm, &expected.prompts, 0).iter().zip(&expected.logits) {
                let norm = |values: &mut dyn Iterator<Item = f32>| values.map(|v| v * v).sum::<f32>().sqrt();
                let difference = norm(&mut found.logits.iter().zip(expected).map(|(a, b)| a - b));
                let relative = difference / norm(&mut expected.iter().copied());
                assert!(relative <= 2e-2, "{name} {dtype}: {relative}");
            }
        }
    }
}

/// A text of the model's own: one token, and what it generates. Row `i` of the logits came from decoding token `i`.
#[test]
fn one_token_at_a_time_gives_what_one_prefill_gives() {
    for name in ORACLES {
        let mut llm = load(name, CompileOptions::default(), 2);
        let decoded = generate(&mut llm, &[vec![7]], 149).remove(0);
        let text: Vec<u32> = [vec![7], decoded.token_ids].concat();
        let vocab = decoded.logits.len() / text.len();
        // every length up to 80, and lengths around the ends of blocks of 64 tokens
        for length in (1..=80).chain([127, 128, 129, 150]) {
            let prefill = generate(&mut llm, &[text[..length].to_vec()], 0).remove(0);
            // the kernels sum in one order: not one bit may differ
            assert!(prefill.logits == decoded.logits[..length * vocab], "{name}, {length} tokens");
        }
    }
}

#[test]
fn neither_chunks_nor_batches_nor_threads_change_a_bit() {
    for name in ORACLES {
        let prompts = Expected::read(name).prompts;
        let alone: Vec<Generation> = {
            let mut llm = load(name, CompileOptions::default(), 1);
            prompts.iter().map(|prompt| generate(&mut llm, std::slice::from_ref(prompt), 24).remove(0)).collect()
        };
        for (max_num_tokens, max_batch_size, threads) in [(7, 3, 3), (16, 4, 2), (512, 8, 4)] {
            let options = CompileOptions {
                max_num_tokens: Some(max_num_tokens),
                max_batch_size: Some(max_batch_size),
                ..Default::default()
            };
            let together = generate(&mut load(name, options, threads), &prompts, 24);
            assert!(together == alone, "{name}, {max_num_tokens} tokens a step, {max_batch_size} sequences");
        }
    }
}
