//! Small checkpoints, written by the tests that read them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use frontend::{Checkpoint, ImportError, ImportOptions};
use plan::{DType, RandomPart};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A tensor to be written.
#[derive(Clone, Debug)]
pub struct Tensor {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
}

impl Tensor {
    /// Random values in bf16.
    pub fn bf16(name: &str, shape: &[usize]) -> Tensor {
        let elements = shape.iter().product::<usize>() as u64;
        let part = RandomPart::named(name, elements, 0.0, 0.5);
        // The upper half of an f32 is a bf16.
        let bytes = (0..elements).flat_map(|index| part.value(index).to_bits().to_le_bytes()[2..].to_vec()).collect();
        Tensor { dtype: Dtype::BF16, shape: shape.to_vec(), bytes }
    }

    fn view(&self) -> TensorView<'_> {
        TensorView::new(self.dtype, self.shape.clone(), &self.bytes).unwrap()
    }
}

/// A checkpoint to be written.
#[derive(Clone, Debug)]
pub struct Files {
    pub config: Value,
    pub tensors: BTreeMap<String, Tensor>,
}

/// One layer, two heads of four elements over one KV head, bf16.
pub fn tiny() -> Files {
    let config = json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": 16,
        "hidden_size": 8,
        "intermediate_size": 12,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5,
    });
    let shapes: [(&str, &[usize]); 12] = [
        ("model.embed_tokens.weight", &[16, 8]),
        ("model.layers.0.input_layernorm.weight", &[8]),
        ("model.layers.0.self_attn.q_proj.weight", &[8, 8]),
        ("model.layers.0.self_attn.k_proj.weight", &[4, 8]),
        ("model.layers.0.self_attn.v_proj.weight", &[4, 8]),
        ("model.layers.0.self_attn.o_proj.weight", &[8, 8]),
        ("model.layers.0.post_attention_layernorm.weight", &[8]),
        ("model.layers.0.mlp.gate_proj.weight", &[12, 8]),
        ("model.layers.0.mlp.up_proj.weight", &[12, 8]),
        ("model.layers.0.mlp.down_proj.weight", &[8, 12]),
        ("model.norm.weight", &[8]),
        ("lm_head.weight", &[16, 8]),
    ];
    let tensors = shapes.map(|(name, shape)| (name.to_owned(), Tensor::bf16(name, shape)));
    Files { config, tensors: tensors.into() }
}

impl Files {
    /// The same with a key of `config.json` set.
    pub fn with(mut self, key: &str, value: Value) -> Files {
        self.config[key] = value;
        self
    }

    /// The same without a tensor.
    pub fn without(mut self, name: &str) -> Files {
        self.tensors.remove(name).unwrap();
        self
    }

    /// `config.json` and `model.safetensors` in a new directory.
    pub fn write(&self) -> TempDir {
        let dir = self.write_config();
        write_tensors(&dir.path().join("model.safetensors"), &self.tensors);
        dir
    }

    /// `config.json` in a new directory.
    pub fn write_config(&self) -> TempDir {
        let dir = TempDir::new().unwrap();
        fs::write(dir.path().join("config.json"), self.config.to_string()).unwrap();
        dir
    }

    /// Two shards and an index: norms in the first, the rest in the second.
    pub fn write_sharded(&self) -> TempDir {
        let dir = self.write_config();
        let shard = |name: &str| if name.contains("norm") { FIRST } else { SECOND };
        for file in [FIRST, SECOND] {
            let tensors = self.tensors.iter().filter(|(name, _)| shard(name) == file);
            write_tensors(
                &dir.path().join(file),
                &tensors.map(|(name, tensor)| (name.clone(), tensor.clone())).collect(),
            );
        }
        let total: usize = self.tensors.values().map(|tensor| tensor.bytes.len()).sum();
        let map: BTreeMap<&str, &str> = self.tensors.keys().map(|name| (name.as_str(), shard(name))).collect();
        write_index(dir.path(), &json!({ "metadata": { "total_size": total }, "weight_map": map }));
        dir
    }
}

/// The warnings of a clean checkpoint.
pub const NO_WARNINGS: [&str; 0] = [];

pub const FIRST: &str = "model-00001-of-00002.safetensors";
pub const SECOND: &str = "model-00002-of-00002.safetensors";
pub const INDEX: &str = "model.safetensors.index.json";

pub fn write_tensors(path: &Path, tensors: &BTreeMap<String, Tensor>) {
    let views = tensors.iter().map(|(name, tensor)| (name, tensor.view()));
    fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

pub fn write_index(dir: &Path, index: &Value) {
    fs::write(dir.join(INDEX), index.to_string()).unwrap();
}

/// Everything in f32, steps of up to eight tokens.
pub fn options() -> ImportOptions {
    ImportOptions {
        weights: DType::F32,
        activations: DType::F32,
        kv: DType::F32,
        block_tokens: 4,
        max_num_tokens: 8,
        max_batch_size: 2,
        max_logit_rows: 8,
        max_seq_len: 30,
        sampled_ids: None,
    }
}

/// The messages of a checkpoint that must be bad input.
pub fn bad_input(dir: &Path) -> Vec<String> {
    match Checkpoint::open(dir).unwrap_err() {
        ImportError::BadInput(messages) => messages,
        other => panic!("expected bad input, found {other:?}"),
    }
}

/// The messages of a checkpoint that must be unsupported.
pub fn unsupported(dir: &Path) -> Vec<String> {
    match Checkpoint::open(dir).unwrap_err() {
        ImportError::Unsupported(messages) => messages,
        other => panic!("expected unsupported, found {other:?}"),
    }
}

/// Asserts that there is one message, which names a file of the directory, and contains all these parts.
#[track_caller]
pub fn assert_one(messages: &[String], dir: &Path, parts: &[&str]) {
    let [message] = messages else { panic!("expected one message, found {messages:#?}") };
    assert!(message.starts_with(dir.to_str().unwrap()), "{message}");
    for part in parts {
        assert!(message.contains(part), "expected {part:?} in {message:?}");
    }
}
