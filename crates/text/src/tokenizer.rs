//! A tokenizer loaded from the bytes of a `tokenizer.json`.

use std::sync::Arc;

use tokenizers::{DecoderWrapper, ModelWrapper, PostProcessorWrapper, PreTokenizerWrapper, TokenizerImpl};

use crate::TextError;
use crate::error::guarded;
use crate::growth::{self, BoundedNormalizer};
use crate::stream::TextStream;

/// Encodes text as token ids, and decodes them.
#[derive(Debug)]
pub struct Tokenizer {
    inner: Inner,
    decoding: Decoding,
    vocab_size: usize,
}

/// The library's tokenizer, over a normalizer with bounded memory.
type Inner = TokenizerImpl<ModelWrapper, BoundedNormalizer, PreTokenizerWrapper, PostProcessorWrapper, DecoderWrapper>;

/// How the tokenizer's decoder treats a token, as far as streaming depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decoding {
    /// A token is bytes, independent of its context (GPT-2, Llama 3, Qwen).
    Bytes,
    /// A token is text, with spaces that depend on the token before it (SentencePiece, WordPiece).
    Text {
        /// Tokens `<0x00>` to `<0xFF>` are bytes, and a run of them is decoded as a whole (Llama 2).
        byte_fallback: bool,
    },
}

impl Tokenizer {
    /// Loads a tokenizer from the contents of a `tokenizer.json`. Added tokens that the model's vocabulary does not
    /// contain are numbered after it, whatever id the file gives them, as in transformers.
    pub fn from_bytes(tokenizer_json: &[u8]) -> Result<Tokenizer, TextError> {
        let mut inner: Inner = guarded(|| Ok(serde_json::from_slice(tokenizer_json)?)).map_err(TextError::Tokenizer)?;
        inner.get_pre_tokenizer().map_or(Ok(()), growth::check_pieces).map_err(TextError::Tokenizer)?;
        inner.get_post_processor().map_or(Ok(()), growth::check_template).map_err(TextError::Tokenizer)?;
        // Files keep the settings of the training run here: a prompt must never be silently truncated or padded.
        guarded(|| inner.with_padding(None).with_truncation(None).map(drop)).map_err(TextError::Tokenizer)?;

        let highest = inner.get_vocab(true).into_values().max();
        let highest = highest.ok_or_else(|| TextError::Tokenizer("its vocabulary is empty".to_owned()))?;
        let decoding = Decoding::of(inner.get_decoder());
        Ok(Tokenizer { inner, decoding, vocab_size: highest as usize + 1 })
    }

    /// The tokens of a text. With special tokens, the tokenizer's own are added around the text, such as `<s>`; special
    /// tokens spelled out in the text itself are always recognised.
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, TextError> {
        let encoding = guarded(|| self.inner.encode_fast(text, add_special_tokens)).map_err(TextError::Encode)?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of some tokens. Special tokens have none, and neither have ids without a token: models round their
    /// vocabulary up, so they can produce such ids.
    pub fn decode(&self, ids: &[u32]) -> Result<String, TextError> {
        self.join(ids.iter().filter_map(|&id| self.visible_token(id)).collect())
    }

    /// Decodes tokens incrementally.
    pub fn stream(self: &Arc<Self>) -> TextStream {
        TextStream::new(Arc::clone(self))
    }

    /// Decodes tokens that continue a prompt: if a tokenizer drops the space before a text, the first word keeps its
    /// own.
    pub fn stream_after(self: &Arc<Self>, prompt: &[u32]) -> Result<TextStream, TextError> {
        let mut stream = self.stream();
        // Earlier tokens cannot affect the text of the next token.
        const CONTEXT: usize = 16;
        for id in &prompt[prompt.len().saturating_sub(CONTEXT)..] {
            stream.push(*id)?;
        }
        stream.take_as_given()?;
        Ok(stream)
    }

    /// The highest id plus one, added tokens included.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// The id of a token by its spelling in the vocabulary, such as `</s>`.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    pub(crate) fn decoding(&self) -> Decoding {
        self.decoding
    }

    /// A token that contributes to the text.
    pub(crate) fn visible_token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id).filter(|token| !self.inner.get_added_vocabulary().is_special_token(token))
    }

    /// The text of a sequence of visible tokens.
    pub(crate) fn join(&self, tokens: Vec<String>) -> Result<String, TextError> {
        match self.inner.get_decoder() {
            // Some decoders index the last token without checking that there is one.
            _ if tokens.is_empty() => Ok(String::new()),
            Some(decoder) => guarded(|| growth::decode(decoder, tokens)).map_err(TextError::Decode),
            None => Ok(tokens.join(" ")),
        }
    }
}

impl Decoding {
    fn of(decoder: Option<&DecoderWrapper>) -> Decoding {
        match decoder {
            Some(DecoderWrapper::ByteLevel(_)) => Decoding::Bytes,
            Some(DecoderWrapper::ByteFallback(_)) => Decoding::Text { byte_fallback: true },
            Some(DecoderWrapper::Sequence(sequence)) => Decoding::Text {
                byte_fallback: sequence.get_decoders().iter().any(|d| matches!(d, DecoderWrapper::ByteFallback(_))),
            },
            _ => Decoding::Text { byte_fallback: false },
        }
    }
}
