//! The configuration of a model: values of `config.json`, and the defaults of transformers.

use plan::DType;
use serde_json::Value;

use crate::architecture::{self, Architecture};
use crate::json::Object;
use crate::report::{Report, listed};
use crate::rope::{self, Rope, RopeContext};
use crate::{Activation, Mlp, Norm, keys, window};

/// A decoder-only model, without its weights.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// `architectures[0]`.
    pub architecture: String,
    /// `model_type` of that architecture.
    pub model_type: String,
    /// Rows of the embedding table.
    pub vocab_size: u32,
    /// Width of the residual stream.
    pub hidden_size: u32,
    /// Width of the MLP.
    pub intermediate_size: u32,
    /// Decoder layers.
    pub layers: u32,
    /// Query heads of a layer.
    pub heads: u32,
    /// Key and value heads of a layer, a divisor of `heads`.
    pub kv_heads: u32,
    /// Head dimension.
    pub head_dim: u32,
    /// The norms.
    pub norm: Norm,
    /// What norms add to the mean square, or to the variance.
    pub norm_eps: f32,
    /// The MLP.
    pub mlp: Mlp,
    /// The activation in the MLP.
    pub activation: Activation,
    /// The rotary embedding.
    pub rope: Rope,
    /// Whether the projections of attention have biases.
    pub attention_bias: bool,
    /// Whether the output projection of attention has one, too.
    pub output_bias: bool,
    /// Whether the heads of q and k are normalized before RoPE.
    pub qk_norm: bool,
    /// Whether the projections of the MLP have biases.
    pub mlp_bias: bool,
    /// Whether the embedding table is also lm_head: `config.json` ties them, and no other lm_head is stored.
    pub tie_word_embeddings: bool,
    /// The model's context length.
    pub max_position_embeddings: u32,
    /// Size of the sliding window, if longer sequences are possible: those are not supported.
    pub window: Option<u32>,
    /// `dtype` or `torch_dtype`.
    pub dtype: Option<DType>,
    /// The BOS token.
    pub bos: Option<u32>,
    /// Stop tokens.
    pub eos: Vec<u32>,
}

/// Bounds far above any model: they keep every product of sizes within 64 bits, and a dry run within seconds.
const MAX_VOCAB: u32 = 1 << 24;
const MAX_WIDTH: u32 = 1 << 20;
const MAX_LAYERS: u32 = 1 << 11;
const MAX_HEADS: u32 = 1 << 14;
/// Positions are i32.
const MAX_POSITIONS: u32 = 1 << 30;

impl ModelConfig {
    /// Reads a configuration; `None` after an error: comparing tensors with it would only add noise.
    pub(crate) fn read(config: Object<'_>, generation: Option<Object<'_>>, report: &mut Report) -> Option<ModelConfig> {
        let architecture = read_architecture(config, report)?;
        keys::check(config, architecture, report);
        let defaults = &architecture.defaults;
        let vocab_size = config.size("vocab_size", 1..=MAX_VOCAB, report).unwrap_or(defaults.vocab_size);
        let heads = Heads::read(config, architecture, report);
        let positions = config.size("max_position_embeddings", 1..=MAX_POSITIONS, report);
        let max_position_embeddings = positions.unwrap_or(defaults.max_position_embeddings);
        let context =
            RopeContext { default_theta: defaults.rope_theta, head_dim: heads.head_dim, max_position_embeddings };
        let layers = config.size("num_hidden_layers", 1..=MAX_LAYERS, report).unwrap_or(defaults.layers);
        let window = window::read(
            config,
            (architecture.window, defaults.sliding_window),
            (layers, max_position_embeddings),
            report,
        );
        let spelling = &architecture.spelling;
        let attention_bias = spelling.attention_bias.and_then(|key| config.flag(key, report));
        let mlp_bias = match spelling.mlp_bias == spelling.attention_bias {
            true => attention_bias,
            false => spelling.mlp_bias.and_then(|key| config.flag(key, report)),
        };
        let intermediate = config.size("intermediate_size", 1..=MAX_WIDTH, report);
        let tie = config.flag("tie_word_embeddings", report);
        let config = ModelConfig {
            architecture: architecture.name.to_owned(),
            model_type: architecture.model_type.to_owned(),
            vocab_size,
            hidden_size: heads.hidden_size,
            intermediate_size: intermediate.unwrap_or(defaults.intermediate_size),
            layers,
            heads: heads.heads,
            kv_heads: heads.kv_heads,
            head_dim: heads.head_dim,
            norm: architecture.norm,
            norm_eps: read_eps(config, spelling.norm_eps, report).unwrap_or(defaults.norm_eps) as f32,
            mlp: architecture.mlp,
            activation: read_activation(config, report).unwrap_or(defaults.activation),
            rope: rope::read(config, context, report),
            attention_bias: attention_bias.unwrap_or(defaults.attention_bias),
            output_bias: architecture.output_bias,
            qk_norm: architecture.qk_norm,
            mlp_bias: mlp_bias.unwrap_or(defaults.mlp_bias),
            tie_word_embeddings: tie.unwrap_or(defaults.tie_word_embeddings),
            max_position_embeddings,
            window,
            dtype: read_dtype(config, report),
            bos: read_ids(config, generation, "bos_token_id", defaults.bos, vocab_size, report).first().copied(),
            eos: read_ids(config, generation, "eos_token_id", defaults.eos, vocab_size, report),
        };
        (report.problems() == 0).then_some(config)
    }
}

/// The row of the table that the file names.
fn read_architecture(config: Object<'_>, report: &mut Report) -> Option<&'static Architecture> {
    let names: Vec<&str> = architecture::architectures().collect();
    let expected = format!("a list with one of {}", listed(&names));
    let Some(value) = config.present("architectures") else {
        report.bad_input(config.missing("architectures", format_args!("expected {expected}")));
        return None;
    };
    let first = |value: &'_ Value| Some(value.as_array()?.first()?.as_str()?.to_owned());
    let name = config.expect("architectures", &expected, first, report)?;
    let Some(row) = architecture::find(&name) else {
        report.unsupported(config.found("architectures", value, format_args!("expected {expected}")));
        return None;
    };
    if row.name != name {
        report.warning(config.found("architectures", value, format_args!("read as `{}`", row.name)));
    }
    // transformers selects the class by `model_type`: a different one means a different model.
    if let Some(value) = config.present("model_type").filter(|value| value.as_str() != Some(row.model_type)) {
        let rest = format_args!("expected \"{}\" for {name}", row.model_type);
        report.unsupported(config.found("model_type", value, rest));
    }
    Some(row)
}

/// Sizes that depend on each other.
struct Heads {
    hidden_size: u32,
    heads: u32,
    kv_heads: u32,
    head_dim: u32,
}

impl Heads {
    fn read(config: Object<'_>, architecture: &Architecture, report: &mut Report) -> Heads {
        let defaults = &architecture.defaults;
        let problems = report.problems();
        let hidden_size = config.size("hidden_size", 1..=MAX_WIDTH, report).unwrap_or(defaults.hidden_size);
        let heads = config.size("num_attention_heads", 1..=MAX_HEADS, report).unwrap_or(defaults.heads);
        // `null` means the value derived from other sizes, a missing key the default of the class.
        let nullable = |key, default: Option<u32>, report: &mut Report| match config.get(key) {
            None => default,
            Some(Value::Null) => None,
            Some(_) => config.size(key, 1..=MAX_HEADS, report),
        };
        let kv_heads = nullable("num_key_value_heads", defaults.kv_heads, report).unwrap_or(heads);
        let explicit = nullable("head_dim", defaults.head_dim, report);
        let head_dim = explicit.unwrap_or(hidden_size / heads);
        let read = Heads { hidden_size, heads, kv_heads, head_dim };
        // Sizes that could not be read are already reported: no further checks on them.
        if report.problems() == problems {
            read.check(config, explicit.is_some(), report);
        }
        read
    }

    fn check(&self, config: Object<'_>, explicit_head_dim: bool, report: &mut Report) {
        let Heads { hidden_size, heads, kv_heads, head_dim } = *self;
        let mut expect = |holds: bool, key: &str, expected: String| {
            if !holds {
                let rest = format!("expected {expected}");
                report.bad_input(match config.present(key) {
                    Some(value) => config.found(key, value, rest),
                    None => config.missing(key, rest),
                });
            }
        };
        let whole = explicit_head_dim || hidden_size.is_multiple_of(heads);
        expect(whole, "hidden_size", format!("a multiple of the {heads} heads, or an explicit `head_dim`"));
        expect(heads.is_multiple_of(kv_heads), "num_key_value_heads", format!("a divisor of the {heads} heads"));
        // RoPE rotates pairs of elements.
        expect(
            head_dim.is_multiple_of(2) || !whole,
            "head_dim",
            format!("an even number of elements per head, found {head_dim}"),
        );
        let wide = u64::from(heads) * u64::from(head_dim) > u64::from(MAX_WIDTH);
        expect(!wide, "head_dim", format!("at most {MAX_WIDTH} elements over {heads} heads"));
    }
}

fn read_activation(config: Object<'_>, report: &mut Report) -> Option<Activation> {
    let name = config.text("hidden_act", report)?;
    let found = Activation::NAMES.iter().find(|(known, _)| *known == name);
    if found.is_none() {
        let known = Activation::NAMES.map(|(known, _)| known);
        report.unsupported(config.found(
            "hidden_act",
            &name.into(),
            format_args!("expected one of {}", listed(&known)),
        ));
    }
    found.map(|(_, activation)| *activation)
}

fn read_eps(config: Object<'_>, key: &str, report: &mut Report) -> Option<f64> {
    let convert = |value: &Value| value.as_f64().filter(|eps| (0.0..=1.0).contains(eps));
    config.expect(key, "a number from 0 to 1", convert, report)
}

/// `dtype` overrides `torch_dtype`, its older name.
fn read_dtype(config: Object<'_>, report: &mut Report) -> Option<DType> {
    let key = ["dtype", "torch_dtype"].into_iter().find(|key| config.present(key).is_some())?;
    let name = config.text(key, report)?;
    match name.strip_prefix("torch.").unwrap_or(name) {
        "float32" => Some(DType::F32),
        "float16" => Some(DType::F16),
        "bfloat16" => Some(DType::BF16),
        "auto" => None,
        _ => {
            let expected = "expected \"float32\", \"float16\" or \"bfloat16\"";
            report.unsupported(config.found(key, &name.into(), expected));
            None
        }
    }
}

/// Token ids: one, a list or `null`. Those of `generation_config.json` take precedence.
fn read_ids(
    config: Object<'_>,
    generation: Option<Object<'_>>,
    key: &str,
    default: Option<u32>,
    vocab_size: u32,
    report: &mut Report,
) -> Vec<u32> {
    let named = generation.filter(|generation| generation.present(key).is_some());
    let object = named.unwrap_or(config);
    let Some(value) = object.get(key) else {
        return default.into_iter().filter(|id| *id < vocab_size).collect();
    };
    let items = match value {
        Value::Null => &[],
        Value::Array(items) => items.as_slice(),
        one => std::slice::from_ref(one),
    };
    let integers = |_: &Value| items.iter().map(Value::as_i64).collect::<Option<Vec<i64>>>();
    let ids = object.expect(key, "a token id, a list of them, or null", integers, report).unwrap_or_default();
    let (known, unknown): (Vec<i64>, Vec<i64>) = ids.into_iter().partition(|id| (0..vocab_size.into()).contains(id));
    if !unknown.is_empty() {
        // -1 for "none" is seen in the wild; such ids can neither be in a prompt nor generated.
        let rest = format_args!("ids outside the vocabulary of {vocab_size} are ignored");
        report.warning(object.found(key, value, rest));
    }
    known.into_iter().filter_map(|id| u32::try_from(id).ok()).collect()
}
