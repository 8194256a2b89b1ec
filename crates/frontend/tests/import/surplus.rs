//! Tensors that the model does not use: harmless ones are ignored with a warning, others only if they are named.

use frontend::{Checkpoint, ImportError};
use safetensors::tensor::Dtype;
use serde_json::json;

use crate::checkpoints::{Files, NO_WARNINGS, Tensor, assert_one, bad_input, tiny};

fn with(mut files: Files, name: &str, tensor: Tensor) -> Files {
    files.tensors.insert(name.to_owned(), tensor);
    files
}

fn zeros(dtype: Dtype, shape: &[usize], bytes: usize) -> Tensor {
    Tensor { dtype, shape: shape.to_vec(), bytes: vec![0; bytes] }
}

#[test]
fn what_changes_nothing_is_ignored_with_a_warning() {
    let negative_zeros = Tensor { dtype: Dtype::BF16, shape: vec![2], bytes: vec![0, 0x80, 0, 0x80] };
    let cases = [
        ("rotary_emb.cos_cached", Tensor::bf16("x", &[4, 2]), "rotary"),
        ("model.rotary_emb.sin_cached", Tensor::bf16("x", &[4, 2]), "rotary"),
        ("model.layers.0.self_attn.rotary_emb.inv_freq", zeros(Dtype::F32, &[2], 8), "rotary"),
        ("model.embeddings.position_ids", zeros(Dtype::I64, &[1, 2], 16), "positions"),
        ("v_head.summary.weight", Tensor::bf16("x", &[1, 8]), "training"),
        ("value_head.0.bias", Tensor::bf16("x", &[1]), "training"),
        ("score.weight", Tensor::bf16("x", &[1, 8]), "training"),
        ("model.layers.0.adapter.weight", zeros(Dtype::F32, &[0, 8], 0), "empty"),
        ("model.layers.0.self_attn.q_proj.bias", zeros(Dtype::BF16, &[8], 16), "zero biases"),
        ("model.layers.0.mlp.up_proj.bias", zeros(Dtype::F32, &[12], 48), "zero biases"),
        ("model.norm.bias", negative_zeros, "zero biases"),
    ];
    let mut all = tiny();
    for (name, tensor, reason) in cases {
        all.tensors.insert(name.to_owned(), tensor.clone());
        let dir = with(tiny(), name, tensor).write();
        let checkpoint = Checkpoint::open(dir.path()).unwrap();
        assert_one(checkpoint.warnings(), dir.path(), &[&format!("are ignored, 1: `{name}`"), reason]);
    }
    // one warning for each kind
    let checkpoint = Checkpoint::open(all.write().path()).unwrap();
    assert_eq!(checkpoint.warnings().len(), 5, "{:#?}", checkpoint.warnings());
}

#[test]
fn what_may_mean_something_is_refused_with_a_way_out() {
    let mut almost = zeros(Dtype::BF16, &[8], 16);
    almost.bytes[14] = 1;
    let cases = [
        ("model.layers.0.self_attn.q_proj.bias", almost),
        ("model.layers.0.self_attn.rotary_emb.scale", Tensor::bf16("x", &[2])),
        ("model.layers.0.score.weight", Tensor::bf16("x", &[2])),
        ("model.extra", Tensor::bf16("x", &[2])),
    ];
    for (name, tensor) in cases {
        let dir = with(tiny(), name, tensor).write();
        let said = format!("tensors that the model does not use, 1: `{name}`");
        assert_one(&bad_input(dir.path()), dir.path(), &[&said, "--ignore-tensors NAME"]);
        for glob in [name, "*.extra", "*.bias", "model.layers.?.sc*.weight", "*.scale"] {
            let opened = Checkpoint::open_without(dir.path(), &[glob.to_owned()]);
            let fits = glob == name || (glob.contains('?') && name.contains("score")) || name.ends_with(&glob[1..]);
            assert_eq!(opened.is_ok(), fits, "{glob} {name}");
            assert!(!fits || opened.unwrap().warnings() == NO_WARNINGS);
        }
    }
}

#[test]
fn only_what_is_there_and_not_needed_can_be_ignored() {
    let refused = |files: &Files, globs: &[&str]| {
        let globs: Vec<String> = globs.iter().map(|glob| (*glob).to_owned()).collect();
        match Checkpoint::open_without(files.write().path(), &globs).unwrap_err() {
            ImportError::Options(messages) => messages.join("\n"),
            other => panic!("{other:?}"),
        }
    };
    let files = with(tiny(), "mtp.weight", Tensor::bf16("x", &[2]));
    let said = refused(&files, &["mtp.*", "mpt.*"]);
    assert!(said.starts_with("--ignore-tensors `mpt.*`: ") && said.ends_with("no tensor of such a name"), "{said}");
    let said = refused(&files, &["*"]);
    assert!(said.contains("`lm_head.weight`, ") && said.ends_with("cannot be ignored, the model needs them"), "{said}");
    assert!(!said.contains("mtp"), "{said}");
    assert!(refused(&files, &["mtp.*", "model.norm.weight"]).contains("`model.norm.weight` cannot be ignored"));
    assert!(refused(&files, &["mtp.*", &"*".repeat(100_000), ""]).lines().count() >= 1);
}

#[test]
fn the_head_of_a_tied_model_can_be_ignored() {
    let files = tiny().with("tie_word_embeddings", json!(true));
    let ignored = ["lm_head.weight".to_owned()];
    let checkpoint = Checkpoint::open_without(files.write().path(), &ignored).unwrap();
    assert!(checkpoint.config().tie_word_embeddings && checkpoint.warnings() == NO_WARNINGS);
    // if it is the only one, the model needs it
    let alone = files.without("model.embed_tokens.weight").write();
    assert!(Checkpoint::open_without(alone.path(), &ignored).is_err());
}
