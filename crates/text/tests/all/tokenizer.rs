//! Loading, encoding and decoding; what a bad `tokenizer.json` does.

use serde_json::{Value, json};
use text::{TextError, Tokenizer};

use crate::fixtures;

fn load(json: &Value) -> Result<Tokenizer, TextError> {
    Tokenizer::from_bytes(json.to_string().as_bytes())
}

#[test]
fn text_goes_round() {
    let tokenizer = load(&fixtures::byte_level()).expect("the fixture loads");
    for text in ["", " the end", "ünïcode → 😀\n\n", "<tool> and →plain text←"] {
        let ids = tokenizer.encode(text, false).expect("bytes cover any text");
        assert_eq!(tokenizer.decode(&ids).expect("tokens decode"), text);
    }
}

#[test]
fn special_tokens_are_added_on_request_and_never_shown() {
    let tokenizer = load(&fixtures::byte_level()).expect("the fixture loads");
    assert_eq!(tokenizer.encode(" the", false).expect("text encodes"), [258]);
    assert_eq!(tokenizer.encode(" the", true).expect("text encodes"), [262, 258]);
    assert_eq!(tokenizer.encode("</s>", false).expect("text encodes"), [263]);
    assert_eq!(tokenizer.decode(&[262, 258, 263]).expect("tokens decode"), " the");
}

#[test]
fn vocabulary_counts_to_the_highest_id() {
    let tokenizer = load(&fixtures::byte_level()).expect("the fixture loads");
    assert_eq!(tokenizer.vocab_size(), 266);
    assert_eq!(tokenizer.token_id("<tool>"), Some(264));
    assert_eq!(tokenizer.token_id("no such token"), None);

    let gaps = json!({"type": "WordLevel", "vocab": {"a": 0, "b": 9}, "unk_token": "a"});
    let gaps = load(&json!({"added_tokens": [], "model": gaps})).expect("ids may have gaps");
    assert_eq!(gaps.vocab_size(), 10);
    assert_eq!(gaps.decode(&[0, 5, 9, 99]).expect("ids without a token are no error"), "a b");
}

#[test]
fn prompts_are_neither_cut_nor_padded() {
    let mut json = fixtures::byte_level();
    json["truncation"] = json!({"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0});
    json["padding"] = json!({
        "strategy": {"Fixed": 8}, "direction": "Right", "pad_to_multiple_of": null,
        "pad_id": 0, "pad_type_id": 0, "pad_token": "!",
    });
    let tokenizer = load(&json).expect("the fixture loads");
    assert_eq!(tokenizer.encode("abcde", true).expect("text encodes").len(), 6);
}

#[test]
fn what_is_no_tokenizer_is_refused_in_one_sentence() {
    let good = fixtures::byte_level().to_string();
    let empty = json!({"added_tokens": [], "model": {"type": "BPE", "vocab": {}, "merges": []}}).to_string();
    let cases: [&[u8]; 6] =
        [b"", b"\x80\x02}q\x00", b"[]", b"{\"model\": null}", &good.as_bytes()[..good.len() / 2], empty.as_bytes()];
    for bytes in cases {
        let error = Tokenizer::from_bytes(bytes).expect_err("not a tokenizer").to_string();
        assert!(error.starts_with("bad tokenizer: ") && error.contains("expected a tokenizer.json"), "{error}");
        assert!(!error.contains('\n'), "{error}");
    }
}

/// Each value of a tokenizer in turn is removed or becomes one of another kind: it loads or it does not, and if it
/// does, text encodes or does not.
#[test]
fn damaged_files_never_panic() {
    for good in [fixtures::byte_level(), fixtures::sentencepiece()] {
        for path in paths(&good) {
            for damage in [Value::Null, json!(-1), json!(4_000_000_000u32), json!(""), json!([]), json!("▁"), json!({})]
            {
                let mut bad = good.clone();
                *bad.pointer_mut(&path).expect("a path of this value") = damage.clone();
                let Ok(tokenizer) = load(&bad) else { continue };
                let ids = tokenizer.encode("a the 😀", true).unwrap_or_default();
                let _ = tokenizer.decode(&ids);
                let _ = tokenizer.decode(&[0, 1, 2, 258]);
            }
        }
    }
}

/// JSON pointers to everything in a value, with only the first few entries of large collections.
fn paths(value: &Value) -> Vec<String> {
    let children: Vec<(String, &Value)> = match value {
        Value::Object(fields) => {
            fields.iter().take(12).map(|(key, v)| (key.replace('~', "~0").replace('/', "~1"), v)).collect()
        }
        Value::Array(items) => items.iter().take(3).enumerate().map(|(i, v)| (i.to_string(), v)).collect(),
        _ => Vec::new(),
    };
    let below = children.iter().flat_map(|(key, v)| paths(v).into_iter().map(move |rest| format!("/{key}{rest}")));
    std::iter::once(String::new()).chain(below).collect()
}
