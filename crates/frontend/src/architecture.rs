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
    /// Keys of `config.json` that are read; others are judged by [`crate::keys`].
    pub keys: &'static [&'static str],
}

/// The defaults of the transformers configuration class.
#[derive(Debug)]
pub(crate) struct Defaults {
    pub vocab_size: u32,
    pub hidden_size: u32,
    pub intermediate_size: u32,
    pub layers: u32,
    pub heads: u32,
    pub max_position_embeddings: u32,
    pub rms_norm_eps: f64,
    pub rope_theta: f64,
    pub attention_bias: bool,
    pub mlp_bias: bool,
    pub tie_word_embeddings: bool,
    pub bos: Option<u32>,
    pub eos: Option<u32>,
}

static ARCHITECTURES: [Architecture; 1] = [Architecture {
    name: "LlamaForCausalLM",
    model_type: "llama",
    // transformers 5.17, LlamaConfig
    defaults: Defaults {
        vocab_size: 32000,
        hidden_size: 4096,
        intermediate_size: 11008,
        layers: 32,
        heads: 32,
        max_position_embeddings: 2048,
        rms_norm_eps: 1e-6,
        rope_theta: 10000.0,
        attention_bias: false,
        mlp_bias: false,
        tie_word_embeddings: false,
        bos: Some(1),
        eos: Some(2),
    },
    keys: &[
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
        "attention_bias",
        "mlp_bias",
        "tie_word_embeddings",
        "bos_token_id",
        "eos_token_id",
        "dtype",
        "torch_dtype",
    ],
}];

/// Names of the architectures that can be imported.
pub fn architectures() -> impl Iterator<Item = &'static str> {
    ARCHITECTURES.iter().map(|architecture| architecture.name)
}

/// The row of this name.
pub(crate) fn find(name: &str) -> Option<&'static Architecture> {
    ARCHITECTURES.iter().find(|architecture| architecture.name == name)
}
