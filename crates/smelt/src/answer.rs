//! The answer to a request, as it grows.

use std::sync::Arc;
use std::time::Instant;

use engine::{Event, FinishReason, RequestId};
use text::{TextStream, Tokenizer};

use crate::generation::timings;
use crate::{Error, GenerateTimings, Generation, Prompt};

/// What a step has for a request.
#[derive(Debug)]
pub struct Answer {
    /// The request.
    pub request: RequestId,
    /// When the results of the step reached the host: the same for all its tokens.
    pub at: Instant,
    /// The token it got, if any.
    pub token: Option<u32>,
    /// Text that is final with the token, empty while a character is incomplete; `None` without a tokenizer.
    pub text: Option<String>,
    /// Set at the end: all that was generated with its times, or why the request failed.
    pub end: Option<Result<(Generation, GenerateTimings), Error>>,
}

/// A request that has not ended.
#[derive(Debug)]
pub(crate) struct Growing {
    submitted: Instant,
    first_token: Option<Instant>,
    stream: Option<TextStream>,
    generation: Generation,
}

impl Growing {
    /// A request that is submitted now.
    pub fn new(tokenizer: Option<&Arc<Tokenizer>>, prompt_ids: Vec<u32>) -> Result<Growing, Error> {
        let stream = tokenizer.map(|tokenizer| tokenizer.stream_after(&prompt_ids)).transpose()?;
        let generation = Generation {
            prompt_ids,
            token_ids: Vec::new(),
            text: stream.is_some().then(String::new),
            finish_reason: FinishReason::Length,
            logits: Vec::new(),
        };
        Ok(Growing { submitted: Instant::now(), first_token: None, stream, generation })
    }

    /// What an event of this request means. After an answer with an end there must be no other one.
    pub fn answer(&mut self, event: Event, at: Instant) -> Answer {
        let mut answer = Answer { request: event.request, at, token: event.token, text: None, end: None };
        self.generation.logits.extend(event.logits);
        self.generation.finish_reason = event.finished.unwrap_or(self.generation.finish_reason);
        let mut failed = event.failed.map(Error::from);
        if let Some(id) = event.token {
            self.first_token.get_or_insert(at);
            self.generation.token_ids.push(id);
            match self.push(id) {
                Ok(text) => answer.text = text,
                Err(error) => failed = Some(error),
            }
        }
        if event.finished.is_some() {
            self.flush(&mut answer.text);
        }
        if event.done || failed.is_some() {
            answer.end = Some(match failed {
                Some(error) => Err(error),
                None => Ok(self.finish(at)),
            });
        }
        answer
    }

    /// Adds a token and returns the text that is final with it.
    fn push(&mut self, id: u32) -> Result<Option<String>, Error> {
        let (Some(stream), Some(whole)) = (&mut self.stream, &mut self.generation.text) else { return Ok(None) };
        let text = stream.push(id)?;
        whole.push_str(&text);
        Ok(Some(text))
    }

    /// Adds what is left of a character that will not be completed.
    fn flush(&mut self, text: &mut Option<String>) {
        let (Some(stream), Some(whole)) = (&mut self.stream, &mut self.generation.text) else { return };
        let rest = stream.finish();
        if !rest.is_empty() {
            whole.push_str(&rest);
            text.get_or_insert_default().push_str(&rest);
        }
    }

    fn finish(&mut self, at: Instant) -> (Generation, GenerateTimings) {
        let first = self.first_token.unwrap_or(at);
        let timings = timings(self.submitted, first, at, self.generation.token_ids.len());
        let empty = Generation {
            prompt_ids: Vec::new(),
            token_ids: Vec::new(),
            text: None,
            finish_reason: self.generation.finish_reason,
            logits: Vec::new(),
        };
        (std::mem::replace(&mut self.generation, empty), timings)
    }
}

/// A prompt as tokens, with the tokenizer's special tokens.
pub(crate) fn tokens(tokenizer: Option<&Arc<Tokenizer>>, prompt: &Prompt) -> Result<Vec<u32>, Error> {
    match (prompt, tokenizer) {
        (Prompt::Tokens(ids), _) => Ok(ids.clone()),
        (Prompt::Text(text), Some(tokenizer)) => Ok(tokenizer.encode(text, true)?),
        (Prompt::Text(_), None) => Err(Error::BadInput(
            "the checkpoint has no tokenizer.json: pass the prompt as token ids (`Prompt::Tokens`)".to_owned(),
        )),
    }
}
