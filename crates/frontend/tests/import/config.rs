//! `config.json`: what it means, and what is refused.

use std::fs;

use frontend::{Activation, Checkpoint, ImportError, Mlp, ModelConfig, Norm, Rope};
use ir::ops::RopeScaling;
use plan::DType;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::checkpoints::{Files, NO_WARNINGS, assert_one, bad_input, options, tiny, unsupported};

/// The configuration of a `config.json` with this text.
fn dummy(config: &Value) -> Result<Checkpoint, ImportError> {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    Checkpoint::open_dummy(dir.path())
}

fn read(config: &Value) -> ModelConfig {
    dummy(config).unwrap().config().clone()
}

#[test]
fn missing_keys_mean_the_defaults_of_transformers() {
    let config = read(&json!({ "architectures": ["LlamaForCausalLM"] }));
    let expected = ModelConfig {
        architecture: "LlamaForCausalLM".to_owned(),
        model_type: "llama".to_owned(),
        vocab_size: 32000,
        hidden_size: 4096,
        intermediate_size: 11008,
        layers: 32,
        heads: 32,
        kv_heads: 32,
        head_dim: 128,
        norm: Norm::Rms,
        norm_eps: 1e-6,
        mlp: Mlp::Gated { gate: "mlp.gate_proj", up: "mlp.up_proj", down: "mlp.down_proj" },
        activation: Activation::Silu,
        rope: Rope { theta: 10000.0, scaling: RopeScaling::Default, dim: 128 },
        attention_bias: false,
        output_bias: true,
        qk_norm: false,
        mlp_bias: false,
        tie_word_embeddings: false,
        max_position_embeddings: 2048,
        window: None,
        dtype: None,
        bos: Some(1),
        eos: vec![2],
    };
    assert_eq!(config, expected);
    // Llama 2 7B has these sizes.
    assert_eq!(config.parameters(), 6_738_415_616);
}

#[test]
fn each_architecture_has_its_own_defaults() {
    let config = read(&json!({ "architectures": ["Qwen3ForCausalLM"] }));
    assert_eq!((config.kv_heads, config.head_dim, config.rope.dim), (32, 128, 128));
    assert_eq!((config.attention_bias, config.qk_norm, config.bos, config.eos), (false, true, None, vec![]));
    // Qwen3 8B: heads of the class's size, whatever the hidden size
    let sizes = json!({
        "architectures": ["Qwen3ForCausalLM"], "hidden_size": 4096, "intermediate_size": 12288,
        "num_hidden_layers": 36, "num_key_value_heads": 8, "sliding_window": null, "use_sliding_window": false
    });
    assert_eq!(read(&sizes).parameters(), 8_190_735_360);

    let config = read(&json!({ "architectures": ["Qwen2ForCausalLM"], "num_key_value_heads": null }));
    assert_eq!((config.kv_heads, config.attention_bias, config.output_bias, config.qk_norm), (32, true, false, false));
    // Qwen2.5 7B, whose window is switched off
    let sizes = json!({
        "architectures": ["Qwen2ForCausalLM"], "vocab_size": 152_064, "hidden_size": 3584, "intermediate_size": 18944,
        "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4,
        "sliding_window": 131_072, "max_window_layers": 28, "use_sliding_window": false
    });
    assert_eq!(read(&sizes).parameters(), 7_615_616_512);

    let config = json!({ "architectures": ["MistralForCausalLM"], "sliding_window": null, "vocab_size": 32768 });
    assert_eq!(read(&config).kv_heads, 8);
    // Mistral 7B v0.3
    assert_eq!(read(&config).parameters(), 7_248_023_552);
}

#[test]
fn a_window_bounds_the_length_of_sequences() {
    let config = |name: &str, more: Value| {
        let mut config = json!({ "architectures": [name], "max_position_embeddings": 8192 });
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        config
    };
    let (mistral, qwen, starcoder) = ("MistralForCausalLM", "Qwen2ForCausalLM", "Starcoder2ForCausalLM");
    let some_layers = json!(["full_attention", "sliding_attention"]);
    for (name, more, window) in [
        (mistral, json!({ "sliding_window": null }), None),
        (mistral, json!({ "sliding_window": 8192 }), None),
        (mistral, json!({ "sliding_window": 8191 }), Some(8191)),
        (mistral, json!({}), Some(4096)),
        // the class ignores these
        (
            mistral,
            json!({ "sliding_window": 16, "use_sliding_window": false, "layer_types": ["full_attention"] }),
            Some(16),
        ),
        (starcoder, json!({ "sliding_window": 4096 }), Some(4096)),
        (starcoder, json!({}), None),
        ("LlamaForCausalLM", json!({ "sliding_window": 4096 }), Some(4096)),
        (qwen, json!({ "sliding_window": 16 }), None),
        (qwen, json!({ "sliding_window": 16, "use_sliding_window": false, "max_window_layers": -1 }), None),
        (qwen, json!({ "use_sliding_window": true }), Some(4096)),
        (qwen, json!({ "use_sliding_window": true, "sliding_window": null }), None),
        (qwen, json!({ "use_sliding_window": true, "sliding_window": 16 }), Some(16)),
        // the default of 28 layers without a window, of 28
        (qwen, json!({ "use_sliding_window": true, "sliding_window": 16, "num_hidden_layers": 28 }), None),
        (qwen, json!({ "use_sliding_window": true, "num_hidden_layers": 2, "max_window_layers": 1 }), Some(4096)),
        (qwen, json!({ "use_sliding_window": true, "num_hidden_layers": 2, "max_window_layers": 2 }), None),
        (qwen, json!({ "use_sliding_window": true, "layer_types": ["full_attention"] }), None),
        (
            "Qwen3ForCausalLM",
            json!({ "use_sliding_window": true, "layer_types": some_layers, "max_window_layers": 99 }),
            Some(4096),
        ),
    ] {
        assert_eq!(read(&config(name, more.clone())).window, window, "{name} {more}");
    }
    let refused = |name: &str, more: Value, expected: &str| {
        let error = dummy(&config(name, more)).unwrap_err().to_string();
        assert!(error.lines().count() == 1 && error.contains(expected), "{error}");
    };
    refused(mistral, json!({ "sliding_window": "none" }), "`sliding_window` is \"none\", expected a whole number");
    refused(mistral, json!({ "sliding_window": 0 }), "`sliding_window` is 0, expected a whole number");
    refused(
        mistral,
        json!({ "layer_types": ["chunked_attention"] }),
        "expected a list of `full_attention`, `sliding_a",
    );
    let sliding = "expected full_attention, or a window in `sliding_window`";
    refused(mistral, json!({ "sliding_window": null, "layer_types": some_layers }), sliding);
    refused(qwen, json!({ "layer_types": some_layers }), "a window in `sliding_window` and `use_sliding_window` true");
    refused("LlamaForCausalLM", json!({ "use_sliding_window": true }), "expected false, or a window in");
}

#[test]
fn a_graph_is_built_up_to_its_window() {
    let checkpoint = dummy(&tiny().with("sliding_window", json!(30)).config).unwrap();
    let up_to = |max_seq_len| checkpoint.graph(&frontend::ImportOptions { max_seq_len, ..options() });
    let whole = dummy(&tiny().config).unwrap().graph(&options()).unwrap();
    assert_eq!(ir::text::print(&up_to(30).unwrap()), ir::text::print(&whole));
    let error = up_to(31).unwrap_err();
    assert!(matches!(error, ImportError::Unsupported(_)) && error.to_string().contains("a sliding window of 30"));
}

#[test]
fn old_spellings_of_an_architecture_are_read() {
    let dir = tiny().with("architectures", json!(["LLaMAForCausalLM"])).write();
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    assert_one(checkpoint.warnings(), dir.path(), &["`architectures` is", "read as `LlamaForCausalLM`"]);
    assert_eq!(checkpoint.config(), Checkpoint::open(tiny().write().path()).unwrap().config());
}

#[test]
fn keys_of_a_rotary_embedding_are_judged_as_others_are() {
    for key in ["rope_scaling", "rope_parameters"] {
        for (name, value) in [("finetuned", json!(true)), ("frobnicate", json!(3)), ("comment", json!("x"))] {
            let mut rope = json!({ "rope_type": "linear", "factor": 2.0 });
            rope[name] = value;
            let dir = tiny().with(key, rope).write();
            let checkpoint = Checkpoint::open(dir.path()).unwrap();
            assert_one(checkpoint.warnings(), dir.path(), &[&format!("`{key}.{name}` is"), "ignored"]);
            assert_eq!(checkpoint.config().rope.scaling, RopeScaling::Linear { factor: 2.0 });
        }
        let neutral = json!({ "rope_type": "default", "attention_factor": 1.0, "beta_fast": null, "mscale": 1 });
        assert_eq!(Checkpoint::open(tiny().with(key, neutral).write().path()).unwrap().warnings(), NO_WARNINGS);
        for (name, value) in [("beta_fast", json!(32)), ("attention_factor", json!(0.7)), ("other", json!({}))] {
            let mut rope = json!({ "rope_type": "default" });
            rope[name] = value;
            let dir = tiny().with(key, rope).write();
            assert_one(&unsupported(dir.path()), dir.path(), &[&format!("`{key}.{name}` is")]);
        }
    }
}

#[test]
fn starcoder2_has_defaults_of_its_own() {
    let config = read(&json!({ "architectures": ["Starcoder2ForCausalLM"] }));
    assert_eq!((config.norm, config.norm_eps, config.activation), (Norm::Layer, 1e-5, Activation::GeluTanh));
    assert_eq!((config.attention_bias, config.mlp_bias, config.tie_word_embeddings), (true, true, true));
    assert_eq!((config.heads, config.kv_heads, config.head_dim), (24, 2, 128));
    // Starcoder2 3B has these sizes.
    assert_eq!(config.parameters(), 3_030_371_328);
    let config = read(&json!({ "architectures": ["Starcoder2ForCausalLM"], "use_bias": false }));
    assert_eq!((config.attention_bias, config.mlp_bias), (false, false));
}

#[test]
fn starcoder2_says_what_it_does_not_do() {
    let refused = |key: &str, value: Value| {
        let mut config = json!({ "architectures": ["Starcoder2ForCausalLM"] });
        config[key] = value;
        match dummy(&config) {
            Ok(checkpoint) => checkpoint.warnings().join("; "),
            Err(error) => error.to_string(),
        }
    };
    let norm = refused("norm_type", json!("rms_norm"));
    assert!(
        norm.ends_with("`norm_type` is \"rms_norm\", which changes the mathematics: expected \"layer_norm\""),
        "{norm}"
    );
    let bias = refused("use_bias", json!("yes"));
    assert_eq!(bias.lines().count(), 1, "{bias}");
    for (key, value) in [
        ("sliding_window", Value::Null),
        ("norm_type", json!("layer_norm")),
        ("mlp_type", json!("default")),
        ("residual_dropout", json!(0.1)),
        ("embedding_dropout", json!(0.1)),
    ] {
        assert_eq!(refused(key, value), "", "{key}");
    }
}

#[test]
fn null_means_the_default_where_transformers_says_so() {
    let nulls = ["head_dim", "num_key_value_heads", "rope_scaling", "rope_parameters", "rope_theta", "dtype"];
    let files = nulls.into_iter().fold(tiny(), |files, key| files.with(key, Value::Null));
    let config = read(&files.config);
    assert_eq!((config.head_dim, config.kv_heads), (4, 2));
    assert_eq!(config.rope.theta, 10000.0);
    let files = tiny().with("bos_token_id", Value::Null).with("eos_token_id", Value::Null);
    let config = read(&files.config);
    assert_eq!((config.bos, config.eos), (None, vec![]));
}

#[test]
fn both_spellings_make_the_same_graph() {
    let scaling = json!({
        "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32
    });
    let spell = |key: &str, mut parameters: Value, entry: (&str, Value)| {
        parameters[entry.0] = entry.1;
        tiny().with(key, parameters)
    };
    let old = spell("rope_scaling", scaling.clone(), ("rope_type", json!("llama3")));
    let oldest = spell("rope_scaling", scaling.clone(), ("type", json!("llama3")));
    let mut new = spell("rope_parameters", scaling, ("rope_type", json!("llama3")));
    new.config["rope_parameters"]["rope_theta"] = json!(5e5);
    let files = [
        old.with("rope_theta", json!(500_000)).with("torch_dtype", json!("bfloat16")),
        oldest.with("rope_theta", json!(5e5)).with("torch_dtype", json!("torch.bfloat16")),
        new.with("dtype", json!("bfloat16")),
    ];
    let text = |config: &Value| ir::text::print(&dummy(config).unwrap().graph(&options()).unwrap());
    let texts = files.map(|files| text(&files.config));
    assert!(texts[0].contains("theta = 500000.0, scaling = llama3(8.0, 1.0, 4.0, 32)"), "{}", texts[0]);
    assert!(texts[0].contains("@\"lm_head.weight\" : bf16[16, 8]"), "{}", texts[0]);
    assert_eq!(texts[0], texts[1]);
    assert_eq!(texts[0], texts[2]);
}

#[test]
fn rope_takes_the_innermost_value() {
    let parameters = json!({ "rope_type": "linear", "factor": 2, "rope_theta": 7.0 });
    let files = tiny().with("rope_theta", json!(5.0)).with("rope_parameters", parameters);
    let rope = Rope { theta: 7.0, scaling: RopeScaling::Linear { factor: 2.0 }, dim: 4 };
    assert_eq!(read(&files.config).rope, rope);

    // Without its own length, llama3 takes the one next to it, else that of the model.
    let llama3 = json!({ "rope_type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4 });
    let length = |files: Files| match read(&files.config).rope.scaling {
        RopeScaling::Llama3 { original_max_position, .. } => original_max_position,
        other => panic!("{other:?}"),
    };
    let files = tiny().with("rope_scaling", llama3);
    assert_eq!(length(files.clone()), 64);
    assert_eq!(length(files.with("original_max_position_embeddings", json!(16))), 16);
}

#[test]
fn stop_ids_come_from_the_generation_config_first() {
    let dir = tiny().with("eos_token_id", json!([3, 4])).write();
    let eos = |dir: &TempDir| Checkpoint::open(dir.path()).unwrap().config().eos.clone();
    assert_eq!(eos(&dir), [3, 4]);
    let generation = dir.path().join("generation_config.json");
    fs::write(&generation, json!({ "temperature": 0.6 }).to_string()).unwrap();
    assert_eq!(eos(&dir), [3, 4]);
    fs::write(&generation, json!({ "eos_token_id": [5, 6], "bos_token_id": 0 }).to_string()).unwrap();
    assert_eq!(eos(&dir), [5, 6]);
    assert_eq!(Checkpoint::open(dir.path()).unwrap().config().bos, Some(0));
    fs::write(&generation, json!({ "eos_token_id": [5, -1, 16] }).to_string()).unwrap();
    assert_eq!(eos(&dir), [5]);
    assert_eq!(Checkpoint::open(dir.path()).unwrap().warnings().len(), 1);
    fs::write(&generation, "{").unwrap();
    assert_one(&bad_input(dir.path()), dir.path(), &["generation_config.json: invalid JSON"]);
}

#[test]
fn what_changes_the_mathematics_is_refused_by_name() {
    let cases = [
        (
            "architectures",
            json!(["GPT2LMHeadModel"]),
            "expected a list with one of `LlamaForCausalLM`, `MistralForCausalLM`, `Qwen2ForCausalLM`, `Qwen3ForCausalLM`, `Starcoder2ForCausalLM`",
        ),
        ("model_type", json!("mistral"), "expected \"llama\""),
        ("hidden_act", json!("quick_gelu"), "expected one of `silu`, `swish`, `gelu`, `gelu_pytorch_tanh`"),
        ("torch_dtype", json!("float64"), "expected \"float32\", \"float16\" or \"bfloat16\""),
        ("rope_scaling", json!({ "type": "dynamic", "factor": 2.0 }), "`rope_scaling.type` is \"dynamic\", expected"),
        ("rope_scaling", json!({ "rope_type": "yarn", "factor": 2.0 }), "\"default\", \"linear\" or \"llama3\""),
        ("rope_parameters", json!({ "rope_type": "longrope" }), "`rope_parameters.rope_type` is \"longrope\""),
        ("rope_scaling", json!({ "type": "su" }), "`rope_scaling.type` is \"su\""),
        ("rope_parameters", json!({ "full_attention": { "rope_theta": 1e6 } }), "`rope_parameters.full_attention`"),
        ("rope_parameters", json!({ "mrope_section": [2, 2] }), "`rope_parameters.mrope_section`"),
        ("rope_parameters", json!({ "partial_rotary_factor": 0.5 }), "expected 1"),
        ("partial_rotary_factor", json!(0.25), "expected 1"),
        ("use_sliding_window", json!(true), "expected false, or a window in `sliding_window`"),
        ("layer_types", json!(["full_attention", "sliding_attention"]), "expected full_attention, or a window in"),
        ("attn_logit_softcapping", json!(50.0), "expected null or false"),
        ("final_logit_softcapping", json!(30.0), "expected null or false"),
        ("logit_scale", json!(0.0625), "expected 1 or null"),
        ("residual_multiplier", json!(0.22), "expected 1 or null"),
        ("num_local_experts", json!(8), "expected 0 or null"),
        ("use_qk_norm", json!(true), "expected null or false"),
        ("clip_qkv", json!(8.0), "expected null or false"),
        ("alibi", json!(true), "expected null or false"),
        ("is_encoder_decoder", json!(true), "expected null or false"),
        (
            "quantization_config",
            json!({ "quant_method": "bitsandbytes" }),
            "is \"bitsandbytes\", expected compressed-t",
        ),
        ("compression_config", json!({ "bits": 4 }), "weights quantized by an unnamed method"),
    ];
    for (key, value, expected) in cases {
        let dir = tiny().with(key, value).write();
        assert_one(&unsupported(dir.path()), dir.path(), &["config.json: `", key, expected]);
    }
}

#[test]
fn what_cannot_be_meant_is_bad_input() {
    let size = "expected a whole number from 1 to";
    let cases = [
        ("architectures", json!("LlamaForCausalLM"), "expected a list with one of"),
        ("architectures", json!([]), "expected a list with one of"),
        ("architectures", Value::Null, "`architectures` is missing"),
        ("vocab_size", json!(0), size),
        ("vocab_size", json!(-16), size),
        ("hidden_size", json!("8"), size),
        ("hidden_size", json!(8.0), size),
        ("hidden_size", json!(1u64 << 40), size),
        ("hidden_size", json!(9), "expected a multiple of the 2 heads"),
        ("num_hidden_layers", json!(1_000_000), size),
        ("num_attention_heads", Value::Null, size),
        ("num_key_value_heads", json!(3), "expected a divisor of the 2 heads"),
        ("head_dim", json!(3), "expected an even number"),
        ("head_dim", json!(0), size),
        ("hidden_act", json!(1), "expected a string"),
        ("rms_norm_eps", json!(-1e-5), "expected a number from 0 to 1"),
        ("rms_norm_eps", Value::Null, "expected a number from 0 to 1"),
        ("max_position_embeddings", json!(0), size),
        ("rope_theta", json!(0), "expected a number above 0"),
        ("rope_theta", json!("10000"), "expected a number above 0"),
        ("rope_scaling", json!(2.0), "expected an object"),
        ("rope_scaling", json!({ "type": 3 }), "`rope_scaling.type` is 3, expected a string"),
        ("rope_scaling", json!({ "type": "linear" }), "`rope_scaling.factor` is missing"),
        ("rope_scaling", json!({ "type": "linear", "factor": 0 }), "expected a number above 0"),
        (
            "rope_scaling",
            json!({ "rope_type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 4 }),
            "`rope_scaling.high_freq_factor` is 4, expected more than `low_freq_factor`, 4",
        ),
        ("attention_bias", json!("yes"), "expected true or false"),
        ("tie_word_embeddings", json!(1), "expected true or false"),
        ("eos_token_id", json!("</s>"), "expected a token id, a list of them, or null"),
    ];
    for (key, value, expected) in cases {
        let dir = tiny().with(key, value).write();
        assert_one(&bad_input(dir.path()), dir.path(), &["config.json: `", key, expected]);
    }
}

#[test]
fn an_explicit_head_dim_need_not_divide_the_width() {
    let files = tiny().with("hidden_size", json!(9)).with("head_dim", json!(6));
    assert_eq!(read(&files.config).head_dim, 6);
}

#[test]
fn all_problems_are_named_at_once() {
    let files = tiny().with("clip_qkv", json!(8)).with("vocab_size", json!(0)).with("hidden_act", json!("mish"));
    let dir = files.write();
    fs::write(dir.path().join("model.safetensors"), "short").unwrap();
    let messages = unsupported(dir.path()).join("\n");
    for part in ["`clip_qkv`", "`vocab_size`", "`hidden_act`", "model.safetensors: the file is truncated"] {
        assert!(messages.contains(part), "expected {part} in {messages}");
    }
    assert_eq!(messages.lines().count(), 4);
}

#[test]
fn neutral_and_harmless_keys_pass_and_unknown_ones_are_named() {
    let neutral = [
        ("sliding_window", Value::Null),
        ("use_sliding_window", json!(false)),
        ("layer_types", json!(["full_attention"])),
        ("logit_scale", json!(1)),
        ("num_local_experts", json!(0)),
        ("quantization_config", Value::Null),
        ("pruned_heads", json!({})),
        ("partial_rotary_factor", json!(1.0)),
        ("hidden_act", json!("swish")),
        ("_name_or_path", json!("somewhere")),
        ("pretraining_tp", json!(2)),
        ("transformers_version", json!("4.40.0")),
    ];
    let files = neutral.into_iter().fold(tiny(), |files, (key, value)| files.with(key, value));
    let dir = files.clone().write();
    assert_eq!(Checkpoint::open(dir.path()).unwrap().warnings(), NO_WARNINGS);
    let dir = files.with("frobnicate", json!({ "a": 1 })).write();
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    assert_one(checkpoint.warnings(), dir.path(), &["`frobnicate` is {\"a\":1}", "ignored"]);
}

#[test]
fn the_dtype_is_that_of_the_configuration_or_of_the_tensors() {
    let dtype = |files: Files| Checkpoint::open(files.write().path()).unwrap().dtype();
    assert_eq!(dtype(tiny()), DType::BF16);
    assert_eq!(dtype(tiny().with("torch_dtype", json!("auto"))), DType::BF16);
    assert_eq!(dtype(tiny().with("torch_dtype", json!("float16"))), DType::F16);
    assert_eq!(dtype(tiny().with("torch_dtype", json!("float16")).with("dtype", json!("float32"))), DType::F32);
    assert_eq!(dummy(&tiny().config).unwrap().dtype(), DType::F32);
}
