//! Logits of the imported graphs compared with those of transformers.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use frontend::{Checkpoint, ImportOptions};
use ir::{Environment, HostTensor, KvState, Stage, evaluate, verify};
use plan::{Symbol, SymbolValues};
use safetensors::SafeTensors;
use serde_json::Value;

use crate::checkpoints::{NO_WARNINGS, options};

fn oracle(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/oracle").join(name)
}

/// Logits and next tokens of one prefill of the whole prompt.
fn prefill(checkpoint: &Checkpoint, prompt: &[i32]) -> Vec<HostTensor> {
    let length = prompt.len();
    let options = ImportOptions { max_seq_len: 80, ..options() };
    let graph = checkpoint.graph(&options).unwrap();
    verify(&graph, Stage::Imported).unwrap();
    let all: Vec<i32> = (0..length as i32).collect();
    let blocks = options.max_seq_len.div_ceil(options.block_tokens) as usize;
    let inputs = HashMap::from([
        ("tokens".to_owned(), HostTensor::i32([length], prompt.to_vec())),
        ("positions".to_owned(), HostTensor::i32([length], all.clone())),
        ("query_starts".to_owned(), HostTensor::i32([2], vec![0, length as i32])),
        ("block_table".to_owned(), HostTensor::i32([1, blocks], (0..blocks as i32).collect())),
        ("rows".to_owned(), HostTensor::i32([length], all)),
    ]);
    let symbols = [("T", length), ("B", 1), ("R", length)];
    let symbols: SymbolValues = symbols.map(|(name, value)| (Symbol::new(name).unwrap(), value as u64)).into();
    let env = Environment { weights: checkpoint, symbols, inputs };
    evaluate(&graph, &env, &mut KvState::new(graph.kv())).unwrap()
}

fn check(name: &str) {
    let dir = oracle(name);
    let checkpoint = Checkpoint::open(&dir).unwrap();
    assert_eq!(checkpoint.warnings(), NO_WARNINGS);
    let expected: Value = serde_json::from_slice(&fs::read(dir.join("expected.json")).unwrap()).unwrap();
    let tensors = fs::read(dir.join("expected.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&tensors).unwrap();
    for (index, prompt) in expected["prompts"].as_array().unwrap().iter().enumerate() {
        let prompt: Vec<i32> = prompt.as_array().unwrap().iter().map(|id| id.as_i64().unwrap() as i32).collect();
        let outputs = prefill(&checkpoint, &prompt);
        let logits = tensors.tensor(&format!("logits.{index}")).unwrap();
        assert_eq!(logits.shape(), outputs[0].shape);
        let words = logits.data().chunks_exact(4).map(|word| f32::from_le_bytes(word.try_into().unwrap()));
        for (found, expected) in outputs[0].floats().iter().zip(words) {
            let tolerance = 1e-4 * expected.abs().max(1.0);
            assert!((found - expected).abs() <= tolerance, "prompt {index}: {found} is not {expected}");
        }
        let greedy = expected["greedy"][index][0].as_i64().unwrap();
        assert_eq!(i64::from(*outputs[1].ints().last().unwrap()), greedy, "prompt {index}");
    }
}

#[test]
fn plain_multi_head() {
    check("llama-mha");
}

#[test]
fn grouped_heads_tied_embedding_llama3_rope() {
    check("llama-gqa-tied-llama3-rope");
}

#[test]
fn layer_norms_biases_and_an_mlp_without_a_gate() {
    check("starcoder2-gqa");
}

#[test]
fn one_kv_head_wide_heads_biases() {
    check("llama-bias-wide-heads");
}

#[test]
fn mistral_without_a_window() {
    check("mistral-gqa");
}

#[test]
fn biases_before_attention_alone() {
    check("qwen2-biases");
}

#[test]
fn normed_queries_and_keys() {
    check("qwen3-gqa");
}
