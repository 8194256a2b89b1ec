//! How much longer a text may get on its way through a tokenizer. The steps of a `tokenizer.json` are a program: ten
//! lines that each write a letter twice make a thousand of it, thirty a billion. So a step runs only where it cannot make
//! the text too long, which is told before it runs, from the text as it is by then.

use serde::Deserialize;
use serde_json::Value;
use tokenizers::normalizers::{Precompiled, Replace};
use tokenizers::{
    Decoder, DecoderWrapper, NormalizedString, Normalizer, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper,
};

/// A normalizer's text may be this many times as long as what it was made from. The longest that Unicode has is 11 times.
const TIMES: usize = 32;
/// What is put before a text, or after it, may be longer than a short text.
const BYTES: usize = 256;
/// Pre-tokenizers run on pieces, and may make them this many times as long. One of each kind makes 32.
const PIECES_TIMES: usize = 64;
/// Copies of a text that a template may make; models want one.
const COPIES: usize = 4;
/// Special tokens that a template may put around a text.
const SPECIALS: usize = 4096;

/// What an error says of a text that gets too long. Unwinds with it go around the panic hook: nothing is broken.
pub(crate) struct TooLong(pub String);

fn too_long(part: &str, from: usize, most: usize) -> ! {
    let reason = format!("its {part} makes more than {most} bytes of {from}");
    std::panic::resume_unwind(Box::new(TooLong(reason)))
}

/// How long `from` bytes may get.
fn most(from: usize) -> usize {
    from.saturating_mul(TIMES).saturating_add(BYTES)
}

/// A normalizer whose text stays short.
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

/// Whether maps of characters have as many bytes as they say, for which the library makes room at once.
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
                Err("the map of characters of its normalizer is cut off".to_owned())
            }
            value => check_maps(value),
        }),
        Value::Array(values) => values.iter().try_for_each(check_maps),
        _ => Ok(()),
    }
}

impl Normalizer for BoundedNormalizer {
    /// Ends by unwinding where it fails: the library goes on with the text as it was where a normalizer gives an error.
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

/// Whether what a step makes of a text has at most so many bytes.
fn normalized_fits(step: &NormalizerWrapper, text: &str, most: usize) -> bool {
    let times = |times: usize| text.len().saturating_mul(times) <= most;
    match step {
        NormalizerWrapper::StripNormalizer(_) | NormalizerWrapper::StripAccents(_) | NormalizerWrapper::Nmt(_) => {
            times(1)
        }
        NormalizerWrapper::Lowercase(_) | NormalizerWrapper::ByteLevel(_) => times(2),
        NormalizerWrapper::NFC(_) | NormalizerWrapper::NFD(_) => times(3),
        NormalizerWrapper::NFKC(_) | NormalizerWrapper::NFKD(_) => times(11),
        // spaces around ideographs, accents taken apart, small letters
        NormalizerWrapper::BertNormalizer(_) => times(2 * 3 * 2),
        NormalizerWrapper::Prepend(step) => text.len().saturating_add(step.prepend.len()) <= most,
        NormalizerWrapper::Replace(step) => replaced_fits(step, text, most),
        NormalizerWrapper::Precompiled(step) => precompiled_fits(step, text, most),
        // its steps are looked at one by one
        NormalizerWrapper::Sequence(_) => true,
    }
}

/// Whether a text has at most so many bytes once all matches are replaced.
fn replaced_fits(step: &Replace, text: &str, most: usize) -> bool {
    // each byte a match, and the end
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

/// The same for a map of characters to texts. The map is asked for each place whether one of its keys starts there.
fn precompiled_fits(step: &Precompiled, text: &str, most: usize) -> bool {
    // clusters of characters have keys up to this length
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

/// Decodes tokens as the decoder does, one step after the other.
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
        // a byte that is no text is a character of three; a space may come between all characters
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

/// Whether pieces stay short; the error says what does not.
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
        // a space in front of each piece, and two bytes for one
        PreTokenizerWrapper::ByteLevel(_) => 4,
        // a character of four bytes in front of each piece and for each space
        PreTokenizerWrapper::Metaspace(_) => 8,
        _ => 1,
    }
}

/// Whether a text is not copied; the error says what does it. The library keeps templates to itself, but writes them out.
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
