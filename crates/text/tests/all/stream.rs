//! Streaming gives exactly the same text as decoding at once, in pieces that are final.

use std::sync::{Arc, LazyLock};

use proptest::prelude::*;
use serde_json::Value;
use text::Tokenizer;

use crate::fixtures;

/// A fixture as this crate and as the library itself load it.
struct Loaded {
    decoder: String,
    tokenizer: Arc<Tokenizer>,
    reference: tokenizers::Tokenizer,
}

static LOADED: LazyLock<Vec<Loaded>> = LazyLock::new(|| {
    let load = |json: &Value| Loaded {
        decoder: json["decoder"].to_string(),
        tokenizer: load(json),
        reference: json.to_string().parse().expect("the fixture loads"),
    };
    fixtures::all().iter().map(load).collect()
});

fn load(json: &Value) -> Arc<Tokenizer> {
    Arc::new(Tokenizer::from_bytes(json.to_string().as_bytes()).expect("the fixture loads"))
}

fn pieces(tokenizer: &Arc<Tokenizer>, ids: &[u32]) -> Vec<String> {
    let mut stream = tokenizer.stream();
    let mut pieces: Vec<_> = ids.iter().map(|&id| stream.push(id).expect("a token decodes")).collect();
    pieces.push(stream.finish());
    pieces
}

/// Token ids with more weight on the few that interact: special tokens, spaces, and bytes of emoji.
fn token_ids() -> impl Strategy<Value = Vec<u32>> {
    let id =
        prop_oneof![0..310u32, 255..275u32, Just(0xf0), Just(0x9f), Just(0x80), (0xf0 + 3)..=0xf3u32, 0x80..0x90u32];
    proptest::collection::vec(id, 0..24)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn pieces_of_any_tokens_join_to_their_text(ids in token_ids()) {
        for Loaded { decoder, tokenizer, reference } in &*LOADED {
            let whole = tokenizer.decode(&ids).expect("tokens decode");
            prop_assert_eq!(pieces(tokenizer, &ids).concat(), &whole[..], "{}", decoder);

            // The library itself panics when its BPE decoder has no token to decode.
            if !whole.is_empty() {
                prop_assert_eq!(whole, reference.decode(&ids, true).expect("tokens decode"), "{}", decoder);
            }
        }
    }

    #[test]
    fn valid_text_never_streams_replacement_characters(text in "([a-e ]|the|[😀-😎]|\\PC){0,12}") {
        let text = text.replace(['\u{fffd}', '▁'], "");
        for Loaded { tokenizer, .. } in &LOADED[..2] {
            let pieces = pieces(tokenizer, &tokenizer.encode(&text, true).expect("bytes cover any text"));
            prop_assert!(pieces.iter().all(|piece| !piece.contains('\u{fffd}')), "{:?}", pieces);
            prop_assert_eq!(pieces.concat(), &text[..]);
        }
    }

    #[test]
    fn a_stream_after_a_prompt_continues_its_text(text in "[a-e]( ?([a-e]|the)){0,24}", cut in 0..20usize) {
        for Loaded { tokenizer, .. } in &LOADED[..2] {
            let ids = tokenizer.encode(&text, false).expect("bytes cover any text");
            let (prompt, rest) = ids.split_at(cut.min(ids.len()));
            let mut stream = tokenizer.stream_after(prompt).expect("tokens decode");
            let mut whole = tokenizer.decode(prompt).expect("tokens decode");
            rest.iter().for_each(|id| whole.push_str(&stream.push(*id).expect("a token decodes")));
            whole.push_str(&stream.finish());
            prop_assert_eq!(whole, tokenizer.decode(&ids).expect("tokens decode"));
        }
    }
}

#[test]
fn an_emoji_comes_with_its_last_byte() {
    let tokenizer = load(&fixtures::byte_level());
    let ids = tokenizer.encode("a😀b", false).expect("bytes cover any text");
    assert_eq!(ids.len(), 5, "the emoji is a token of two bytes, then two of one");
    assert_eq!(pieces(&tokenizer, &ids), ["a", "", "", "😀", "b", ""]);
}

#[test]
fn a_truncated_emoji_is_flushed_once() {
    let tokenizer = load(&fixtures::byte_level());
    let mut stream = tokenizer.stream();
    let ids = tokenizer.encode("😀", false).expect("bytes cover any text");
    assert_eq!(stream.push(ids[0]).expect("a token decodes"), "");
    assert_eq!(stream.finish(), "\u{fffd}");
    assert_eq!(stream.finish(), "");
}

#[test]
fn a_run_of_fallback_bytes_is_final_when_it_ends() {
    let tokenizer = load(&fixtures::sentencepiece());
    let id = |token: &str| tokenizer.token_id(token).expect("a token of the fixture");
    let run = ["<0xC3>", "<0xA9>", "<0xFF>", "▁the"].map(id);
    // The decoder replaces the whole run, so the `é` in it must not have been returned.
    assert_eq!(pieces(&tokenizer, &run), ["", "", "", "\u{fffd}\u{fffd}\u{fffd} the", ""]);
    assert_eq!(pieces(&tokenizer, &run[..2]), ["", "", "é"]);
}

#[test]
fn only_the_first_space_is_dropped() {
    let tokenizer = load(&fixtures::sentencepiece());
    let id = |token: &str| tokenizer.token_id(token).expect("a token of the fixture");
    let ids = ["<s>", "▁the", "</s>", "▁the", "▁", "▁a"].map(id);
    assert_eq!(pieces(&tokenizer, &ids), ["", "the", "", " the", " ", " a", ""]);
}
