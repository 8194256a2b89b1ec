//! The table of architectures. A decoder-only model that the builder can spell is one more row.

use crate::{Activation, Mlp, Norm};

/// What sets one architecture apart from another.
#[derive(Debug)]
pub(crate) struct Architecture {
    /// `architectures[0]` of `config.json`.
    pub name: &'static str,
    /// `model_type`: transformers picks the class by it, so another one means another model.
    pub model_type: &'static str,
    /// The norms.
    pub norm: Norm,
    /// The MLP.
    pub mlp: Mlp,
    /// Names of keys that others call otherwise.
    pub spelling: Spelling,
    /// Keys that may say what is so anyway, and the word for that.
    pub given: &'static [(&'static str, &'static str)],
    /// What a missing key means.
    pub defaults: Defaults,
}

/// Keys that mean the same under several names. One key may stand for several things.
#[derive(Debug)]
pub(crate) struct Spelling {
    pub norm_eps: &'static str,
    pub attention_bias: &'static str,
    pub mlp_bias: &'static str,
}

/// The defaults of the transformers configuration class.
#[derive(Debug)]
pub(crate) struct Defaults {
    pub vocab_size: u32,
    pub hidden_size: u32,
    pub intermediate_size: u32,
    pub layers: u32,
    pub heads: u32,
    /// As many as heads, where there is none.
    pub kv_heads: Option<u32>,
    pub activation: Activation,
    pub max_position_embeddings: u32,
    pub norm_eps: f64,
    pub rope_theta: f64,
    pub attention_bias: bool,
    pub mlp_bias: bool,
    pub tie_word_embeddings: bool,
    pub bos: Option<u32>,
    pub eos: Option<u32>,
}

/// Keys of `config.json` that are read for every architecture, beside those of its spelling; others are judged by
/// [`crate::keys`].
const KEYS: &[&str] = &[
    "architectures",
    "model_type",
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "max_position_embeddings",
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "original_max_position_embeddings",
    "partial_rotary_factor",
    "tie_word_embeddings",
    "bos_token_id",
    "eos_token_id",
    "dtype",
    "torch_dtype",
];

static ARCHITECTURES: [Architecture; 2] = [
    Architecture {
        name: "LlamaForCausalLM",
        model_type: "llama",
        norm: Norm::Rms,
        mlp: Mlp::Gated { gate: "mlp.gate_proj", up: "mlp.up_proj", down: "mlp.down_proj" },
        spelling: Spelling { norm_eps: "rms_norm_eps", attention_bias: "attention_bias", mlp_bias: "mlp_bias" },
        given: &[],
        // transformers 5.17, LlamaConfig
        defaults: Defaults {
            vocab_size: 32000,
            hidden_size: 4096,
            intermediate_size: 11008,
            layers: 32,
            heads: 32,
            kv_heads: None,
            activation: Activation::Silu,
            max_position_embeddings: 2048,
            norm_eps: 1e-6,
            rope_theta: 10000.0,
            attention_bias: false,
            mlp_bias: false,
            tie_word_embeddings: false,
            bos: Some(1),
            eos: Some(2),
        },
    },
    Architecture {
        name: "Starcoder2ForCausalLM",
        model_type: "starcoder2",
        norm: Norm::Layer,
        mlp: Mlp::Plain { up: "mlp.c_fc", down: "mlp.c_proj" },
        spelling: Spelling { norm_eps: "norm_epsilon", attention_bias: "use_bias", mlp_bias: "use_bias" },
        // as the files of the first versions have it
        given: &[("norm_type", "layer_norm"), ("mlp_type", "default")],
        // transformers 5.24, Starcoder2Config
        defaults: Defaults {
            vocab_size: 49152,
            hidden_size: 3072,
            intermediate_size: 12288,
            layers: 30,
            heads: 24,
            kv_heads: Some(2),
            activation: Activation::GeluTanh,
            max_position_embeddings: 4096,
            norm_eps: 1e-5,
            rope_theta: 10000.0,
            attention_bias: true,
            mlp_bias: true,
            tie_word_embeddings: true,
            bos: Some(50256),
            eos: Some(50256),
        },
    },
];

impl Architecture {
    /// Whether the importer reads a key.
    pub fn reads(&self, key: &str) -> bool {
        let Spelling { norm_eps, attention_bias, mlp_bias } = self.spelling;
        KEYS.contains(&key) || [norm_eps, attention_bias, mlp_bias].contains(&key)
    }
}

/// Names of the architectures that can be imported.
pub fn architectures() -> impl Iterator<Item = &'static str> {
    ARCHITECTURES.iter().map(|architecture| architecture.name)
}

/// The row of this name.
pub(crate) fn find(name: &str) -> Option<&'static Architecture> {
    ARCHITECTURES.iter().find(|architecture| architecture.name == name)
}
