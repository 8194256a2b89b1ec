//! Bounds on the growth of a text in a tokenizer. The steps of a `tokenizer.json` are a program: ten rules that double
//! a letter make a thousand of it, thirty a billion. So the growth of a step is bounded before it runs, from the text
//! at that point.

use serde::Deserialize;
use serde_json::Value;
use tokenizers::normalizers::{Precompiled, Replace};
use tokenizers::{
    Decoder, DecoderWrapper, NormalizedString, Normalizer, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper,
};

/// Maximum growth factor of a normalizer. The largest of Unicode normalization is 11.
const TIMES: usize = 32;
/// A prefix or suffix may be longer than a short text.
const BYTES: usize = 256;
/// Maximum growth factor of pre-tokenizers, which run on pieces. One of each kind reaches 32.
const PIECES_TIMES: usize = 64;
/// Copies of a text that a template may make; models need one.
const COPIES: usize = 4;
/// Special tokens that a template may put around a text.
const SPECIALS: usize = 4096;

/// The error of a text that gets too long. Its unwinding bypasses the panic hook: it is not a bug.
pub(crate) struct TooLong(pub String);

fn too_long(part: &str, from: usize, most: usize) -> ! {
    let reason = format!("its {part} makes more than {most} bytes of {from}");
    std::panic::resume_unwind(Box::new(TooLong(reason)))
}

/// Maximum size of the result for `from` bytes.
fn most(from: usize) -> usize {
    from.saturating_mul(TIMES).saturating_add(BYTES)
}

/// A normalizer with bounded growth.
#[derive(Debug, Deserialize)]
#[serde(try_from = "Value")]
pub(crate) struct BoundedNormalizer(NormalizerWrapper);

impl TryFrom<Value> for BoundedNormalizer {
    type Error = String;

    fn try_from(json: Value) -> Result<BoundedNormalizer, String> {
        check_maps(&json)?;
        serde_json::from_value(json).map(BoundedNormalizer).map_err(|error| error.to_string())
    }
}

/// Whether character maps have as many bytes as they declare, since the library allocates those at once.
fn check_maps(json: &Value) -> Result<(), String> {
    let promised = |map: &str| {
        let digit = |digit: u8| match digit {
            b'A'..=b'Z' => Some(digit - b'A'),
            b'a'..=b'z' => Some(digit - b'a' + 26),
            b'0'..=b'9' => Some(digit - b'0' + 52),
            b'+' => Some(62),
            b'/' => Some(63),
            _ => None,
        };
        let digits = map.as_bytes().first_chunk::<6>()?;
        let bits = digits.iter().try_fold(0_u64, |bits, value| Some(bits << 6 | u64::from(digit(*value)?)))?;
        // six digits are 36 bits, of which the first 32 are the size, lowest byte first
        Some(((bits >> 4) as u32).swap_bytes() as usize)
    };
    match json {
        Value::Object(fields) => fields.iter().try_for_each(|(key, value)| match value {
            Value::String(map)
                if key == "precompiled_charsmap" && promised(map).is_some_and(|size| size > map.len()) =>
            {
                Err("the character map of its normalizer is truncated".to_owned())
            }
            value => check_maps(value),
        }),
        Value::Array(values) => values.iter().try_for_each(check_maps),
        _ => Ok(()),
    }
}

impl Normalizer for BoundedNormalizer {
    /// Unwinds on an error: the library would continue with the unnormalized text if a normalizer returned one.
    fn normalize(&self, text: &mut NormalizedString) -> tokenizers::Result<()> {
        let from = text.get().len();
        normalize(&self.0, text, from);
        Ok(())
    }
}

fn normalize(step: &NormalizerWrapper, text: &mut NormalizedString, from: usize) {
    if let NormalizerWrapper::Sequence(steps) = step {
        return steps.as_ref().iter().for_each(|step| normalize(step, text, from));
    }
    let most = most(from);
    if !normalized_fits(step, text.get(), most) {
        too_long("normalizer", from, most);
    }
    if let Err(error) = step.normalize(text) {
        std::panic::resume_unwind(Box::new(TooLong(format!("its normalizer fails: {error}"))));
    }
}

/// Whether the result of a step has at most this many bytes.
fn normalized_fits(step: &NormalizerWrapper, text: &str, most: usize) -> bool {
    let times = |times: usize| text.len().saturating_mul(times) <= most;
    match step {
        NormalizerWrapper::StripNormalizer(_) | NormalizerWrapper::StripAccents(_) | NormalizerWrapper::Nmt(_) => {
            times(1)
        }
        NormalizerWrapper::Lowercase(_) | NormalizerWrapper::ByteLevel(_) => times(2),
        NormalizerWrapper::NFC(_) | NormalizerWrapper::NFD(_) => times(3),
        NormalizerWrapper::NFKC(_) | NormalizerWrapper::NFKD(_) => times(11),
        // spaces around ideographs, decomposed accents, lower case
        NormalizerWrapper::BertNormalizer(_) => times(2 * 3 * 2),
        NormalizerWrapper::Prepend(step) => text.len().saturating_add(step.prepend.len()) <= most,
        NormalizerWrapper::Replace(step) => replaced_fits(step, text, most),
        NormalizerWrapper::Precompiled(step) => precompiled_fits(step, text, most),
        // its steps are checked one by one
        NormalizerWrapper::Sequence(_) => true,
    }
}

/// Whether a text has at most this many bytes once all matches are replaced.
fn replaced_fits(step: &Replace, text: &str, most: usize) -> bool {
    // a match at each byte, and at the end
    let worst = (text.len() + 1).saturating_mul(step.content.len()).saturating_add(text.len());
    if worst <= most {
        return true;
    }
    let length = |content: &str| {
        let mut step = step.clone();
        step.content = content.to_owned();
        step.decode_chain(vec![text.to_owned()]).map_or(usize::MAX, |texts| texts.iter().map(String::len).sum())
    };
    let without = length("");
    let matches = length("x").saturating_sub(without);
    matches.saturating_mul(step.content.len()).saturating_add(without) <= most
}

/// The same for a map from characters to texts. The map is queried at each position for a key that starts there.
fn precompiled_fits(step: &Precompiled, text: &str, most: usize) -> bool {
    // keys of grapheme clusters have at most this length
    const KEY: usize = 5;
    let mut length = 0_usize;
    for (start, character) in text.char_indices() {
        let end = text.floor_char_boundary((start + KEY).max(start + character.len_utf8()));
        let made = step.transform(&text[start..end]).map_or(0, str::len);
        length = length.saturating_add(made.max(character.len_utf8()));
        if length > most {
            return false;
        }
    }
    true
}

/// Decodes tokens as the decoder does, step by step.
pub(crate) fn decode(decoder: &DecoderWrapper, tokens: Vec<String>) -> tokenizers::Result<String> {
    let from = bytes(&tokens).saturating_add(tokens.len());
    Ok(decode_chain(decoder, tokens, from)?.concat())
}

fn decode_chain(step: &DecoderWrapper, tokens: Vec<String>, from: usize) -> tokenizers::Result<Vec<String>> {
    if let DecoderWrapper::Sequence(steps) = step {
        return steps.get_decoders().iter().try_fold(tokens, |tokens, step| decode_chain(step, tokens, from));
    }
    let most = most(from);
    let times = |times: usize| bytes(&tokens).saturating_mul(times).saturating_add(tokens.len()) <= most;
    let fits = match step {
        DecoderWrapper::Replace(step) => {
            let worst = bytes(&tokens).saturating_add(tokens.len()).saturating_mul(step.content.len() + 1);
            worst <= most || tokens.iter().all(|token| replaced_fits(step, token, most / tokens.len().max(1)))
        }
        // an invalid byte becomes a character of three; a space may follow every character
        _ => times(3),
    };
    if !fits {
        too_long("decoder", from, most);
    }
    step.decode_chain(tokens)
}

fn bytes(texts: &[String]) -> usize {
    texts.iter().map(String::len).sum()
}

/// Whether pieces have bounded growth; the error says what does not.
pub(crate) fn check_pieces(steps: &PreTokenizerWrapper) -> Result<(), String> {
    match pieces_times(steps) {
        times if times <= PIECES_TIMES => Ok(()),
        _ => Err(format!("its pre-tokenizer makes a text more than {PIECES_TIMES} times as long")),
    }
}

fn pieces_times(step: &PreTokenizerWrapper) -> usize {
    match step {
        PreTokenizerWrapper::Sequence(steps) => {
            steps.as_ref().iter().fold(1, |times: usize, step| times.saturating_mul(pieces_times(step)))
        }
        // a space before each piece, and two bytes for one
        PreTokenizerWrapper::ByteLevel(_) => 4,
        // a character of four bytes before each piece and for each space
        PreTokenizerWrapper::Metaspace(_) => 8,
        _ => 1,
    }
}

/// Whether templates have bounded growth; the error says which does not. The library keeps templates private, but
/// serializes them.
pub(crate) fn check_template(processor: &PostProcessorWrapper) -> Result<(), String> {
    match processor {
        PostProcessorWrapper::Sequence(steps) => steps.as_ref().iter().try_for_each(check_template),
        PostProcessorWrapper::Template(template) => {
            let template = serde_json::to_value(template).map_err(|error| error.to_string())?;
            let pieces = template["single"].as_array().map_or(&[][..], Vec::as_slice);
            let copies = pieces.iter().filter(|piece| piece.get("Sequence").is_some()).count();
            let special = |piece: &Value| {
                let token = &template["special_tokens"][piece.get("SpecialToken")?["id"].as_str()?];
                Some(token["ids"].as_array()?.len())
            };
            let specials: usize = pieces.iter().filter_map(special).sum();
            if copies > COPIES || specials > SPECIALS {
                let most = format!("expected at most {COPIES} copies and {SPECIALS} special tokens");
                return Err(format!("its template makes {copies} copies of a text with {specials} tokens, {most}"));
            }
            Ok(())
        }
        _ => Ok(()),
    }
}
