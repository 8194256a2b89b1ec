//! The one builder of decoder-only models: the graph as in the files, nothing fused.

mod coded;

use std::collections::BTreeMap;

use ir::ops::{
    Add, AppendKv, Argmax, Cast, Embedding, GatherRows, Gelu, GeluTanh, LayerNorm, Linear, Mul, PagedAttention, Relu,
    RmsNorm, Rope, RopeFrequencies, Silu,
};
use ir::{Graph, GraphError, KvDecl, Op, OpDef, TensorType, Value};
use plan::{DType, Dim, Symbol, SymbolDecl};

use crate::model_tensors::{EMBEDDING, HEAD, LAST_NORM, layer_prefix};
use crate::quantized::CodedLinear;
use crate::{Activation, ImportOptions, Mlp, ModelConfig, Norm};

/// The KV group of all layers.
const GROUP: u32 = 0;
/// The dtype of the residual stream and of what is added to it. A sum of dozens of terms, each rounded to 16 bits,
/// would be the largest error of a model.
const SUMS: DType = DType::F32;

/// Builds the graph over constants of these types; some modules are quantized.
pub(crate) fn build(
    config: &ModelConfig,
    constants: &BTreeMap<String, TensorType>,
    coded: &BTreeMap<String, CodedLinear>,
    options: &ImportOptions,
) -> Result<Graph, GraphError> {
    let kv = KvDecl {
        dtype: options.kv,
        layers: config.layers,
        kv_heads: config.kv_heads,
        head_dim: config.head_dim,
        block_tokens: options.block_tokens,
    };
    let symbols = [('T', options.max_num_tokens), ('B', options.max_batch_size), ('R', options.max_logit_rows)];
    let [t, b, r] = symbols.map(|(name, _)| Dim::symbol(&symbol(name)));
    let bound = |(name, max)| SymbolDecl { symbol: symbol(name), min: 1, max: u64::from(max) };
    let mut graph = Graph::new(&config.model_type, symbols.map(bound).to_vec(), vec![kv]);
    let mut input = |name: &str, shape: Vec<Dim>| graph.add_input(name, TensorType { dtype: DType::I32, shape });
    let blocks = Dim::from(u64::from(options.max_seq_len.div_ceil(options.block_tokens)));
    let step = Step {
        tokens: input("tokens", vec![t.clone()]),
        positions: input("positions", vec![t]),
        query_starts: input("query_starts", vec![b.clone() + 1.into()]),
        block_table: input("block_table", vec![b, blocks]),
        rows: input("rows", vec![r]),
    };
    Builder { graph, config, constants, coded, options, step }.build()
}

/// `letter` as a symbol.
fn symbol(letter: char) -> Symbol {
    Symbol::new(&letter.to_string()).expect("a letter is a symbol")
}

/// Inputs of each step.
#[derive(Clone, Copy)]
struct Step {
    tokens: Value,
    positions: Value,
    query_starts: Value,
    block_table: Value,
    rows: Value,
}

struct Builder<'a> {
    graph: Graph,
    config: &'a ModelConfig,
    constants: &'a BTreeMap<String, TensorType>,
    coded: &'a BTreeMap<String, CodedLinear>,
    options: &'a ImportOptions,
    step: Step,
}

impl Builder<'_> {
    fn build(mut self) -> Result<Graph, GraphError> {
        let (config, step) = (self.config, self.step);
        let rope =
            RopeFrequencies { dim: config.rope.dim, theta: config.rope.theta, scaling: config.rope.scaling.clone() };
        let frequencies = self.op("rope.frequencies", rope, &[])?;
        let table = self.weight(&format!("{EMBEDDING}.weight"))?;
        let embedding = self.op("embedding", Embedding {}, &[step.tokens, table])?;
        let mut x = self.cast(embedding, SUMS)?;
        for layer in 0..config.layers {
            x = self.attention(layer, x, frequencies)?;
            x = self.mlp(layer, x)?;
        }
        let normed = self.norm("norm", x, LAST_NORM)?;
        let normed = self.op("norm.rows", GatherRows {}, &[normed, step.rows])?;
        let to = self.widened();
        let logits = match config.tie_word_embeddings {
            true => self.op("logits", Linear { to }, &[normed, table])?,
            false => self.linear("logits", normed, HEAD, to)?,
        };
        let classes = self.options.sampled_ids.map_or(config.vocab_size, |ids| ids.min(config.vocab_size));
        let next = self.op("next_tokens", Argmax { classes }, &[logits])?;
        self.graph.add_output("logits", logits);
        self.graph.add_output("next_tokens", next);
        Ok(self.graph)
    }

    fn attention(&mut self, layer: u32, x: Value, frequencies: Value) -> Result<Value, GraphError> {
        let ModelConfig { head_dim, kv_heads, .. } = *self.config;
        let Step { positions, query_starts, block_table, .. } = self.step;
        let module = |name: &str| format!("{}.{name}", layer_prefix(layer));
        let name = |name: &str| format!("layers.{layer}.{name}");

        let normed = self.norm(&name("input_norm"), x, &module("input_layernorm"))?;
        // q, k and v are rounded once, after RoPE
        let wide = self.widened();
        let q = self.linear(&name("attn.q"), normed, &module("self_attn.q_proj"), wide)?;
        let k = self.linear(&name("attn.k"), normed, &module("self_attn.k_proj"), wide)?;
        let v = self.linear(&name("attn.v"), normed, &module("self_attn.v_proj"), wide)?;
        let to = self.narrowed();
        let q = self.head_norm(&name("attn.q_norm"), q, &module("self_attn.q_norm"))?;
        let k = self.head_norm(&name("attn.k_norm"), k, &module("self_attn.k_norm"))?;
        let q = self.op(&name("attn.q_rope"), Rope { head_dim, to }, &[q, positions, frequencies])?;
        let k = self.op(&name("attn.k_rope"), Rope { head_dim, to: None }, &[k, positions, frequencies])?;
        let append = AppendKv { group: GROUP, layer };
        let cache = self.op(&name("attn.cache"), append, &[k, v, positions, query_starts, block_table])?;
        let scale = f64::from(head_dim).powf(-0.5) as f32;
        let attention = PagedAttention { group: GROUP, layer, head_dim, kv_heads, scale };
        let mixed = self.op(&name("attn.mixed"), attention, &[q, cache, positions, query_starts, block_table])?;
        let out = self.linear(&name("attn.out"), mixed, &module("self_attn.o_proj"), wide)?;
        self.op(&name("attn.sum"), Add {}, &[x, out])
    }

    fn mlp(&mut self, layer: u32, x: Value) -> Result<Value, GraphError> {
        let module = |name: &str| format!("{}.{name}", layer_prefix(layer));
        let name = |name: &str| format!("layers.{layer}.{name}");

        let normed = self.norm(&name("post_norm"), x, &module("post_attention_layernorm"))?;
        let activated = name(&format!("mlp.{}", self.config.activation.op_name()));
        let (inner, down) = match self.config.mlp {
            Mlp::Gated { gate, up, down } => {
                let gate = self.linear(&name("mlp.gate"), normed, &module(gate), None)?;
                let gate = self.activation(&activated, gate)?;
                let up = self.linear(&name("mlp.up"), normed, &module(up), None)?;
                (self.op(&name("mlp.gated"), Mul {}, &[gate, up])?, down)
            }
            Mlp::Plain { up, down } => {
                let up = self.linear(&name("mlp.up"), normed, &module(up), None)?;
                (self.activation(&activated, up)?, down)
            }
        };
        let down = self.linear(&name("mlp.down"), inner, &module(down), self.widened())?;
        self.op(&name("mlp.sum"), Add {}, &[x, down])
    }

    fn activation(&mut self, name: &str, x: Value) -> Result<Value, GraphError> {
        match self.config.activation {
            Activation::Silu => self.op(name, Silu {}, &[x]),
            Activation::Gelu => self.op(name, Gelu {}, &[x]),
            Activation::GeluTanh => self.op(name, GeluTanh {}, &[x]),
            Activation::Relu => self.op(name, Relu {}, &[x]),
        }
    }

    fn norm(&mut self, name: &str, x: Value, module: &str) -> Result<Value, GraphError> {
        let (eps, to) = (self.config.norm_eps, self.narrowed());
        let weight = self.weight(&format!("{module}.weight"))?;
        match self.config.norm {
            Norm::Rms => self.op(name, RmsNorm { eps, head_dim: None, to }, &[x, weight]),
            Norm::Layer => {
                let bias = self.weight(&format!("{module}.bias"))?;
                self.op(name, LayerNorm { eps, to }, &[x, weight, bias])
            }
        }
    }

    /// The norm of each head, in models that have one.
    fn head_norm(&mut self, name: &str, x: Value, module: &str) -> Result<Value, GraphError> {
        if !self.config.qk_norm {
            return Ok(x);
        }
        let weight = self.weight(&format!("{module}.weight"))?;
        let norm = RmsNorm { eps: self.config.norm_eps, head_dim: Some(self.config.head_dim), to: None };
        self.op(name, norm, &[x, weight])
    }

    /// The dtype that a linear layer's result is rounded to before it is added; `None` if it has that dtype already.
    fn widened(&self) -> Option<DType> {
        (self.options.activations != SUMS).then_some(SUMS)
    }

    /// Rounds to the dtype of activations, as the input of a matrix product.
    fn narrowed(&self) -> Option<DType> {
        (self.options.activations != SUMS).then_some(self.options.activations)
    }

    /// The projection of a module, with a bias if the model has one.
    fn linear(&mut self, name: &str, x: Value, module: &str, to: Option<DType>) -> Result<Value, GraphError> {
        let bias = format!("{module}.bias");
        if let Some(coded) = self.coded.get(module) {
            return self.coded_linear((name, to), x, coded, &bias);
        }
        let mut operands = vec![x, self.weight(&format!("{module}.weight"))?];
        if self.constants.contains_key(&bias) {
            operands.push(self.weight(&bias)?);
        }
        self.op(name, Linear { to }, &operands)
    }

    /// A constant of the checkpoint, cast to the dtype of weights.
    fn weight(&mut self, key: &str) -> Result<Value, GraphError> {
        let constant = self.constant(key)?;
        self.cast(constant, self.options.weights)
    }

    /// A constant of the checkpoint, as stored.
    fn constant(&mut self, key: &str) -> Result<Value, GraphError> {
        let Some(ty) = self.constants.get(key) else {
            let reason = format!("the model has no tensor `{key}`");
            return Err(GraphError { mnemonic: "constant".to_owned(), reason });
        };
        Ok(self.graph.add_constant(key, ty.clone()))
    }

    /// The value in this dtype: itself, or a cast named after both.
    fn cast(&mut self, value: Value, to: DType) -> Result<Value, GraphError> {
        if self.graph.tensor(value).is_some_and(|ty| ty.dtype == to) {
            return Ok(value);
        }
        let name = format!("{}.{to}", self.graph.value_name(value));
        self.op(&name, Cast { to }, &[value])
    }

    fn op(&mut self, name: &str, op: impl OpDef, operands: &[Value]) -> Result<Value, GraphError> {
        let id = self.graph.add(Op::new(op), operands, &[name])?;
        Ok(self.graph.result(id))
    }
}
