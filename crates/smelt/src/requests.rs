//! Requests that share a model: each is submitted when it comes, and answered step by step.

use std::collections::HashMap;
use std::time::Instant;

use engine::{Engine, Event, FinishReason, GenerationParams, Request, RequestId};
use text::{TextStream, Tokenizer};

use crate::generation::timings;
use crate::{Error, GenerateTimings, Generation, Prompt};

/// Requests that run together. Those that are open when this is dropped are cancelled.
pub struct Requests<'a> {
    engine: &'a mut Engine,
    tokenizer: Option<&'a Tokenizer>,
    open: HashMap<RequestId, Open<'a>>,
}

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
struct Open<'a> {
    submitted: Instant,
    first_token: Option<Instant>,
    stream: Option<TextStream<'a>>,
    generation: Generation,
}

impl<'a> Requests<'a> {
    pub(crate) fn new(engine: &'a mut Engine, tokenizer: Option<&'a Tokenizer>) -> Requests<'a> {
        Requests { engine, tokenizer, open: HashMap::new() }
    }

    /// Submits a request. Of those that wait, one of a lower `priority`, from 0 to 7, goes first.
    pub fn submit(&mut self, prompt: &Prompt, params: &GenerationParams, priority: u8) -> Result<RequestId, Error> {
        let prompt_ids = tokens(self.tokenizer, prompt)?;
        let stream = self.tokenizer.map(|tokenizer| tokenizer.stream_after(&prompt_ids)).transpose()?;
        let request = Request { prompt: prompt_ids.clone(), params: params.clone(), priority };
        let id = self.engine.add(request)?;
        let generation = Generation {
            prompt_ids,
            token_ids: Vec::new(),
            text: stream.is_some().then(String::new),
            finish_reason: FinishReason::Length,
            logits: Vec::new(),
        };
        self.open.insert(id, Open { submitted: Instant::now(), first_token: None, stream, generation });
        Ok(id)
    }

    /// A prompt as tokens, with the tokenizer's special tokens.
    pub fn tokens(&self, prompt: &Prompt) -> Result<Vec<u32>, Error> {
        tokens(self.tokenizer, prompt)
    }

    /// Ends a request. Its answer comes with the next step.
    pub fn cancel(&mut self, request: RequestId) {
        self.engine.cancel(request);
    }

    /// Requests that have not ended.
    pub fn open(&self) -> usize {
        self.open.len()
    }

    /// What the engine does, and has done.
    pub fn stats(&self) -> engine::Stats {
        self.engine.stats()
    }

    /// Runs one step and returns its answers, of which there may be none.
    pub fn step(&mut self) -> Vec<Answer> {
        let events = self.engine.step();
        let at = Instant::now();
        events.into_iter().filter_map(|event| self.answer(event, at)).collect()
    }

    fn answer(&mut self, event: Event, at: Instant) -> Option<Answer> {
        let request = event.request;
        let open = self.open.get_mut(&request)?;
        let mut answer = Answer { request, at, token: event.token, text: None, end: None };
        open.generation.logits.extend(event.logits);
        open.generation.finish_reason = event.finished.unwrap_or(open.generation.finish_reason);
        let mut failed = event.failed.map(Error::from);
        if let Some(id) = event.token {
            match open.push(id, at, event.finished.is_some()) {
                Ok(text) => answer.text = text,
                Err(error) => {
                    self.engine.cancel(request);
                    failed = Some(error);
                }
            }
        }
        if event.done || failed.is_some() {
            let open = self.open.remove(&request)?;
            answer.end = Some(match failed {
                Some(error) => Err(error),
                None => Ok(open.finish(at)),
            });
        }
        Some(answer)
    }
}

impl Drop for Requests<'_> {
    fn drop(&mut self) {
        for request in self.open.keys() {
            self.engine.cancel(*request);
        }
        // what is left of them concerns nobody
        self.engine.forget_ended();
    }
}

/// A prompt as tokens, with the tokenizer's special tokens.
pub(crate) fn tokens(tokenizer: Option<&Tokenizer>, prompt: &Prompt) -> Result<Vec<u32>, Error> {
    match (prompt, tokenizer) {
        (Prompt::Tokens(ids), _) => Ok(ids.clone()),
        (Prompt::Text(text), Some(tokenizer)) => Ok(tokenizer.encode(text, true)?),
        (Prompt::Text(_), None) => Err(Error::BadInput(
            "the checkpoint has no tokenizer.json: pass the prompt as token ids (`Prompt::Tokens`)".to_owned(),
        )),
    }
}

impl Open<'_> {
    /// Adds a token and returns the text that is final with it.
    fn push(&mut self, id: u32, at: Instant, last: bool) -> Result<Option<String>, Error> {
        self.first_token.get_or_insert(at);
        self.generation.token_ids.push(id);
        let Some(stream) = &mut self.stream else { return Ok(None) };
        let mut text = stream.push(id)?;
        if last {
            text.push_str(&stream.finish());
        }
        if let Some(whole) = &mut self.generation.text {
            whole.push_str(&text);
        }
        Ok(Some(text))
    }

    fn finish(self, at: Instant) -> (Generation, GenerateTimings) {
        let timings = timings(self.submitted, self.first_token.unwrap_or(at), at, self.generation.token_ids.len());
        (self.generation, timings)
    }
}
