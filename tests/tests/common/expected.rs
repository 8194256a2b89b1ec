//! The results of transformers on the oracle checkpoints.

use std::path::Path;

use safetensors::SafeTensors;

/// The oracle checkpoints.
pub const ORACLES: [&str; 7] = [
    "llama-mha",
    "llama-gqa-tied-llama3-rope",
    "llama-bias-wide-heads",
    "mistral-gqa",
    "qwen2-biases",
    "qwen3-gqa",
    "starcoder2-gqa",
];

/// The results of transformers on a checkpoint.
pub struct Expected {
    pub prompts: Vec<Vec<u32>>,
    pub greedy: Vec<Vec<u32>>,
    pub logits: Vec<Vec<f32>>,
}

impl Expected {
    pub fn read(name: &str) -> Expected {
        Expected::of(&super::oracle(name))
    }

    /// The expected results of the checkpoint in a directory.
    pub fn of(folder: &Path) -> Expected {
        let text = std::fs::read_to_string(folder.join("expected.json")).unwrap();
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        let lists = |key: &str| {
            let list = json.get(key).cloned().unwrap_or_else(|| serde_json::Value::Array(Vec::new()));
            serde_json::from_value::<Vec<Vec<u32>>>(list).unwrap()
        };
        let bytes = std::fs::read(folder.join("expected.safetensors")).unwrap();
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

/// The largest difference over `max(1, |expected|)`.
pub fn worst(found: &[f32], expected: &[f32]) -> f32 {
    assert!(found.len() >= expected.len(), "{} logits, expected {}", found.len(), expected.len());
    let errors = found.iter().zip(expected).map(|(found, expected)| {
        let error = (found - expected).abs() / expected.abs().max(1.0);
        if error.is_nan() { f32::INFINITY } else { error }
    });
    errors.fold(0.0, f32::max)
}
