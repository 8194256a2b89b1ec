//! Logits that are not finite: no token can be chosen, and the first weight or op is named.

use std::fs;

use crate::import::Tiny;

const UP: &str = "model.layers.0.mlp.up_proj.weight";
const GATE: &str = "model.layers.0.mlp.gate_proj.weight";

#[track_caller]
fn refused(model: &Tiny, more: &[&str], message: &str) {
    let folder = model.write();
    let common = ["--target", "cpu", "--no-cache"];
    let generate = ["generate", &folder, "--prompt-ids", "1,5,9,12,3", "--max-tokens", "6", "--ignore-eos"];
    let position = "request 0: the logits at position 4 are not finite";
    for (args, said) in [
        (&generate[..], position),
        (&["bench", &folder, "--input-len", "4", "--output-len", "3", "--ceilings", "table"], message),
    ] {
        model.sandbox.fails(&[args, &common, more].concat(), 3, said);
        model.sandbox.fails(&[args, &common, more].concat(), 3, message);
    }
    model.sandbox.fails(&[&generate[..], &common, more, &["--json"]].concat(), 3, message);
}

#[test]
fn a_weight_that_is_not_finite_is_named() {
    for value in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN] {
        refused(&Tiny::new().add(UP, &[16, 16], value), &[], "the first such value is in weight `layers.0.mlp.gate_up");
    }
    let norm = Tiny::new().add("model.norm.weight", &[16], f32::NAN);
    refused(&norm, &[], "the first such value is in weight `model.norm.weight`");
    // finite in the file, and out of range of f16
    let large = Tiny::new().add(UP, &[16, 16], 1e5);
    refused(&large, &["--dtype", "f16"], "the first such value is in weight `layers.0.mlp.gate_up");
}

#[test]
fn an_op_whose_result_overflows_is_named() {
    let large = Tiny::new().add(UP, &[16, 16], 1e30).add(GATE, &[16, 16], 1e30);
    refused(&large, &[], "whose weights are finite");
}

#[test]
fn a_step_in_the_middle_of_a_text_is_named_by_its_position() {
    // the row of the token that the model generates first
    let mut model = Tiny::new();
    let row = model.row("model.embed_tokens.weight", 13);
    row.copy_from_slice(&[0x80, 0x7f].repeat(16)); // infinity in bf16
    let folder = model.write();
    let args =
        ["generate", &folder, "--prompt-ids", "1,5,9,12,3", "--max-tokens", "6", "--ignore-eos", "--target", "cpu"];
    let output = model.sandbox.run(&[&args[..], &["--no-cache"]].concat());
    assert_eq!(output.status.code(), Some(3));
    // earlier output stays, and nothing follows it
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "13");
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(
        errors.contains("position 5 are not finite: the first such value is in weight `model.embed_tokens.weight"),
        "{errors}"
    );
}

#[test]
fn bench_refuses_what_the_plan_has_no_room_for() {
    let model = Tiny::new();
    let (folder, plan) = (model.write(), model.sandbox.text("m.plan"));
    let limits = ["--max-batch-size", "2", "--max-seq-len", "64", "--max-input-len", "48", "--target", "cpu"];
    model.sandbox.ok(&[&["compile", &folder, "-o", &plan][..], &limits].concat());
    let refused = |args: &[&str], message: &str| model.sandbox.fails(&[&["bench", &plan], args].concat(), 2, message);
    refused(
        &["--batch-sizes", "1", "64", "--input-len", "4", "--output-len", "2"],
        "--batch-sizes 64: the plan has room for 2 at once (compile with a larger --max-batch-size)",
    );
    refused(&["--input-len", "49", "--output-len", "2"], "compile with a larger --max-input-len");
    refused(&["--input-len", "18446744073709551615"], "expected a whole number from 1 to 4294967295");
    refused(&["--input-len", "4000000000", "--batch-sizes", "400000", "--output-len", "4"], "--batch-sizes 400000");
    refused(&["--batch-sizes", "4000000000"], "expected at most 4194304 sequences in all");
    refused(&["--num-runs", "4294967295"], "expected at most 4194304 sequences in all");
    refused(&["--input-len", "40", "--output-len", "4294967295"], "64 per sequence");
    // the spellings of earlier versions
    model.sandbox.ok(&[
        "bench",
        &plan,
        "--batch",
        "2",
        "--prompt-len",
        "40",
        "--tokens",
        "24",
        "--repeat",
        "1",
        "--ceilings",
        "table",
    ]);
    assert!(fs::exists(&plan).unwrap());
    // one block of 64 tokens: memory, not a limit
    let small = model.sandbox.text("small.plan");
    let cache = ["--kv-cache", "4KiB", "--target", "cpu", "--max-batch-size", "2", "--max-seq-len", "64"];
    model.sandbox.ok(&[&["compile", &folder, "-o", &small][..], &cache].concat());
    let args = ["bench", &small, "--batch-sizes", "2", "--input-len", "40", "--output-len", "2"];
    model.sandbox.fails(&args, 6, "2 sequences of 42 tokens take 2 KV blocks");
}
