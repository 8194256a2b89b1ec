//! Keys of `config.json` that an architecture does not read: harmless, known to change the mathematics, or unknown.

use serde_json::Value;

use crate::architecture::Architecture;
use crate::json::Object;
use crate::report::Report;

/// Training, generation defaults, and notes of the programs that wrote the file: no effect on logits. Keys that start
/// with `_` are transformers' own notes.
const HARMLESS: &[&str] = &[
    "attention_dropout",
    "attention_probs_dropout_prob",
    "attn_implementation",
    "attn_pdrop",
    "auto_map",
    "bad_words_ids",
    "begin_suppress_tokens",
    "chunk_size_feed_forward",
    "decoder_start_token_id",
    "diversity_penalty",
    "do_sample",
    "dropout",
    "early_stopping",
    "embd_pdrop",
    "embedding_dropout",
    "encoder_no_repeat_ngram_size",
    "encoder_repetition_penalty",
    "exponential_decay_length_penalty",
    "finetuning_task",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "gradient_checkpointing",
    "hidden_dropout",
    "hidden_dropout_prob",
    "id2label",
    "ignore_index",
    "initializer_range",
    "is_decoder",
    "is_llama_config",
    "keys_to_ignore_at_inference",
    "label2id",
    "length_penalty",
    "max_length",
    "max_new_tokens",
    "max_sequence_length",
    "min_length",
    "name_or_path",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_labels",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "output_router_logits",
    "output_scores",
    "pad_token_id",
    "prefix",
    "pretraining_tp",
    "problem_type",
    "remove_invalid_values",
    "repetition_penalty",
    "resid_pdrop",
    "residual_dropout",
    "return_dict",
    "return_dict_in_generate",
    "router_aux_loss_coef",
    "sep_token_id",
    "suppress_tokens",
    "task_specific_params",
    "temperature",
    "tf_legacy_loss",
    "tie_encoder_decoder",
    "tokenizer_class",
    "top_k",
    "top_p",
    "torchscript",
    "transformers.js_config",
    "transformers_version",
    "typical_p",
    "unk_token_id",
    "unsloth_fixed",
    "unsloth_version",
    "use_bfloat16",
    "use_cache",
];

/// A value that a meaningful key may have. `null`, `false`, `[]` and `{}` always mean off.
#[derive(Clone, Copy, Debug)]
enum Neutral {
    /// Only off.
    Off,
    /// A factor.
    One,
    /// A count, a distance or a bound.
    Zero,
    /// One of these words, or a list of them.
    Words(&'static [&'static str]),
}

use Neutral::{Off, One, Words, Zero};

/// Keys that change what is computed, in architectures that read them.
const MEANINGFUL: &[(&str, Neutral)] = &[
    // attention: masks
    ("add_cross_attention", Off),
    ("attention_chunk_size", Off),
    ("attention_sink", Off),
    ("cross_attention_hidden_size", Off),
    ("cross_attention_layers", Off),
    ("layers_block_type", Words(&["attention", "full_attention"])),
    ("sliding_window_pattern", Off),
    // attention: positions
    ("alibi", Off),
    ("attn_temperature_tuning", Off),
    ("no_rope_layer_interval", Off),
    ("no_rope_layers", Off),
    ("position_embedding_type", Words(&["rope", "rotary"])),
    ("rope_interleave", Off),
    ("rope_interleaved", Off),
    ("rope_local_base_freq", Off),
    ("rope_pct", One),
    ("rotary_dim", Off),
    ("rotary_emb_base", Off),
    ("rotary_pct", One),
    ("use_alibi", Off),
    // attention: scores and projections
    ("attention_multiplier", Off),
    ("attention_out_bias", Off),
    ("attn_logit_softcapping", Off),
    ("clip_qkv", Off),
    ("kv_lora_rank", Off),
    ("multi_query", Off),
    ("q_lora_rank", Off),
    ("qk_layernorm", Off),
    ("qk_norm", Off),
    ("qkv_bias", Off),
    ("query_pre_attn_scalar", Off),
    ("use_qk_norm", Off),
    // factors on embeddings, residuals and logits
    ("dim_model_base", Off),
    ("embedding_multiplier", One),
    ("embedding_scale", One),
    ("final_logit_softcapping", Off),
    ("logit_scale", One),
    ("logits_scaling", One),
    ("lm_head_multiplier", One),
    ("mup_enabled", Off),
    ("mup_width_multiplier", One),
    ("residual_multiplier", One),
    ("residual_scale", One),
    ("scale_depth", Off),
    ("scale_emb", One),
    ("use_mup", Off),
    // norms and MLPs
    ("hidden_activation", Words(&["silu", "swish"])),
    ("norm_bias", Off),
    ("norm_type", Words(&["rms_norm", "rmsnorm"])),
    ("parallel_attn", Off),
    ("use_bias", Off),
    ("use_parallel_residual", Off),
    // experts
    ("mlp_layer_types", Words(&["dense"])),
    ("moe_intermediate_size", Off),
    ("n_routed_experts", Zero),
    ("n_shared_experts", Zero),
    ("num_experts", Zero),
    ("num_experts_per_tok", Zero),
    ("num_local_experts", Zero),
    ("shared_expert_intermediate_size", Zero),
    // other models around or inside this one
    ("audio_config", Off),
    ("decoder", Off),
    ("encoder", Off),
    ("is_encoder_decoder", Off),
    ("num_mtp_layers", Zero),
    ("num_nextn_predict_layers", Zero),
    ("per_layer_config", Off),
    ("pruned_heads", Off),
    ("text_config", Off),
    ("vision_config", Off),
];

/// Keys of RoPE that change what is computed, in types that read them.
const ROPE: &[(&str, Neutral)] = &[
    ("alpha", Off),
    ("attention_factor", One),
    ("attn_factor", One),
    ("beta_fast", Off),
    ("beta_slow", Off),
    ("extrapolation_factor", One),
    ("interleaved", Off),
    ("long_factor", Off),
    ("long_mscale", One),
    ("mrope_interleaved", Off),
    ("mrope_section", Off),
    ("mscale", One),
    ("mscale_all_dim", One),
    ("ntk_alpha", Off),
    ("ntk_factor", One),
    ("rope_interleave", Off),
    ("rope_interleaved", Off),
    ("rotary_dim", Off),
    ("rotary_pct", One),
    ("scaling_factor", One),
    ("short_factor", Off),
    ("short_mscale", One),
    ("truncate", Off),
];

/// Obsolete keys that describe quantized weights.
const QUANTIZATION: [&str; 3] = ["compression_config", "quant_config", "quantization"];

/// The key that describes quantized weights, read by [`crate::quantized`].
pub(crate) const QUANTIZED: &str = "quantization_config";

/// Checks every key that the architecture does not read.
pub(crate) fn check(config: Object<'_>, architecture: &Architecture, report: &mut Report) {
    for (key, value) in config.entries() {
        if architecture.reads(key) || HARMLESS.contains(&key) || key.starts_with('_') || key == QUANTIZED {
            continue;
        }
        if QUANTIZATION.contains(&key) {
            if !is_off(value) {
                report.unsupported(quantized(config, key, value));
            }
            continue;
        }
        if let Some((_, word)) = architecture.given.iter().find(|(name, _)| *name == key) {
            if value.as_str().is_some_and(|value| value != *word) {
                let rest = format_args!("which changes the mathematics: expected \"{word}\"");
                report.unsupported(config.found(key, value, rest));
            }
            continue;
        }
        if !is_meaningful(config, (key, value), MEANINGFUL, report) {
            let name = architecture.name;
            report.warning(config.found(key, value, format_args!("which `{name}` does not use: ignored")));
        }
    }
}

/// Checks the keys of RoPE, except those that are read.
pub(crate) fn check_rope(parameters: Object<'_>, read: &[&str], report: &mut Report) {
    for (key, value) in parameters.entries().filter(|(key, value)| !read.contains(key) && !value.is_null()) {
        if value.is_object() {
            // RoPE parameters for each kind of layer
            report.unsupported(parameters.found(key, value, format_args!("expected only {}", read.join(", "))));
        } else if !is_meaningful(parameters, (key, value), ROPE, report) {
            report.warning(parameters.found(key, value, "which no supported rotary embedding uses: ignored"));
        }
    }
}

/// Whether a key is known to change what is computed. If so, its value must be a neutral one.
fn is_meaningful(
    config: Object<'_>,
    (key, value): (&str, &Value),
    table: &[(&str, Neutral)],
    report: &mut Report,
) -> bool {
    let Some((_, neutral)) = table.iter().find(|(name, _)| *name == key) else { return false };
    if !neutral.accepts(value) {
        let rest = format_args!("which changes the mathematics: expected {}", neutral.expected());
        report.unsupported(config.found(key, value, rest));
    }
    true
}

fn quantized(config: Object<'_>, key: &str, value: &Value) -> String {
    let method = value.get("quant_method").and_then(Value::as_str).unwrap_or("an unnamed method");
    let rest = format_args!("weights quantized by {method}: expected the description under `{QUANTIZED}`");
    config.found(key, value, rest)
}

fn is_off(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Number(_) | Value::String(_) => false,
    }
}

impl Neutral {
    fn accepts(self, value: &Value) -> bool {
        let one_of = |words: &[&str], value: &Value| value.as_str().is_some_and(|word| words.contains(&word));
        is_off(value)
            || match self {
                Off => false,
                One => value.as_f64() == Some(1.0),
                Zero => value.as_f64() == Some(0.0),
                Words(words) => match value.as_array() {
                    Some(items) => items.iter().all(|item| one_of(words, item)),
                    None => one_of(words, value),
                },
            }
    }

    fn expected(self) -> String {
        match self {
            Off => "null or false".to_owned(),
            One => "1 or null".to_owned(),
            Zero => "0 or null".to_owned(),
            Words(words) => format!("{} or null", words.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_is_judged_once() {
        let mut keys: Vec<&str> = HARMLESS.to_vec();
        keys.extend(MEANINGFUL.iter().map(|(key, _)| *key));
        keys.extend(QUANTIZATION);
        let count = keys.len();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), count);
    }
}
