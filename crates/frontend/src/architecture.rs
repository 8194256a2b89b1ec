//! The table of architectures. A decoder-only model that the builder can spell is one more row.

/// What sets one architecture apart from another.
#[derive(Debug)]
pub(crate) struct Architecture {
    /// `architectures[0]` of `config.json`.
    pub name: &'static str,
    /// `model_type`: transformers picks the class by it, so another one means another model.
    pub model_type: &'static str,
    /// What a missing key means.
    pub defaults: Defaults,
    /// Whether the projection behind attention has a bias where those before it have one.
    pub output_bias: bool,
    /// Whether the heads of queries and keys are normed before their rotation.
    pub qk_norm: bool,
    /// Keys of `config.json` that are read beside those that all read; others are judged by [`crate::keys`].
    keys: &'static [&'static str],
}

/// The defaults of the transformers configuration class.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Defaults {
    pub vocab_size: u32,
    pub hidden_size: u32,
    pub intermediate_size: u32,
    pub layers: u32,
    pub heads: u32,
    /// As many as query heads, where there is none.
    pub kv_heads: Option<u32>,
    /// A share of the hidden size, where there is none.
    pub head_dim: Option<u32>,
    pub max_position_embeddings: u32,
    pub rms_norm_eps: f64,
    pub rope_theta: f64,
    pub attention_bias: bool,
    pub mlp_bias: bool,
    pub tie_word_embeddings: bool,
    /// Tokens that a token sees, where the class knows such a bound without a switch for it.
    pub sliding_window: Option<u32>,
    pub bos: Option<u32>,
    pub eos: Option<u32>,
}

// transformers 5.17, LlamaConfig
const LLAMA: Defaults = Defaults {
    vocab_size: 32000,
    hidden_size: 4096,
    intermediate_size: 11008,
    layers: 32,
    heads: 32,
    kv_heads: None,
    head_dim: None,
    max_position_embeddings: 2048,
    rms_norm_eps: 1e-6,
    rope_theta: 10000.0,
    attention_bias: false,
    mlp_bias: false,
    tie_word_embeddings: false,
    sliding_window: None,
    bos: Some(1),
    eos: Some(2),
};

// transformers 5.24, Qwen2Config
const QWEN2: Defaults = Defaults {
    vocab_size: 151936,
    intermediate_size: 22016,
    kv_heads: Some(32),
    max_position_embeddings: 32768,
    attention_bias: true,
    bos: None,
    eos: None,
    ..LLAMA
};

static ARCHITECTURES: [Architecture; 4] = [
    Architecture {
        name: "LlamaForCausalLM",
        model_type: "llama",
        defaults: LLAMA,
        output_bias: true,
        qk_norm: false,
        keys: &["attention_bias", "mlp_bias"],
    },
    Architecture {
        name: "MistralForCausalLM",
        model_type: "mistral",
        // transformers 5.24, MistralConfig
        defaults: Defaults {
            intermediate_size: 14336,
            kv_heads: Some(8),
            max_position_embeddings: 4096 * 32,
            sliding_window: Some(4096),
            ..LLAMA
        },
        output_bias: false,
        qk_norm: false,
        keys: &["sliding_window"],
    },
    Architecture {
        name: "Qwen2ForCausalLM",
        model_type: "qwen2",
        defaults: QWEN2,
        output_bias: false,
        qk_norm: false,
        // the window says nothing while `use_sliding_window` is off, and it must be
        keys: &["sliding_window"],
    },
    Architecture {
        name: "Qwen3ForCausalLM",
        model_type: "qwen3",
        // transformers 5.24, Qwen3Config
        defaults: Defaults { head_dim: Some(128), attention_bias: false, ..QWEN2 },
        output_bias: true,
        qk_norm: true,
        keys: &["attention_bias", "sliding_window"],
    },
];

/// Keys that all architectures read.
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
    "rms_norm_eps",
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

impl Architecture {
    /// Whether a key of `config.json` is read.
    pub fn reads(&self, key: &str) -> bool {
        KEYS.contains(&key) || self.keys.contains(&key)
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
