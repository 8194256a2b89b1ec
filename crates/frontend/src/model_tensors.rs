//! The tensors of a decoder-only model: names as in Hugging Face files, sizes from the configuration.

use plan::RandomPart;

use crate::{Mlp, ModelConfig, Norm};

/// Module of the embedding table.
pub const EMBEDDING: &str = "model.embed_tokens";
/// Module of lm_head.
pub const HEAD: &str = "lm_head";
/// Module of the final norm.
pub(crate) const LAST_NORM: &str = "model.norm";

/// Prefix of the modules of decoder layers.
pub(crate) fn layer_prefix(layer: u32) -> String {
    format!("model.layers.{layer}")
}

/// A tensor that a model must have.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ModelTensor {
    /// Its name in the checkpoint.
    pub name: String,
    /// Its sizes.
    pub shape: Vec<u64>,
    /// Its mean in a dummy model.
    mean: f32,
}

impl ModelTensor {
    /// Its number of scalars.
    pub fn elements(&self) -> u64 {
        self.shape.iter().product()
    }

    /// Its random values in a dummy model: the spread at initialization, and norm weights around one.
    pub fn random(&self) -> RandomPart {
        RandomPart::named(&self.name, self.elements(), self.mean, 0.02)
    }
}

impl ModelConfig {
    /// Scalar weights; a tied embedding table counts once.
    pub fn parameters(&self) -> u64 {
        model_tensors(self).iter().map(ModelTensor::elements).sum()
    }
}

/// All tensors of a model, in the order of their use.
pub(crate) fn model_tensors(config: &ModelConfig) -> Vec<ModelTensor> {
    let (hidden, intermediate) = (config.hidden_size, config.intermediate_size);
    let (q, kv) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
    let (attention_bias, mlp_bias) = (config.attention_bias, config.mlp_bias);
    let output_bias = attention_bias && config.output_bias;
    let mut list = List(Vec::new());
    list.linear(EMBEDDING, [config.vocab_size, hidden], false);
    for layer in 0..config.layers {
        let module = |name: &str| format!("{}.{name}", layer_prefix(layer));
        list.norm(&module("input_layernorm"), hidden, config.norm);
        list.linear(&module("self_attn.q_proj"), [q, hidden], attention_bias);
        list.linear(&module("self_attn.k_proj"), [kv, hidden], attention_bias);
        list.linear(&module("self_attn.v_proj"), [kv, hidden], attention_bias);
        if config.qk_norm {
            list.norm(&module("self_attn.q_norm"), config.head_dim, Norm::Rms);
            list.norm(&module("self_attn.k_norm"), config.head_dim, Norm::Rms);
        }
        list.linear(&module("self_attn.o_proj"), [hidden, q], output_bias);
        list.norm(&module("post_attention_layernorm"), hidden, config.norm);
        let (gate, up, down) = match config.mlp {
            Mlp::Gated { gate, up, down } => (Some(gate), up, down),
            Mlp::Plain { up, down } => (None, up, down),
        };
        for name in gate.into_iter().chain([up]) {
            list.linear(&module(name), [intermediate, hidden], mlp_bias);
        }
        list.linear(&module(down), [hidden, intermediate], mlp_bias);
    }
    list.norm(LAST_NORM, hidden, config.norm);
    if !config.tie_word_embeddings {
        list.linear(HEAD, [config.vocab_size, hidden], false);
    }
    list.0
}

struct List(Vec<ModelTensor>);

impl List {
    fn linear(&mut self, module: &str, [rows, columns]: [u32; 2], bias: bool) {
        self.add(format!("{module}.weight"), &[rows, columns], 0.0);
        if bias {
            self.add(format!("{module}.bias"), &[rows], 0.0);
        }
    }

    fn norm(&mut self, module: &str, size: u32, norm: Norm) {
        self.add(format!("{module}.weight"), &[size], 1.0);
        if norm == Norm::Layer {
            self.add(format!("{module}.bias"), &[size], 0.0);
        }
    }

    fn add(&mut self, name: String, shape: &[u32], mean: f32) {
        self.0.push(ModelTensor { name, shape: shape.iter().copied().map(u64::from).collect(), mean });
    }
}
