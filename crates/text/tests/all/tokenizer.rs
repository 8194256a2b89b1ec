//! Loading, encoding and decoding; and bad `tokenizer.json` files.

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

/// Each value of a tokenizer in turn is removed or gets another type: it loads or it does not, and if it does, text
/// encodes or does not.
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

/// Texts that grow without bound are refused early, with little memory.
#[test]
fn a_tokenizer_makes_no_text_many_times_as_long() {
    let replace = |from: &str, to: &str| json!({"type": "Replace", "pattern": {"String": from}, "content": to});
    let regex = |from: &str, to: &str| json!({"type": "Replace", "pattern": {"Regex": from}, "content": to});
    let times = |step: Value, count: usize| json!({"type": "Sequence", "normalizers": vec![step; count]});
    let normalizers = [
        times(replace("a", "aa"), 40),
        times(times(replace("a", "aa"), 10), 10),
        replace("a", &"b".repeat(1 << 20)),
        regex("", &"b".repeat(1 << 20)),
        times(json!({"type": "ByteLevel"}), 64),
        times(json!({"type": "Prepend", "prepend": "b".repeat(1000)}), 1000),
        times(
            json!({"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
            "strip_accents": null, "lowercase": true}),
            1000,
        ),
        precompiled('a', &"b".repeat(1 << 20)),
    ];
    let text = "aé中".repeat(1000);
    for normalizer in normalizers {
        let mut json = fixtures::sentencepiece();
        json["normalizer"] = normalizer.clone();
        let error = load(&json).and_then(|tokenizer| tokenizer.encode(&text, true)).expect_err("it grows");
        assert!(matches!(&error, TextError::Encode(reason) if reason.starts_with("its normalizer makes")), "{error}");
        // what an added token is normalized to is kept
        json["added_tokens"][0]["content"] = json!(text);
        json["added_tokens"][0]["normalized"] = json!(true);
        let error = load(&json).expect_err("it grows");
        assert!(error.to_string().contains("its normalizer makes"), "{error}");
    }

    let decoders = [
        vec![replace("a", "aa"); 40],
        vec![replace("a", &"b".repeat(1 << 20))],
        vec![json!({"type": "BPEDecoder", "suffix": ""}); 40],
    ];
    for decoders in decoders {
        let mut json = fixtures::sentencepiece();
        json["decoder"] = json!({"type": "Sequence", "decoders": decoders});
        let tokenizer = load(&json).expect("it grows later");
        let a = tokenizer.token_id("a").expect("a letter");
        let error = tokenizer.decode(&[a; 100]).expect_err("it grows");
        assert!(matches!(&error, TextError::Decode(reason) if reason.starts_with("its decoder makes")), "{error}");
    }

    let mut json = fixtures::byte_level();
    json["pre_tokenizer"] = json!({"type": "Sequence", "pretokenizers": vec![json["pre_tokenizer"].clone(); 30]});
    assert!(load(&json).expect_err("it grows").to_string().contains("its pre-tokenizer makes"));
    let mut json = fixtures::byte_level();
    json["post_processor"]["single"] = json!(vec![json["post_processor"]["single"][1].clone(); 1000]);
    assert!(load(&json).expect_err("it grows").to_string().contains("its template makes 1000 copies"));
}

/// The library allocates what a map declares before it checks the size.
#[test]
fn a_map_of_characters_that_promises_too_much_is_refused() {
    let mut json = fixtures::sentencepiece();
    let map = json!({"type": "Precompiled", "precompiled_charsmap": base64(&[0xfc, 0xff, 0xff, 0xff, 0])});
    for normalizer in [map.clone(), json!({"type": "Sequence", "normalizers": [map]})] {
        json["normalizer"] = normalizer;
        let error = load(&json).expect_err("it is cut off").to_string();
        assert!(error.contains("the character map of its normalizer is truncated"), "{error}");
    }
}

/// The worst that real tokenizers do to texts is allowed.
#[test]
fn normalizers_that_models_have_go_on() {
    let mut json = fixtures::sentencepiece();
    let worst = "\u{fdfa}\u{390}  ".repeat(500);
    for steps in [
        json!([{"type": "NFKD"}, {"type": "Lowercase"}, {"type": "StripAccents"}]),
        json!([{"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "▁"}, {"type": "NFC"}]),
        json!([precompiled('\u{fdfa}', "صلى الله عليه وسلم"), {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]),
    ] {
        json["normalizer"] = json!({"type": "Sequence", "normalizers": steps});
        for text in ["", "a", " ", worst.as_str()] {
            load(&json).and_then(|tokenizer| tokenizer.encode(text, true)).expect("it encodes");
        }
    }
}

/// A map of SentencePiece with one key: the size of a trie, the trie, and texts.
fn precompiled(key: char, text: &str) -> Value {
    let mut units = vec![0_u32; 2048];
    let offset = |at: usize, to: usize| (at ^ to) as u32;
    // the root is unit 0; the node of each prefix is in its own block of 256, its children at that block's start xor
    // their byte
    let mut at = 0;
    units[at] = offset(at, 256) << 10;
    let mut block = 256;
    for (index, byte) in key.to_string().bytes().enumerate() {
        at = block ^ usize::from(byte);
        let last = index + 1 == key.len_utf8();
        let next = block + 256;
        units[at] = u32::from(byte) | offset(at, next) << 10 | u32::from(last) << 8;
        block = next;
    }
    units[block] = 1 << 31;
    let mut bytes = (units.len() as u32 * 4).to_le_bytes().to_vec();
    bytes.extend(units.iter().flat_map(|unit| unit.to_le_bytes()));
    bytes.extend(text.as_bytes());
    bytes.push(0);
    json!({"type": "Precompiled", "precompiled_charsmap": base64(&bytes)})
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let group = |bytes: &[u8]| {
        let bits = bytes.iter().chain(&[0; 2]).take(3).fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte));
        let digit = |place: usize| char::from(DIGITS[(bits >> (18 - 6 * place)) as usize & 63]);
        (0..4).map(|place| if place <= bytes.len() { digit(place) } else { '=' }).collect::<String>()
    };
    bytes.chunks(3).map(group).collect()
}
