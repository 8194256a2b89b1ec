//! The table of architectures. A decoder-only model that the builder supports is one more row.

use crate::window::{self, Window};
use crate::{Activation, Mlp, Norm};

/// What distinguishes one architecture from another.
#[derive(Debug)]
pub(crate) struct Architecture {
    /// `architectures[0]` of `config.json`.
    pub name: &'static str,
    /// `model_type`: transformers selects the class by it, so a different one means a different model.
    pub model_type: &'static str,
    /// The norms.
    pub norm: Norm,
    /// The MLP.
    pub mlp: Mlp,
    /// Keys that other architectures name differently.
    pub spelling: Spelling,
    /// Keys whose only supported value is the default, and that value.
    pub given: &'static [(&'static str, &'static str)],
    /// Defaults for missing keys.
    pub defaults: Defaults,
    /// Whether the output projection of attention has a bias if the q, k and v projections have one.
    pub output_bias: bool,
    /// Whether the heads of q and k are normalized before RoPE.
    pub qk_norm: bool,
    /// Which layers have the sliding window that the file names.
    pub window: Window,
}

/// Keys with several spellings. One key may set several things; a bias without a key has its default.
#[derive(Debug)]
pub(crate) struct Spelling {
    pub norm_eps: &'static str,
    pub attention_bias: Option<&'static str>,
    pub mlp_bias: Option<&'static str>,
}

/// The defaults of the transformers configuration class.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Defaults {
    pub vocab_size: u32,
    pub hidden_size: u32,
    pub intermediate_size: u32,
    pub layers: u32,
    pub heads: u32,
    /// As many as query heads if missing.
    pub kv_heads: Option<u32>,
    /// The hidden size divided by the heads if missing.
    pub head_dim: Option<u32>,
    pub activation: Activation,
    pub max_position_embeddings: u32,
    pub norm_eps: f64,
    pub rope_theta: f64,
    pub attention_bias: bool,
    pub mlp_bias: bool,
    pub tie_word_embeddings: bool,
    /// Tokens visible to a token, if the class has such a bound without a switch for it.
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
    activation: Activation::Silu,
    max_position_embeddings: 2048,
    norm_eps: 1e-6,
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
    sliding_window: Some(4096),
    ..LLAMA
};

const QWEN_WINDOW: Window = Window::Switched { layers_before: 28 };

const GATED: Mlp = Mlp::Gated { gate: "mlp.gate_proj", up: "mlp.up_proj", down: "mlp.down_proj" };
const NO_BIASES: Spelling = Spelling { norm_eps: "rms_norm_eps", attention_bias: None, mlp_bias: None };

static ARCHITECTURES: [Architecture; 5] = [
    Architecture {
        name: "LlamaForCausalLM",
        model_type: "llama",
        norm: Norm::Rms,
        mlp: GATED,
        spelling: Spelling { attention_bias: Some("attention_bias"), mlp_bias: Some("mlp_bias"), ..NO_BIASES },
        given: &[],
        defaults: LLAMA,
        output_bias: true,
        qk_norm: false,
        window: Window::Everywhere,
    },
    Architecture {
        name: "MistralForCausalLM",
        model_type: "mistral",
        norm: Norm::Rms,
        mlp: GATED,
        spelling: NO_BIASES,
        given: &[],
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
        window: Window::Everywhere,
    },
    Architecture {
        name: "Qwen2ForCausalLM",
        model_type: "qwen2",
        norm: Norm::Rms,
        mlp: GATED,
        spelling: NO_BIASES,
        given: &[],
        defaults: QWEN2,
        output_bias: false,
        qk_norm: false,
        window: QWEN_WINDOW,
    },
    Architecture {
        name: "Qwen3ForCausalLM",
        model_type: "qwen3",
        norm: Norm::Rms,
        mlp: GATED,
        spelling: Spelling { attention_bias: Some("attention_bias"), ..NO_BIASES },
        given: &[],
        // transformers 5.24, Qwen3Config
        defaults: Defaults { head_dim: Some(128), attention_bias: false, ..QWEN2 },
        output_bias: true,
        qk_norm: true,
        window: QWEN_WINDOW,
    },
    Architecture {
        name: "Starcoder2ForCausalLM",
        model_type: "starcoder2",
        norm: Norm::Layer,
        mlp: Mlp::Plain { up: "mlp.c_fc", down: "mlp.c_proj" },
        spelling: Spelling { norm_eps: "norm_epsilon", attention_bias: Some("use_bias"), mlp_bias: Some("use_bias") },
        // as in files of the first versions
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
            attention_bias: true,
            mlp_bias: true,
            tie_word_embeddings: true,
            bos: Some(50256),
            eos: Some(50256),
            ..LLAMA
        },
        output_bias: true,
        qk_norm: false,
        window: Window::Everywhere,
    },
];

/// Keys that all architectures read, besides those of windows.
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

impl Architecture {
    /// Whether a key of `config.json` is read; others are checked by [`crate::keys`].
    pub fn reads(&self, key: &str) -> bool {
        let Spelling { norm_eps, attention_bias, mlp_bias } = self.spelling;
        let spelled = [Some(norm_eps), attention_bias, mlp_bias];
        KEYS.contains(&key) || window::KEYS.contains(&key) || spelled.contains(&Some(key))
    }
}

/// Names of the architectures that can be imported.
pub fn architectures() -> impl Iterator<Item = &'static str> {
    ARCHITECTURES.iter().map(|architecture| architecture.name)
}

/// The row of this name; some programs write it with different capitals.
pub(crate) fn find(name: &str) -> Option<&'static Architecture> {
    ARCHITECTURES.iter().find(|architecture| architecture.name.eq_ignore_ascii_case(name))
}
