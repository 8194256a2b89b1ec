//! Plans compared with transformers: logits and greedy tokens of the oracle checkpoints; and plans compared with
//! themselves: however a text is split into steps and batches, its logits are the same.

mod common;

use std::path::Path;

use common::expected::{Expected, ORACLES, worst};
use common::{demo, oracle};
use smelt::{
    CompileOptions, DType, Driver, Format, Generation, GenerationParams, Llm, LoadOptions, PrecisionOptions, Prompt,
    Quiet, RunOptions, TargetChoice,
};

fn load(name: &str, compile: CompileOptions, threads: usize) -> Llm {
    load_folder(&oracle(name), compile, threads)
}

fn load_folder(folder: &Path, compile: CompileOptions, threads: usize) -> Llm {
    let run = RunOptions { threads: Some(threads), ..RunOptions::default() };
    let options = LoadOptions { compile, run, ..LoadOptions::default() };
    Llm::load_with(&Driver::new(), folder, &options, &mut Quiet).unwrap()
}

fn generate(llm: &mut Llm, prompts: &[Vec<u32>], max_tokens: u32) -> Vec<Generation> {
    let prompts: Vec<Prompt> = prompts.iter().cloned().map(Prompt::Tokens).collect();
    llm.generate(&prompts, &GenerationParams { max_tokens, ignore_eos: true, logits: true }).unwrap()
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
    let passes = passes::PassList::standard();
    let optional = passes.iter().filter(|pass| !pass.required());
    let disabled: Vec<String> = optional.map(|pass| pass.name().into_owned()).collect();
    for name in ORACLES {
        let prompts = Expected::read(name).prompts;
        let plain = CompileOptions { disabled_passes: disabled.clone(), ..Default::default() };
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

/// A text of the model's own: one token, and its continuation. Row `i` of the logits is from the decode step of token
/// `i`.
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
            assert!(together == alone, "{name}, {max_num_tokens} tokens per step, {max_batch_size} sequences");
        }
    }
}

#[test]
fn neither_do_they_change_one_where_weights_are_codes() {
    let lengths = [1, 2, 3, 4, 5, 8, 37, 70];
    let prompts: Vec<Vec<u32>> =
        lengths.map(|length| (0..length).map(|i| 2 + (37 * i + length) % 2000).collect()).into();
    for format in [Format::Int8Weight, Format::Int4, Format::Fp8, Format::Fp8Block] {
        let options = CompileOptions {
            target: TargetChoice::Named("cpu".to_owned()),
            precision: PrecisionOptions { linears: Some(format), ..PrecisionOptions::default() },
            ..CompileOptions::default()
        };
        let mut llm = load_folder(&demo(), options.clone(), 1);
        let alone: Vec<Generation> =
            prompts.iter().map(|prompt| generate(&mut llm, std::slice::from_ref(prompt), 12).remove(0)).collect();
        for (max_num_tokens, max_batch_size, threads) in [(7, 3, 3), (512, 8, 2)] {
            let options = CompileOptions {
                max_num_tokens: Some(max_num_tokens),
                max_batch_size: Some(max_batch_size),
                ..options.clone()
            };
            let together = generate(&mut load_folder(&demo(), options, threads), &prompts, 12);
            assert!(together == alone, "{format:?}, {max_num_tokens} tokens per step, {max_batch_size} sequences");
        }
    }
}
