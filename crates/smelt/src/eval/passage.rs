//! A text as the tokens that a model predicts.

use crate::{Error, Llm};

/// A text as tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passage {
    pub(super) prefix: Vec<u32>,
    pub(super) tokens: Vec<u32>,
}

impl Passage {
    /// A text, and the tokenizer's prefix.
    pub fn new(llm: &Llm, text: &str) -> Result<Passage, Error> {
        let Some(tokenizer) = &llm.tokenizer else {
            return Err(Error::BadInput("the checkpoint has no tokenizer.json to tokenize the text with".to_owned()));
        };
        let tokens = tokenizer.encode(text, false)?;
        let all = tokenizer.encode(text, true)?;
        let front = (0..=all.len().saturating_sub(tokens.len())).find(|at| all[*at..].starts_with(&tokens));
        Passage::of_tokens(all[..front.unwrap_or(0)].to_vec(), tokens)
    }

    /// Tokens of a text, and the prefix of each of its windows.
    pub fn of_tokens(prefix: Vec<u32>, tokens: Vec<u32>) -> Result<Passage, Error> {
        match tokens.len() {
            0 => Err(Error::BadInput("the text is empty, expected at least 2 tokens".to_owned())),
            1 => Err(Error::BadInput("the text is a single token, expected at least 2".to_owned())),
            _ => Ok(Passage { prefix, tokens }),
        }
    }

    /// The start of the text, of at most this many tokens.
    pub fn start(&self, tokens: usize) -> Passage {
        let count = tokens.clamp(2, self.tokens.len());
        Passage { prefix: self.prefix.clone(), tokens: self.tokens[..count].to_vec() }
    }

    /// The text's own tokens.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }
}
