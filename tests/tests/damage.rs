//! Bad input to the library's API: the class that becomes the exit code, a message that names the object and what would
//! be accepted, and no plan left over. The importer's own tests cover the other errors of checkpoints; `hostile.rs`
//! covers plans.

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind};

use common::{Checkpoint, assert_says, demo, ids, load, oracle, put, sample, tokens};
use safetensors::Dtype;
use serde_json::{Value, json};
use smelt::{CompileOptions, Driver, Error, ErrorKind, Llm, Prompt, Quiet};

const MHA: &str = "llama-mha";
const GAIN: &str = "model.layers.1.input_layernorm.weight";

#[test]
fn tensors_must_be_those_of_the_configuration() {
    let checkpoint = Checkpoint::copy_of(MHA);
    checkpoint.edit(|tensors| {
        tensors.get_mut("lm_head.weight").unwrap().shape = vec![64, 320];
        let gain = tensors.remove(GAIN).unwrap();
        tensors.insert("model.layers.3.input_layernorm.weight".to_owned(), gain);
    });
    let (kind, message) = checkpoint.refused();
    assert_eq!(kind, ErrorKind::BadInput);
    // all problems at once
    assert_says(&message, &["model.safetensors", "lm_head.weight", "[64, 320]", "[320, 64]"]);
    assert_says(&message, &["missing", GAIN, "does not use", "model.layers.3.input_layernorm.weight"]);

    let checkpoint = Checkpoint::copy_of(MHA);
    checkpoint.edit(|tensors| tensors.get_mut(GAIN).unwrap().dtype = Dtype::I32);
    let (kind, message) = checkpoint.refused();
    assert_eq!(kind, ErrorKind::Unsupported);
    assert_says(&message, &[GAIN, "I32", "expected F32, F16 or BF16"]);
}

#[test]
fn a_cut_off_safetensors_file_is_refused() {
    let checkpoint = Checkpoint::copy_of(MHA);
    let whole = std::fs::read(checkpoint.weights()).unwrap();
    for length in [0, 7, 8, 100, whole.len() / 2, whole.len() - 1] {
        std::fs::write(checkpoint.weights(), &whole[..length]).unwrap();
        let (kind, message) = checkpoint.refused();
        assert_eq!(kind, ErrorKind::BadInput, "{length}: {message}");
        assert_says(&message, &["model.safetensors: the file is truncated"]);
    }
}

/// A bit of each byte of the header. Only a change of an unused note may pass.
#[test]
fn a_flipped_bit_in_a_safetensors_header_is_noticed() {
    let checkpoint = Checkpoint::copy_of(MHA);
    let bytes = std::fs::read(checkpoint.weights()).unwrap();
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let note = br#""format":"pt""#;
    let note_at = bytes.windows(note.len()).position(|window| window == note).unwrap();
    for (at, byte) in bytes[..header].iter().enumerate() {
        put(&checkpoint.weights(), at, byte ^ 1 << (at % 8));
        let compile = || Driver::new().dry_run(checkpoint.path(), &CompileOptions::default(), &mut Quiet);
        match catch_unwind(AssertUnwindSafe(compile)) {
            Err(_) => panic!("byte {at}: panic"),
            Ok(Err(error)) => assert_says(&error.to_string(), &["model.safetensors"]),
            Ok(Ok(_)) => assert!((note_at..note_at + note.len()).contains(&at), "byte {at} was not noticed"),
        }
        put(&checkpoint.weights(), at, *byte);
    }
}

#[test]
fn other_models_are_refused_with_what_is_accepted() {
    use ErrorKind::{BadInput, Unsupported};
    let yarn = json!({"rope_type": "yarn", "factor": 2.0, "rope_theta": 10000.0});
    let cases = [
        ("architectures", json!(["MambaForCausalLM"]), Unsupported, "expected a list with one of `LlamaForCausalLM`"),
        ("rope_parameters", yarn, Unsupported, "yarn"),
        ("use_sliding_window", json!(true), Unsupported, "changes the mathematics: expected false, or a window in"),
        ("quantization_config", json!({"quant_method": "bitsandbytes"}), Unsupported, "bitsandbytes"),
        ("architectures", Value::Null, BadInput, "LlamaForCausalLM"),
        ("num_key_value_heads", json!(3), BadInput, "expected a divisor of the 4 heads"),
        ("vocab_size", json!(1u64 << 40), BadInput, "expected a whole number from 1"),
    ];
    for (key, value, expected, part) in cases {
        let checkpoint = Checkpoint::copy_of(MHA);
        checkpoint.set(key, value);
        let (kind, message) = checkpoint.refused();
        assert_eq!(kind, expected, "{key}: {message}");
        assert_says(&message, &["config.json", key, part]);
    }
}

#[test]
fn what_is_no_checkpoint_is_refused_with_a_hint() {
    let checkpoint = Checkpoint::copy_of(MHA);
    std::fs::write(checkpoint.file("tokenizer.json"), "{\"version\": \"1.0\"}").unwrap();
    let (kind, message) = checkpoint.refused();
    assert_eq!(kind, ErrorKind::BadInput, "{message}");
    assert_says(&message, &["tokenizer.json"]);

    std::fs::rename(checkpoint.weights(), checkpoint.file("pytorch_model.bin")).unwrap();
    let (kind, message) = checkpoint.refused();
    assert_eq!(kind, ErrorKind::BadInput, "{message}");
    assert_says(&message, &["pytorch_model.bin", "convert them with transformers"]);

    for folder in [demo().join("../.."), checkpoint.file("no-such-folder")] {
        let error = Llm::load(&folder).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BadInput);
        assert_says(&error.to_string(), &["config.json", "expected a Hugging Face directory"]);
    }
}

#[test]
fn prompts_must_fit_the_plan() {
    let compile = CompileOptions {
        max_input_len: Some(8),
        max_seq_len: Some(16),
        max_batch_size: Some(2),
        ..CompileOptions::default()
    };
    let mut llm = load(&oracle(MHA), compile).unwrap();
    let mut refused = |prompts: &[Prompt], max_tokens: u32, parts: &[&str]| {
        let error = llm.generate(prompts, &tokens(max_tokens)).expect_err("a bad prompt was taken");
        assert_eq!(error.kind(), ErrorKind::BadInput, "{error}");
        assert_says(&error.to_string(), parts);
    };
    refused(&[ids(&[])], 1, &["the prompt is empty"]);
    refused(&[ids(&[1; 9])], 1, &["9 tokens", "the plan allows 8", "`max_input_len`"]);
    refused(&[ids(&[1; 8])], 9, &["17", "the plan allows 16", "max_tokens"]);
    refused(&[ids(&[1])], u32::MAX, &["the plan allows 16"]);
    refused(&[ids(&[319, 320])], 1, &["token 320 is outside the vocabulary", "below 320"]);
    refused(&[ids(&[u32::MAX])], 1, &["outside the vocabulary"]);
    refused(&[Prompt::from("text")], 1, &["no tokenizer.json", "Prompt::Tokens"]);
    // A bad prompt fails the good ones of its batch, and leaves no state.
    refused(&[ids(&[1]), ids(&[]), ids(&[2])], 4, &["empty"]);
    assert_eq!(sample(&mut llm).unwrap().len(), 1);
}

#[test]
fn no_room_for_a_file_is_told_from_bad_input() {
    for kind in [std::io::ErrorKind::StorageFull, std::io::ErrorKind::QuotaExceeded, std::io::ErrorKind::FileTooLarge] {
        let error = Error::Plan(plan::PlanError::Io { path: "x.plan".into(), error: kind.into() });
        assert_eq!(error.kind(), ErrorKind::DoesNotFit);
        assert_says(&error.to_string(), &["x.plan"]);
    }
}
