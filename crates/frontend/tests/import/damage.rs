//! Directories and files that are not, or no longer, a checkpoint: one clear message each, and never a panic.

use std::fs;

use frontend::{Checkpoint, ImportError};
use ir::{Stage, verify};
use plan::RandomPart;
use safetensors::tensor::Dtype;
use serde_json::json;
use tempfile::TempDir;

use crate::checkpoints::{INDEX, Tensor, assert_one, bad_input, options, tiny, unsupported};

#[test]
fn missing_extra_and_misshapen_tensors_are_listed() {
    let mut files = tiny().without("model.norm.weight").without("model.layers.0.mlp.up_proj.weight");
    files.tensors.insert("model.layers.1.extra".to_owned(), Tensor::bf16("x", &[2]));
    files.tensors.insert("lm_head.weight".to_owned(), Tensor::bf16("x", &[8, 16]));
    let dir = files.write();
    let messages = bad_input(dir.path());
    assert_eq!(messages.len(), 3, "{messages:#?}");
    let missing = "missing tensors, 2 of 12: `model.layers.0.mlp.up_proj.weight`, `model.norm.weight`";
    assert!(messages[0].ends_with(missing), "{}", messages[0]);
    assert!(
        messages[1].contains("tensors that the model does not use, 1: `model.layers.1.extra`; --ignore-tensors NAME"),
        "{}",
        messages[1]
    );
    assert!(
        messages[2].contains("`lm_head.weight` has shape [8, 16], config.json makes it [16, 8]"),
        "{}",
        messages[2]
    );
}

#[test]
fn long_lists_are_cut() {
    let dir = tiny().with("num_hidden_layers", json!(3)).write();
    assert_one(&bad_input(dir.path()), dir.path(), &["missing tensors, 18 of 30", "and 10 more"]);
    let dir = tiny().with("hidden_size", json!(16)).with("head_dim", json!(4)).write();
    let messages = bad_input(dir.path());
    assert_eq!(messages.len(), 9, "{messages:#?}");
    assert!(messages[8].ends_with("4 more have such shapes"), "{}", messages[8]);
}

#[test]
fn biases_must_be_there_exactly_where_the_configuration_says_so() {
    let dir = tiny().with("attention_bias", json!(true)).write();
    assert_one(&bad_input(dir.path()), dir.path(), &["missing tensors, 4 of 16", "q_proj.bias"]);
    let mut files = tiny();
    files.tensors.insert("model.layers.0.mlp.up_proj.bias".to_owned(), Tensor::bf16("x", &[12]));
    let dir = files.write();
    assert_one(&bad_input(dir.path()), dir.path(), &["does not use, 1: `model.layers.0.mlp.up_proj.bias`"]);
}

#[test]
fn other_dtypes_are_refused_by_name() {
    let mut files = tiny();
    let packed = Tensor { dtype: Dtype::F8_E4M3, shape: vec![8], bytes: vec![0; 8] };
    files.tensors.insert("model.norm.weight".to_owned(), packed);
    let dir = files.write();
    let parts = ["`model.norm.weight` has dtype F8_E4M3, expected F32, F16 or BF16"];
    assert_one(&unsupported(dir.path()), dir.path(), &parts);
}

#[test]
fn a_model_without_its_head_is_named() {
    let mut files = tiny().without("lm_head.weight");
    let bare = |name: String| name.strip_prefix("model.").map(str::to_owned).unwrap_or(name);
    files.tensors = files.tensors.into_iter().map(|(name, tensor)| (bare(name), tensor)).collect();
    let dir = files.write();
    assert_one(&bad_input(dir.path()), dir.path(), &["without the prefix `model.`"]);
}

#[test]
fn files_cut_at_any_length_are_refused() {
    let dir = tiny().write();
    let path = dir.path().join("model.safetensors");
    let whole = fs::read(&path).unwrap();
    for length in (0..whole.len()).step_by(7).chain([7, 8, 9, whole.len() - 1]) {
        fs::write(&path, &whole[..length]).unwrap();
        assert_one(&bad_input(dir.path()), dir.path(), &["model.safetensors: the file is truncated"]);
    }
    fs::write(&path, [&whole[..], &[0]].concat()).unwrap();
    assert_one(&bad_input(dir.path()), dir.path(), &["but the file has"]);
}

/// The file with up to three bits of its first `length` bytes flipped: the same bits in every run.
fn flipped(whole: &[u8], length: usize, round: u64) -> Vec<u8> {
    let noise = RandomPart::named("flips", u64::MAX, 0.0, 1.0);
    let mut bytes = whole.to_vec();
    for flip in 0..=round % 3 {
        let bit = noise.value(round * 3 + flip).to_bits() as usize % (length * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
    bytes
}

/// Whether the checkpoint was refused. If not, it must become a graph.
fn refused(opened: Result<Checkpoint, ImportError>) -> bool {
    match opened {
        Ok(checkpoint) => {
            verify(&checkpoint.graph(&options()).unwrap(), Stage::Imported).unwrap();
            false
        }
        Err(ImportError::BadInput(_) | ImportError::Unsupported(_)) => true,
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn flipped_bits_in_a_header_never_panic() {
    let dir = tiny().write();
    let path = dir.path().join("model.safetensors");
    let whole = fs::read(&path).unwrap();
    let header = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let count = (0..2000).filter(|round| {
        fs::write(&path, flipped(&whole, header, *round)).unwrap();
        refused(Checkpoint::open(dir.path()))
    });
    // A flip in whitespace has no effect.
    assert!(count.count() > 1900);
}

#[test]
fn flipped_bits_in_json_never_panic() {
    let dir = tiny().with("rope_scaling", json!({ "type": "linear", "factor": 2.5 })).write_sharded();
    for name in ["config.json", INDEX] {
        let path = dir.path().join(name);
        let whole = fs::read(&path).unwrap();
        let count = (0..2000).filter(|round| {
            fs::write(&path, flipped(&whole, whole.len(), *round)).unwrap();
            let dummy = refused(Checkpoint::open_dummy(dir.path()));
            refused(Checkpoint::open(dir.path())) || dummy
        });
        assert!(count.count() > 1000, "{name}");
        fs::write(&path, whole).unwrap();
    }
}

#[test]
fn hostile_headers_are_refused() {
    let huge = u64::MAX / 8;
    let tensor =
        |start: u64, end: u64, shape: u64| json!({ "dtype": "F32", "shape": [shape], "data_offsets": [start, end] });
    let cases = [
        // Overlapping, with a gap, reversed, beyond the end.
        json!({ "a": tensor(0, 8, 2), "b": tensor(4, 12, 2) }),
        json!({ "a": tensor(0, 8, 2), "b": tensor(12, 16, 1) }),
        json!({ "a": tensor(8, 0, 2) }),
        json!({ "a": tensor(0, 32, 8) }),
        json!({ "a": tensor(0, 16, huge) }),
        json!({ "a": { "dtype": "F32", "shape": [huge, huge], "data_offsets": [0, 16] } }),
        json!({ "a": { "dtype": "F31", "shape": [4], "data_offsets": [0, 16] } }),
        json!([]),
        // Sizes whose sum overflows 64 bits.
        json!({
            "a": tensor(0, huge & !3, huge / 4),
            "b": tensor(huge & !3, 2 * (huge & !3), huge / 4),
            "c": tensor(2 * (huge & !3), u64::MAX, huge),
        }),
    ];
    for header in cases {
        let dir = tiny().write();
        let header = header.to_string();
        let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[0; 16]].concat();
        fs::write(dir.path().join("model.safetensors"), bytes).unwrap();
        assert_one(&bad_input(dir.path()), dir.path(), &["model.safetensors: "]);
    }
}

#[test]
fn other_formats_are_refused_with_a_way_out() {
    let cases = [
        ("pytorch_model.bin", "save_pretrained(OUT, safe_serialization=True)"),
        ("pytorch_model-00001-of-00002.bin", "pickle"),
        ("model.pt", "pickle"),
        ("consolidated.00.pth", "pickle"),
        ("llama.Q4_K_M.gguf", "GGUF is not supported"),
        ("consolidated.safetensors", "the vendor's own format"),
        ("adapter_model.safetensors", "merge it into its base"),
    ];
    for (name, hint) in cases {
        let dir = tiny().write_config();
        fs::write(dir.path().join(name), "data").unwrap();
        assert_one(&bad_input(dir.path()), dir.path(), &[name, hint]);
    }
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("params.json"), "{}").unwrap();
    let messages = bad_input(dir.path()).join("\n");
    assert!(messages.contains("config.json: not found"), "{messages}");
    assert!(messages.contains("the vendor's own format"), "{messages}");
    let messages = bad_input(&dir.path().join("params.json")).join("\n");
    assert!(messages.contains("the vendor's own format"), "{messages}");
}

#[test]
fn files_that_change_the_weights_are_refused() {
    let dir = tiny().write();
    fs::write(dir.path().join("adapter_config.json"), "{}").unwrap();
    assert_one(&unsupported(dir.path()), dir.path(), &["adapter_config.json", "an adapter"]);
}

#[test]
fn directories_without_a_checkpoint_say_what_is_missing() {
    let dir = TempDir::new().unwrap();
    let messages = bad_input(&dir.path().join("nowhere"));
    assert_one(&messages, dir.path(), &["nowhere/config.json: not found, expected a Hugging Face directory"]);
    let dir = tiny().write_config();
    let expected = "no weights, expected model.safetensors or model.safetensors.index.json";
    assert_one(&bad_input(dir.path()), dir.path(), &[expected]);
}

/// Python writes them; JSON does not have them.
#[test]
fn numbers_that_are_not_finite_matter_where_their_key_does() {
    let dir = tiny().with("rope_scaling", json!({ "type": "linear", "factor": 2.5 })).write();
    let config = dir.path().join("config.json");
    let whole = fs::read_to_string(&config).unwrap();
    let with = |text: &str| fs::write(&config, whole.replacen('{', &format!("{{{text},"), 1)).unwrap();
    with(r#""initializer_range": Infinity, "label2id": {"a \"NaN\" \\": -Infinity}, "_x": [NaN,NaN]"#);
    assert!(Checkpoint::open(dir.path()).unwrap().warnings().is_empty());
    with(r#""frobnication": -Infinity"#);
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    assert_one(checkpoint.warnings(), dir.path(), &["`frobnication` is \"-Infinity\"", "ignored"]);
    for (key, expected) in [
        ("rope_theta", "a number above 0"),
        ("head_dim", "a whole number"),
        ("tie_word_embeddings", "true or false"),
        ("eos_token_id", "a token id"),
    ] {
        for word in ["Infinity", "-Infinity", "NaN"] {
            with(&format!("\"{key}\": {word}"));
            let said = format!("`{key}` is \"{word}\", expected {expected}");
            assert_one(&bad_input(dir.path()), dir.path(), &["config.json: ", &said]);
        }
    }
    with(r#""logit_scale": NaN"#);
    assert_one(&unsupported(dir.path()), dir.path(), &["`logit_scale` is \"NaN\", which changes the mathematics"]);
    fs::write(&config, whole.replace("2.5", "NaN")).unwrap();
    assert_one(&bad_input(dir.path()), dir.path(), &["`rope_scaling.factor` is \"NaN\", expected a number above 0"]);
}

#[test]
fn a_git_lfs_pointer_is_recognised() {
    let dir = tiny().write();
    fs::write(dir.path().join("model.safetensors"), "version https://git-lfs.github.com/spec/v1\noid sha256:…")
        .unwrap();
    assert_one(&bad_input(dir.path()), dir.path(), &["run `git lfs pull`"]);
}

#[test]
fn json_that_is_none_is_named_with_its_place() {
    let dir = tiny().write();
    let config = dir.path().join("config.json");
    for (text, expected) in [
        ("{\"vocab_size\": ", "invalid JSON: EOF while parsing a value at line 1"),
        ("{\"rope_theta\": Infinite}", "invalid JSON"),
        ("{\"rope_theta\": Infinity", "invalid JSON"),
        ("[]", "expected a JSON object, found []"),
        ("", "invalid JSON"),
    ] {
        fs::write(&config, text).unwrap();
        assert_one(&bad_input(dir.path()), dir.path(), &["config.json: ", expected]);
    }
    // Damage of every kind: some message, no panic.
    let whole = tiny().config.to_string();
    for length in 0..whole.len() {
        fs::write(&config, &whole[..length]).unwrap();
        assert_one(&bad_input(dir.path()), dir.path(), &["config.json: invalid JSON"]);
    }
    fs::write(&config, [0xff, 0xfe, 0x00]).unwrap();
    assert_one(&bad_input(dir.path()), dir.path(), &["invalid JSON"]);
}
