//! Weights in several files with an index.

use std::fs;

use frontend::Checkpoint;
use ir::WeightSource;
use serde_json::{Value, json};

use crate::checkpoints::{FIRST, INDEX, NO_WARNINGS, SECOND, assert_one, bad_input, tiny, write_index, write_tensors};

fn index(dir: &tempfile::TempDir) -> Value {
    serde_json::from_slice(&fs::read(dir.path().join(INDEX)).unwrap()).unwrap()
}

fn bytes(checkpoint: &Checkpoint, name: &str) -> Vec<u8> {
    let elements = tiny().tensors[name].bytes.len() / 2;
    let mut bytes = vec![0; elements * 2];
    checkpoint.read(name, 0..elements as u64, &mut bytes).unwrap();
    bytes
}

#[test]
fn shards_hold_what_one_file_would() {
    let (single, sharded) = (tiny().write(), tiny().write_sharded());
    let single = Checkpoint::open(single.path()).unwrap();
    let sharded = Checkpoint::open(sharded.path()).unwrap();
    assert_eq!(sharded.warnings(), NO_WARNINGS);
    for (name, tensor) in tiny().tensors {
        for checkpoint in [&single, &sharded] {
            assert_eq!(bytes(checkpoint, &name), tensor.bytes, "{name}");
        }
    }
    let names: Vec<String> = sharded.inputs().into_iter().map(|input| input.name).collect();
    assert_eq!(names, ["config.json", FIRST, SECOND, INDEX]);
}

#[test]
fn missing_and_damaged_shards_are_named() {
    let dir = tiny().write_sharded();
    fs::remove_file(dir.path().join(FIRST)).unwrap();
    fs::write(dir.path().join(SECOND), "").unwrap();
    let messages = bad_input(dir.path());
    assert_eq!(messages.len(), 2, "{messages:#?}");
    assert!(messages[0].contains(FIRST) && messages[0].contains("No such file"), "{}", messages[0]);
    assert!(messages[1].contains(SECOND) && messages[1].contains("truncated"), "{}", messages[1]);
}

#[test]
fn shards_must_lie_beside_the_index() {
    let names = ["../model.safetensors", "/etc/passwd", "/tmp/a.safetensors", "sub/a.safetensors", "..", ""];
    for name in names {
        let dir = tiny().write_sharded();
        let mut index = index(&dir);
        index["weight_map"]["lm_head.weight"] = json!(name);
        write_index(dir.path(), &index);
        let messages = bad_input(dir.path()).join("\n");
        let expected = format!("names `{name}`, expected names of safetensors files in the same directory");
        assert!(messages.contains(&expected), "{messages}");
    }
}

#[test]
fn the_index_and_the_shards_must_agree() {
    let dir = tiny().write_sharded();
    let whole = index(&dir);

    let mut moved = whole.clone();
    moved["weight_map"]["lm_head.weight"] = json!(FIRST);
    write_index(dir.path(), &moved);
    assert_one(&bad_input(dir.path()), dir.path(), &[&format!("{FIRST}: does not contain `lm_head.weight`")]);

    let mut invented = whole.clone();
    invented["weight_map"]["model.more"] = json!(FIRST);
    write_index(dir.path(), &invented);
    assert_one(&bad_input(dir.path()), dir.path(), &[FIRST, "does not contain `model.more`"]);

    let mut forgotten = whole;
    forgotten["weight_map"].as_object_mut().unwrap().remove("lm_head.weight");
    write_index(dir.path(), &forgotten);
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let said = [SECOND, "holds `lm_head.weight`", "does not list: read anyway"];
    assert_one(checkpoint.warnings(), dir.path(), &said);
    assert_eq!(bytes(&checkpoint, "lm_head.weight"), tiny().tensors["lm_head.weight"].bytes);
}

/// The norms' shard, and the rest with a zero copy of one of the norms.
fn with_stale_copy(name: &str) -> tempfile::TempDir {
    let dir = tiny().write_sharded();
    let mut rest = tiny().tensors;
    rest.retain(|other, _| !other.contains("norm"));
    let mut stale = tiny().tensors[name].clone();
    stale.bytes.fill(0);
    rest.insert(name.to_owned(), stale);
    write_tensors(&dir.path().join(SECOND), &rest);
    dir
}

#[test]
fn the_index_says_which_copy_counts() {
    let name = "model.layers.0.post_attention_layernorm.weight";
    let dir = with_stale_copy(name);
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let said = [SECOND, &format!("holds `{name}`"), "places in other shards: these copies are ignored"];
    assert_one(checkpoint.warnings(), dir.path(), &said);
    assert_eq!(bytes(&checkpoint, name), tiny().tensors[name].bytes);

    let mut forgotten = index(&dir);
    forgotten["weight_map"].as_object_mut().unwrap().remove(name);
    write_index(dir.path(), &forgotten);
    let said = format!("`{name}` are in several shards: expected an index that selects one");
    assert_one(&bad_input(dir.path()), dir.path(), &[&said]);
}

#[test]
fn shards_that_the_index_does_not_name_are_not_read() {
    let dir = tiny().write_sharded();
    fs::write(dir.path().join("model-00003-of-00003.safetensors"), "anything").unwrap();
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let said = ["does not name `model-00003-of-00003.safetensors`: not read"];
    assert_one(checkpoint.warnings(), dir.path(), &said);
}

#[test]
fn shards_without_their_index_are_read_where_they_are_complete() {
    let dir = tiny().write_sharded();
    fs::remove_file(dir.path().join(INDEX)).unwrap();
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    assert_one(checkpoint.warnings(), dir.path(), &["no model.safetensors.index.json: all tensors of the 2 shards"]);
    for (name, tensor) in tiny().tensors {
        assert_eq!(bytes(&checkpoint, &name), tensor.bytes);
    }
    let name = "model.norm.weight";
    let copies = with_stale_copy(name);
    fs::remove_file(copies.path().join(INDEX)).unwrap();
    assert_one(&bad_input(copies.path()), copies.path(), &[&format!("`{name}` are in several shards")]);

    fs::remove_file(dir.path().join(FIRST)).unwrap();
    let said =
        [format!("`{SECOND}` are not all shards of a model"), "expected the index, or shards 1 to 2 of 2".to_owned()];
    assert_one(&bad_input(dir.path()), dir.path(), &[&said[0], &said[1]]);
}

#[test]
fn an_index_without_a_map_is_refused() {
    let dir = tiny().write_sharded();
    for (index, expected) in [
        (json!({}), "`weight_map` is missing"),
        (json!({ "weight_map": {} }), "expected an object that names the file of each tensor"),
        (json!({ "weight_map": { "lm_head.weight": 1 } }), "expected an object that names the file of each tensor"),
        (json!([1]), "expected a JSON object"),
    ] {
        write_index(dir.path(), &index);
        assert_one(&bad_input(dir.path()), dir.path(), &[INDEX, expected]);
    }
}

#[test]
fn another_total_is_a_warning() {
    let dir = tiny().write_sharded();
    let mut index = index(&dir);
    let total = index["metadata"]["total_size"].as_u64().unwrap();
    index["metadata"]["total_size"] = json!(total as f64);
    write_index(dir.path(), &index);
    assert_eq!(Checkpoint::open(dir.path()).unwrap().warnings(), NO_WARNINGS);
    index["metadata"]["total_size"] = json!(total - 2);
    write_index(dir.path(), &index);
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    assert_one(
        checkpoint.warnings(),
        dir.path(),
        &["`metadata.total_size`", &format!("the tensors take {total} bytes")],
    );
}

#[test]
fn a_single_file_wins_over_an_index() {
    let dir = tiny().write();
    write_index(dir.path(), &json!({ "weight_map": { "a": "b.safetensors" } }));
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    assert_one(checkpoint.warnings(), dir.path(), &[INDEX, "ignored"]);
}
