//! Weights in several files with an index.

use std::fs;

use frontend::Checkpoint;
use ir::WeightSource;
use serde_json::{Value, json};

use crate::checkpoints::{FIRST, INDEX, NO_WARNINGS, SECOND, assert_one, bad_input, tiny, write_index};

fn index(dir: &tempfile::TempDir) -> Value {
    serde_json::from_slice(&fs::read(dir.path().join(INDEX)).unwrap()).unwrap()
}

#[test]
fn shards_hold_what_one_file_would() {
    let (single, sharded) = (tiny().write(), tiny().write_sharded());
    let single = Checkpoint::open(single.path()).unwrap();
    let sharded = Checkpoint::open(sharded.path()).unwrap();
    assert_eq!(sharded.warnings(), NO_WARNINGS);
    for (name, tensor) in tiny().tensors {
        let elements = tensor.bytes.len() as u64 / 2;
        for checkpoint in [&single, &sharded] {
            let mut bytes = vec![0; tensor.bytes.len()];
            checkpoint.read(&name, 0..elements, &mut bytes).unwrap();
            assert_eq!(bytes, tensor.bytes, "{name}");
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
    assert!(messages[1].contains(SECOND) && messages[1].contains("cut off"), "{}", messages[1]);
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
    let messages = bad_input(dir.path());
    assert_eq!(messages.len(), 2, "{messages:#?}");
    assert!(messages[0].contains(&format!("{FIRST}: lacks `lm_head.weight`")), "{}", messages[0]);
    assert!(messages[1].contains(&format!("{SECOND}: holds `lm_head.weight`")), "{}", messages[1]);

    let mut invented = whole.clone();
    invented["weight_map"]["model.more"] = json!(FIRST);
    write_index(dir.path(), &invented);
    assert_one(&bad_input(dir.path()), dir.path(), &[FIRST, "lacks `model.more`"]);

    let mut forgotten = whole;
    forgotten["weight_map"].as_object_mut().unwrap().remove("lm_head.weight");
    write_index(dir.path(), &forgotten);
    assert_one(&bad_input(dir.path()), dir.path(), &[SECOND, "holds `lm_head.weight`"]);
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
