//! Quantized checkpoints that are refused, and what is ignored in accepted ones.

use std::fs;
use std::path::{Path, PathBuf};

use frontend::Checkpoint;
use safetensors::SafeTensors;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::checkpoints::{assert_one, bad_input, tiny, unsupported};

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/quantized").join(name)
}

/// A copy of a checkpoint with keys of its `quantization_config` set.
fn with(name: &str, changes: Value) -> TempDir {
    let dir = TempDir::new().unwrap();
    for file in ["config.json", "model.safetensors"] {
        fs::copy(folder(name).join(file), dir.path().join(file)).unwrap();
    }
    let path = dir.path().join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    for (key, value) in changes.as_object().unwrap() {
        config["quantization_config"][key] = value.clone();
    }
    fs::write(path, config.to_string()).unwrap();
    dir
}

/// Sets the first bytes of a tensor.
fn patch(dir: &Path, tensor: &str, bytes: &[u8]) {
    let path = dir.join("model.safetensors");
    let mut file = fs::read(&path).unwrap();
    let start = {
        let tensors = SafeTensors::deserialize(&file).unwrap();
        tensors.tensor(tensor).unwrap().data().as_ptr() as usize - file.as_ptr() as usize
    };
    file[start..start + bytes.len()].copy_from_slice(bytes);
    fs::write(path, file).unwrap();
}

#[test]
fn what_is_not_read_is_refused_by_name() {
    let cases = [
        ("awq", json!({ "version": "gemv" }), "`quantization_config.version` is \"gemv\", expected \"gemm\""),
        ("awq", json!({ "bits": 3 }), "`quantization_config.bits` is 3, expected 4"),
        ("awq", json!({ "zero_point": false }), "expected true"),
        (
            "awq",
            json!({ "quant_method": "hqq" }),
            "is \"hqq\", expected compressed-tensors, fp8, modelopt, awq or gptq",
        ),
        ("gptq", json!({ "bits": 3 }), "`quantization_config.bits` is 3, expected 4 or 8"),
        ("gptq", json!({ "checkpoint_format": "marlin" }), "expected \"gptq\" or \"gptq_v2\""),
        ("gptq", json!({ "dynamic": { "+:.*down.*": { "bits": 8 } } }), "expected the same bits and groups everywhere"),
        ("fp8-block", json!({ "fmt": "e5m2" }), "expected \"e4m3\""),
        ("fp8-block", json!({ "activation_scheme": "static" }), "expected \"dynamic\" as `activation_scheme`"),
        ("ct-int4-group", json!({ "format": "nvfp4-pack-quantized" }), "is \"nvfp4-pack-quantized\", expected one of"),
        ("ct-int4-group", json!({ "transform_config": { "config_groups": {} } }), "changes the mathematics"),
    ];
    for (name, changes, expected) in cases {
        let dir = with(name, changes);
        assert_one(&unsupported(dir.path()), dir.path(), &[expected]);
    }
}

#[test]
fn contradictions_are_bad_input() {
    let gptq = json!({ "quant_method": "gptq", "bits": 4, "group_size": 8 });
    let dir = tiny().with("quantization_config", gptq).write();
    assert_one(&bad_input(dir.path()), dir.path(), &["config.json says gptq, but no linear layer has `qweight`"]);

    let dir = with("ct-int4-group", json!({}));
    patch(dir.path(), "model.layers.0.mlp.down_proj.weight_shape", &65i64.to_le_bytes());
    assert_one(
        &bad_input(dir.path()),
        dir.path(),
        &["down_proj.weight_shape` is [65, 96], config.json makes it [64, 96]"],
    );

    let dir = with("ct-int4-group", json!({ "ignore": [] }));
    let messages = bad_input(dir.path());
    assert!(messages[0].contains("missing tensors") && messages[0].contains("`lm_head.weight_packed`"), "{messages:?}");

    let dir = with("awq", json!({ "group_size": 64 }));
    assert!(bad_input(dir.path()).iter().any(|message| message.contains("down_proj.qzeros` has shape [3, 8]")));
}

#[test]
fn scales_of_a_cache_are_ignored_with_a_warning() {
    let checkpoint = Checkpoint::open(&folder("modelopt-fp8")).unwrap();
    assert_eq!(checkpoint.quantized_by(), Some("modelopt"));
    assert_one(checkpoint.warnings(), &folder("modelopt-fp8"), &["`*.k_scale`, `*.v_scale` (2) are ignored"]);
    let dir = with("ct-fp8-token", json!({ "kv_cache_scheme": { "num_bits": 8, "type": "float" } }));
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let said = ["`quantization_config.kv_cache_scheme` is", "ignored", "--kv-precision"];
    assert_one(checkpoint.warnings(), dir.path(), &said);
    assert!(Checkpoint::open(&folder("ct-fp8-token")).unwrap().warnings().is_empty());
}

#[test]
fn dummies_are_numbers_in_the_nearest_format() {
    let format = |name: &str| Checkpoint::open_dummy(&folder(name)).unwrap().format_of_dummies();
    let cases = [("awq", "int4"), ("gptq-v2-int8", "int8-weight"), ("fp8-block", "fp8-block"), ("modelopt-fp8", "fp8")];
    let of_ct = [("ct-int4-zeros", "int4"), ("ct-fp8-block", "fp8-block"), ("ct-fp8-token", "fp8")];
    cases.into_iter().chain(of_ct).for_each(|(name, expected)| assert_eq!(format(name), Some(expected), "{name}"));
    let checkpoint = Checkpoint::open_dummy(&folder("awq")).unwrap();
    assert_one(checkpoint.warnings(), &folder("awq"), &["quantized by awq", "quantized as with --precision int4"]);
    let error = Checkpoint::open_dummy(&folder("ct-mixed")).unwrap_err().to_string();
    let said = ["quantized by compressed-tensors", "remove `quantization_config`", "--precision"];
    said.into_iter().for_each(|said| assert!(error.contains(said), "{error}"));
}
