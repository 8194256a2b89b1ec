//! Reading weights, and other facts about a checkpoint's files.

use std::fs;

use frontend::Checkpoint;
use ir::WeightSource;
use plan::{DType, RandomPart};
use serde_json::json;

use crate::checkpoints::{NO_WARNINGS, assert_one, bad_input, options, tiny};

#[test]
fn reads_stay_within_their_tensor() {
    let dir = tiny().write();
    let stored = Checkpoint::open(dir.path()).unwrap();
    let dummy = Checkpoint::open_dummy(dir.path()).unwrap();
    let name = "model.norm.weight";
    for (checkpoint, size) in [(&stored, 2), (&dummy, 4)] {
        let mut bytes = [0; 64];
        checkpoint.read(name, 2..5, &mut bytes[..3 * size]).unwrap();
        checkpoint.read(name, 8..8, &mut []).unwrap();
        assert!(checkpoint.read(name, 2..5, &mut bytes[..3 * size + 1]).is_err());
        assert!(checkpoint.read(name, 7..9, &mut bytes[..2 * size]).is_err());
        #[allow(clippy::reversed_empty_ranges)]
        let backwards = checkpoint.read(name, 5..2, &mut []);
        assert!(backwards.is_err());
        assert!(checkpoint.read(name, u64::MAX - 1..u64::MAX, &mut bytes[..size]).is_err());
        assert_eq!(checkpoint.read("model.no", 0..1, &mut bytes).unwrap_err(), "there is no tensor `model.no`");
    }
    let mut bytes = [0; 6];
    stored.read(name, 2..5, &mut bytes).unwrap();
    assert_eq!(bytes, tiny().tensors[name].bytes[4..10]);
    assert_eq!(stored.random(name), None);
}

#[test]
fn dummies_are_made_from_names_alone() {
    let dir = tiny().with("dtype", json!("bfloat16")).write_config();
    let checkpoint = Checkpoint::open_dummy(dir.path()).unwrap();
    let part = |name: &str| checkpoint.random(name).unwrap();
    assert_eq!(part("model.norm.weight"), RandomPart::named("model.norm.weight", 8, 1.0, 0.02));
    assert_eq!(part("lm_head.weight"), RandomPart::named("lm_head.weight", 128, 0.0, 0.02));
    assert_eq!(checkpoint.random("model.no"), None);
    let mut bytes = [0; 4];
    checkpoint.read("lm_head.weight", 100..102, &mut bytes).unwrap();
    for (index, pair) in (100..).zip(bytes.chunks_exact(2)) {
        let read = f32::from_bits(u32::from(u16::from_le_bytes([pair[0], pair[1]])) << 16);
        assert_eq!(read, DType::BF16.round(part("lm_head.weight").value(index)));
    }
    // A file may be given instead of the directory, under any name.
    let path = dir.path().join("llama-1b.json");
    fs::rename(dir.path().join("config.json"), &path).unwrap();
    let other = Checkpoint::open_dummy(&path).unwrap();
    assert_eq!(other.config(), checkpoint.config());
    assert_eq!(other.sources(), [path]);
}

#[test]
fn f16_dummies_round_like_the_interpreter() {
    let dir = tiny().with("dtype", json!("float16")).write_config();
    let checkpoint = Checkpoint::open_dummy(dir.path()).unwrap();
    let ty = ir::TensorType::new(DType::F16, [8u64]);
    let tensor = ir::read_tensor(&checkpoint, "model.norm.weight", &ty).unwrap();
    let part = checkpoint.random("model.norm.weight").unwrap();
    let expected: Vec<f32> = (0..8).map(|index| DType::F16.round(part.value(index))).collect();
    assert_eq!(tensor.floats(), expected);
}

#[test]
fn a_tied_model_uses_its_embedding_table() {
    let files = tiny().with("tie_word_embeddings", json!(true));
    let table = files.tensors["model.embed_tokens.weight"].clone();
    let mut twice = files.clone();
    twice.tensors.insert("lm_head.weight".to_owned(), table.clone());
    // writers that drop shared tensors keep one of the two names
    let head_only = twice.clone().without("model.embed_tokens.weight");
    for files in [twice.clone().without("lm_head.weight"), twice, head_only] {
        let checkpoint = Checkpoint::open(files.write().path()).unwrap();
        let text = ir::text::print(&checkpoint.graph(&options()).unwrap());
        assert!(text.contains("%logits = linear %norm.rows, %model.embed_tokens.weight.f32"), "{text}");
        assert!(checkpoint.config().tie_word_embeddings);
        assert_eq!(checkpoint.warnings(), NO_WARNINGS);
        let mut bytes = vec![0; table.bytes.len()];
        checkpoint.read("model.embed_tokens.weight", 0..128, &mut bytes).unwrap();
        assert_eq!(bytes, table.bytes);
        assert!(checkpoint.read("lm_head.weight", 0..1, &mut [0; 2]).is_err());
    }
    let dir = tiny().without("lm_head.weight").write();
    assert!(bad_input(dir.path())[0].ends_with("missing tensors, 1 of 12: `lm_head.weight`"));
    let dir = files.without("lm_head.weight").without("model.embed_tokens.weight").write();
    assert!(bad_input(dir.path())[0].ends_with("missing tensors, 1 of 11: `model.embed_tokens.weight`"));
}

#[test]
fn a_head_that_differs_from_the_table_is_used() {
    let mut files = tiny().with("tie_word_embeddings", json!(true));
    // different only in the last byte
    let mut head = files.tensors["model.embed_tokens.weight"].clone();
    *head.bytes.last_mut().unwrap() ^= 1;
    files.tensors.insert("lm_head.weight".to_owned(), head.clone());
    let dir = files.write();
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    assert_one(checkpoint.warnings(), dir.path(), &["`lm_head.weight` differs from `model.embed_tokens.weight`"]);
    assert!(!checkpoint.config().tie_word_embeddings);
    let untied = Checkpoint::open(files.with("tie_word_embeddings", json!(false)).write().path()).unwrap();
    let text = |checkpoint: &Checkpoint| ir::text::print(&checkpoint.graph(&options()).unwrap());
    assert_eq!(text(&checkpoint), text(&untied));
    let mut bytes = vec![0; head.bytes.len()];
    checkpoint.read("lm_head.weight", 0..128, &mut bytes).unwrap();
    assert_eq!(bytes, head.bytes);
}

#[test]
fn files_are_known_by_name_size_and_hash() {
    let dir = tiny().write();
    for (name, text) in [("tokenizer.json", "{}"), ("chat_template.jinja", "{{ x }}"), ("generation_config.json", "{}")]
    {
        fs::write(dir.path().join(name), text).unwrap();
    }
    fs::write(dir.path().join("README.md"), "not of the checkpoint").unwrap();
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let mut files: Vec<String> = checkpoint.files().into_iter().map(|file| file.name).collect();
    files.sort();
    assert_eq!(files, ["chat_template.jinja", "generation_config.json", "tokenizer.json"]);
    assert_eq!(checkpoint.files().iter().find(|file| file.name == "tokenizer.json").unwrap().bytes, b"{}");

    let inputs = checkpoint.inputs();
    let names: Vec<&str> = inputs.iter().map(|input| input.name.as_str()).collect();
    let all = ["chat_template.jinja", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json"];
    assert_eq!(names, all);
    assert_eq!(inputs[4].hash, *blake3::hash(b"{}").as_bytes());
    let weights = fs::read(dir.path().join("model.safetensors")).unwrap();
    let header = 8 + u64::from_le_bytes(weights[..8].try_into().unwrap()) as usize;
    assert_eq!(inputs[3].bytes, weights.len() as u64);
    assert_eq!(inputs[3].hash, *blake3::hash(&weights[..header]).as_bytes());

    let mut sources = checkpoint.sources();
    sources.sort();
    assert_eq!(sources, all.map(|name| dir.path().join(name)));
}
