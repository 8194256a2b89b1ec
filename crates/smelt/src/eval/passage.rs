//! A text as the tokens that a model is asked to foretell.

use std::path::Path;

use crate::{Error, Llm};

/// A text as tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passage {
    pub(super) prefix: Vec<u32>,
    pub(super) tokens: Vec<u32>,
}

impl Passage {
    /// Reads a file of text with the tokenizer of a plan.
    pub fn read(llm: &Llm, file: &Path) -> Result<Passage, Error> {
        let text = std::fs::read_to_string(file).map_err(|error| Error::Io { path: file.to_owned(), error })?;
        Passage::new(llm, &text).map_err(|error| match error {
            Error::BadInput(reason) => Error::BadInput(format!("{}: {reason}", file.display())),
            other => other,
        })
    }

    /// A text, and what the tokenizer puts in front of it.
    pub fn new(llm: &Llm, text: &str) -> Result<Passage, Error> {
        let Some(tokenizer) = &llm.tokenizer else {
            return Err(Error::BadInput("the checkpoint has no tokenizer.json to read the text with".to_owned()));
        };
        let tokens = tokenizer.encode(text, false)?;
        let all = tokenizer.encode(text, true)?;
        let front = (0..=all.len().saturating_sub(tokens.len())).find(|at| all[*at..].starts_with(&tokens));
        Passage::of_tokens(all[..front.unwrap_or(0)].to_vec(), tokens)
    }

    /// Tokens of a text, and those that stand in front of each window of it.
    pub fn of_tokens(prefix: Vec<u32>, tokens: Vec<u32>) -> Result<Passage, Error> {
        match tokens.len() {
            0 => Err(Error::BadInput("the text is empty, expected at least 2 tokens".to_owned())),
            1 => Err(Error::BadInput("the text is a single token, expected at least 2".to_owned())),
            _ => Ok(Passage { prefix, tokens }),
        }
    }

    /// The text's own tokens.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }
}
