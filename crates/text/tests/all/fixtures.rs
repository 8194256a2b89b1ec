//! Small tokenizers of each kind, as `tokenizer.json`.

use serde_json::{Value, json};

/// The first two bytes of an emoji as one token, so that emoji are split unevenly.
pub const EMOJI_HEAD: [u8; 2] = [0xf0, 0x9f];

/// Llama 3 and GPT-2: 256 bytes, a few merges, special and plain added tokens.
pub fn byte_level() -> Value {
    let spell = |bytes: &[u8]| bytes.iter().map(|&b| spelled(b)).collect::<String>();
    let merges: Vec<[String; 2]> = [("t", "h"), ("th", "e"), (" ", "the"), (" ", "a"), ("\n", "\n")]
        .map(|(a, b)| [spell(a.as_bytes()), spell(b.as_bytes())])
        .into_iter()
        .chain([[spell(&EMOJI_HEAD[..1]), spell(&EMOJI_HEAD[1..])]])
        .collect();
    let tokens = (0..=255).map(|b| spell(&[b])).chain(merges.iter().map(|pair| pair.concat()));
    json!({
        "added_tokens": [
            added(262, "<s>", true), added(263, "</s>", true),
            added(264, "<tool>", false), added(265, "→plain text←", false),
        ],
        "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [262], "tokens": ["<s>"]}},
        },
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "vocab": numbered(tokens), "merges": merges},
    })
}

/// Llama 2: `▁` for spaces, bytes as a fallback, one leading space stripped from the whole text.
pub fn sentencepiece() -> Value {
    let bytes = (0..=255).map(|b| format!("<0x{b:02X}>"));
    let pieces = ["▁", "t", "h", "e", "a", "s", ".", "th", "the", "▁the", "▁a", "▁▁", "�", "é"].map(str::to_owned);
    let merges = [["t", "h"], ["th", "e"], ["▁", "the"], ["▁", "a"], ["▁", "▁"]];
    json!({
        "added_tokens": [added(0, "<unk>", true), added(1, "<s>", true), added(2, "</s>", true)],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        ]},
        "pre_tokenizer": null,
        "post_processor": null,
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"},
            {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        ]},
        "model": {
            "type": "BPE", "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true, "merges": merges,
            "vocab": numbered(["<unk>", "<s>", "</s>"].map(str::to_owned).into_iter().chain(bytes).chain(pieces)),
        },
    })
}

/// As [`sentencepiece`], with another decoder.
pub fn with_decoder(decoder: Value) -> Value {
    let mut tokenizer = sentencepiece();
    tokenizer["decoder"] = decoder;
    tokenizer
}

/// One of each kind, byte-level and SentencePiece first.
pub fn all() -> Vec<Value> {
    vec![
        byte_level(),
        sentencepiece(),
        with_decoder(json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true})),
        with_decoder(json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never", "split": true})),
        with_decoder(json!({"type": "WordPiece", "prefix": "t", "cleanup": true})),
        with_decoder(json!({"type": "BPEDecoder", "suffix": "s"})),
        with_decoder(json!({"type": "ByteFallback"})),
        with_decoder(json!({"type": "Sequence", "decoders": [
            {"type": "Fuse"}, {"type": "Strip", "content": "t", "start": 2, "stop": 0},
        ]})),
        with_decoder(Value::Null),
    ]
}

fn added(id: u32, content: &str, special: bool) -> Value {
    json!({
        "id": id, "content": content, "special": special,
        "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
    })
}

fn numbered(tokens: impl Iterator<Item = String>) -> Value {
    tokens.enumerate().map(|(id, token)| (token, Value::from(id))).collect::<serde_json::Map<_, _>>().into()
}

/// GPT-2's spelling of a byte.
fn spelled(byte: u8) -> char {
    let prints = |b: u8| matches!(b, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    if prints(byte) {
        char::from(byte)
    } else {
        let index = (0..byte).filter(|&b| !prints(b)).count() as u32;
        char::from_u32(0x100 + index).expect("a Latin character")
    }
}
