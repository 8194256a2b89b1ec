//! Incremental detokenization: the concatenated pieces are exactly what decoding all tokens at once gives. The cost of
//! a token does not grow with the number of tokens before it.

use std::char::REPLACEMENT_CHARACTER;
use std::sync::Arc;

use crate::TextError;
use crate::tokenizer::{Decoding, Tokenizer};

/// Incremental detokenizing: [`Tokenizer::stream`].
#[derive(Debug)]
pub struct TextStream {
    tokenizer: Arc<Tokenizer>,
    /// Pending bytes of [`Decoding::Bytes`]: the start of a scalar, at most three.
    bytes: Vec<u8>,
    /// For [`Decoding::Text`], the tokens that the next text depends on: the last ones whose text was returned, then
    /// pending ones.
    window: Vec<String>,
    /// The text of the window that was returned already.
    given: String,
}

impl TextStream {
    pub(crate) fn new(tokenizer: Arc<Tokenizer>) -> Self {
        TextStream { tokenizer, bytes: Vec::new(), window: Vec::new(), given: String::new() }
    }

    /// Adds a token and returns the text that became final with it, often none.
    pub fn push(&mut self, id: u32) -> Result<String, TextError> {
        let Some(token) = self.tokenizer.visible_token(id) else { return Ok(String::new()) };
        match self.tokenizer.decoding() {
            Decoding::Bytes => {
                self.bytes.extend(token_bytes(&token));
                Ok(take_final(&mut self.bytes))
            }
            Decoding::Text { byte_fallback } => {
                // One bad byte turns its whole run into replacement characters: nothing is final until the run ends.
                let in_run = byte_fallback && is_byte_token(&token);
                self.window.push(token);
                if in_run { Ok(String::new()) } else { self.slide() }
            }
        }
    }

    /// Marks pending text as returned: it belongs to a prompt. The first bytes of a scalar still wait for the rest.
    pub(crate) fn take_as_given(&mut self) -> Result<(), TextError> {
        self.given = self.tokenizer.join(self.window.clone())?;
        Ok(())
    }

    /// Returns pending text, with replacement characters for invalid bytes, and resets the stream.
    pub fn finish(&mut self) -> String {
        let mut rest = String::from_utf8_lossy(&std::mem::take(&mut self.bytes)).into_owned();
        // Pending tokens that the decoder refuses have no text.
        let window = self.tokenizer.join(std::mem::take(&mut self.window)).unwrap_or_default();
        rest.push_str(after_common_prefix(&window, &std::mem::take(&mut self.given)));
        rest
    }

    /// Returns the new text of the window, and shortens the window to what the next token's text can depend on.
    fn slide(&mut self) -> Result<String, TextError> {
        let text = self.tokenizer.join(self.window.clone())?;
        let new = after_common_prefix(&text, &self.given);
        // The last scalar may be incomplete if a decoder mixes bytes with other steps.
        if new.ends_with(REPLACEMENT_CHARACTER) {
            return Ok(String::new());
        }
        let new = new.to_owned();
        self.given = text;
        // Decoders treat the first token differently (they drop its space): the window must start with text, so that
        // the next token is not first.
        for start in (0..self.window.len()).rev() {
            let tail = self.tokenizer.join(self.window[start..].to_vec())?;
            if !tail.is_empty() {
                self.window.drain(..start);
                self.given = tail;
                break;
            }
        }
        Ok(new)
    }
}

/// Moves all bytes that are final out of `bytes`.
fn take_final(bytes: &mut Vec<u8>) -> String {
    let mut text = String::with_capacity(bytes.len());
    let mut open = 0;
    let mut chunks = bytes.utf8_chunks().peekable();
    while let Some(chunk) = chunks.next() {
        text.push_str(chunk.valid());
        // `error_len` is unknown exactly if more bytes could complete the scalar.
        let incomplete = std::str::from_utf8(chunk.invalid()).is_err_and(|error| error.error_len().is_none());
        if chunks.peek().is_none() && incomplete {
            open = chunk.invalid().len();
        } else if !chunk.invalid().is_empty() {
            text.push(REPLACEMENT_CHARACTER);
        }
    }
    bytes.drain(..bytes.len() - open);
    text
}

/// The bytes of a token of a byte-level vocabulary. Added tokens may be plain text.
fn token_bytes(token: &str) -> Vec<u8> {
    token.chars().map(byte_of).collect::<Option<_>>().unwrap_or_else(|| token.as_bytes().to_vec())
}

/// Byte-level vocabularies spell bytes as printable characters: Latin-1 if it is printable, and U+0100 upwards, in
/// order, for the 68 bytes that are not.
fn byte_of(spelled: char) -> Option<u8> {
    let byte = match spelled as u32 {
        byte @ (0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff) => byte,
        code @ 0x100..=0x120 => code - 0x100,
        code @ 0x121..=0x142 => code - 0x121 + 0x7f,
        0x143 => 0xad,
        _ => return None,
    };
    u8::try_from(byte).ok()
}

/// Tokens like `<0x0A>`, as the decoder recognises them.
fn is_byte_token(token: &str) -> bool {
    let digits = token.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
    digits.is_some_and(|digits| digits.len() == 2 && u8::from_str_radix(digits, 16).is_ok())
}

/// The part of `text` that was not returned yet. It is a suffix, unless a decoder rewrites across tokens, which no
/// tokenizer of a language model is known to do.
fn after_common_prefix<'a>(text: &'a str, given: &str) -> &'a str {
    let common = text.chars().zip(given.chars()).take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8()).sum();
    &text[common..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn incomplete_bytes_wait_and_wrong_ones_do_not() {
        for (bytes, text, open) in [
            (&b"plain"[..], "plain", 0),
            (&[0x61, 0xf0, 0x9f, 0x98], "a", 3),
            (&[0xe2, 0x82, 0x61], "\u{fffd}a", 0),
            (&[0xff], "\u{fffd}", 0),
            (&[0x80, 0xc3], "\u{fffd}", 1),
            (&[0xe2, 0xe2, 0x82], "\u{fffd}", 2),
            // A surrogate can never be completed.
            (&[0xed, 0xa0], "\u{fffd}\u{fffd}", 0),
        ] {
            let mut rest = bytes.to_vec();
            assert_eq!((take_final(&mut rest).as_str(), rest.len()), (text, open), "{bytes:x?}");
        }
    }

    #[test]
    fn byte_tokens_are_what_the_decoder_says() {
        assert!(is_byte_token("<0x0A>") && is_byte_token("<0xff>") && is_byte_token("<0x+1>"));
        assert!(!is_byte_token("<0x0>") && !is_byte_token("<0xGG>") && !is_byte_token("0x0A"));
    }
}
