//! Requests that share a model: each is submitted when it comes, and answered step by step.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use engine::{Engine, Event, GenerationParams, Request, RequestId};
use text::Tokenizer;

use crate::answer::{Growing, tokens};
use crate::{Answer, Error, Prompt};

/// Requests that run together, on the caller's thread. Those that are open when this is dropped are cancelled.
pub struct Requests<'a> {
    engine: &'a mut Engine,
    tokenizer: Option<&'a Arc<Tokenizer>>,
    open: HashMap<RequestId, Growing>,
}

impl<'a> Requests<'a> {
    pub(crate) fn new(engine: &'a mut Engine, tokenizer: Option<&'a Arc<Tokenizer>>) -> Requests<'a> {
        Requests { engine, tokenizer, open: HashMap::new() }
    }

    /// Submits a request. Of those that wait, one of a lower `priority`, from 0 to 7, goes first.
    pub fn submit(&mut self, prompt: &Prompt, params: &GenerationParams, priority: u8) -> Result<RequestId, Error> {
        let prompt = tokens(self.tokenizer, prompt)?;
        let growing = Growing::new(self.tokenizer, prompt.clone())?;
        let id = self.engine.add(Request { prompt, params: params.clone(), priority, timeout: None })?;
        self.open.insert(id, growing);
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
        let answer = self.open.get_mut(&request)?.answer(event, at);
        if let Some(end) = &answer.end {
            self.open.remove(&request);
            if end.is_err() {
                // its text may have failed, of which the engine does not know
                self.engine.cancel(request);
            }
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
