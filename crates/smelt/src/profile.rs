//! What the launches of a step take, in the midst of generating: a state such as requests have it.

use std::collections::HashMap;

use engine::{Engine, GenerationParams, ProfiledStep, Request, RequestId};
use plan::Limits;

use crate::{Error, Llm};

impl Llm {
    /// Times the launches of two steps: one that reads a prompt, or the first part of it, while the others generate; and one
    /// that generates for all, half of `tokens` on. Each is run as often. The second is missing where the plan has no room
    /// for it, the first where a prompt is one token.
    pub fn profile(&mut self, prompts: &[Vec<u32>], tokens: u32, runs: usize) -> Result<Vec<ProfiledStep>, Error> {
        let params = GenerationParams { max_tokens: self.room(prompts).max(tokens), ignore_eos: true, logits: false };
        let requests = prompts.iter().map(|prompt| Request {
            prompt: prompt.clone(),
            params: params.clone(),
            ..Request::default()
        });
        let requests: Vec<Request> = requests.collect();
        requests.iter().try_for_each(|request| Engine::check(self.plan().plan(), request))?;
        self.engine.submit_in_order(true);
        // prompts that were read before are read once more
        let reuse = self.engine.reuse_prefixes(false);
        let profiled = steps(&mut self.engine, requests, tokens, runs);
        self.engine.clear();
        self.engine.reuse_prefixes(reuse);
        self.engine.submit_in_order(false);
        let plan = self.plan().plan();
        let profiled = profiled?;
        let untimed = || Error::Unsupported(format!("launches of plans for `{}` are not timed here", plan.target));
        if profiled.is_empty() { Err(untimed()) } else { Ok(profiled) }
    }

    /// Tokens that each of these prompts can go on for, all at once: a sequence must not end while others are read.
    fn room(&self, prompts: &[Vec<u32>]) -> u32 {
        let plan = self.plan().plan();
        let Limits { max_seq_len, .. } = plan.limits;
        let longest = prompts.iter().map(Vec::len).max().unwrap_or(0) as u64;
        let blocks = plan.kv.iter().map(|group| {
            let each = u64::from(group.blocks) / prompts.len().max(1) as u64;
            each * u64::from(group.block_tokens)
        });
        let tokens = blocks.fold(u64::from(max_seq_len), u64::min);
        u32::try_from(tokens.saturating_sub(longest)).unwrap_or(u32::MAX)
    }
}

/// Brings requests to the steps that are profiled.
fn steps(
    engine: &mut Engine,
    mut requests: Vec<Request>,
    tokens: u32,
    runs: usize,
) -> Result<Vec<ProfiledStep>, Error> {
    let mut run = Run { engine, generated: HashMap::new(), ended: false };
    let mut profiled = Vec::new();
    let sequences = requests.len();
    let Some(last) = requests.pop() else { return Ok(profiled) };
    for request in requests {
        run.add(request)?;
    }
    run.until(1)?;
    run.add(last)?;
    let reads = |step: &ProfiledStep| step.sequences.iter().any(|sequence| sequence.tokens > 1);
    profiled.extend(run.engine.profile_next(runs)?.filter(reads));
    run.until((tokens / 2).max(1))?;
    let decodes = |step: &ProfiledStep| step.sequences.len() == sequences && !reads(step);
    profiled.extend(run.engine.profile_next(runs)?.filter(decodes));
    Ok(profiled)
}

/// Requests on their way.
struct Run<'a> {
    engine: &'a mut Engine,
    generated: HashMap<RequestId, u32>,
    /// Whether one is done.
    ended: bool,
}

impl Run<'_> {
    fn add(&mut self, request: Request) -> Result<(), Error> {
        self.generated.insert(self.engine.add(request)?, 0);
        Ok(())
    }

    /// Runs steps until each request has so many tokens, or one is done.
    fn until(&mut self, tokens: u32) -> Result<(), Error> {
        while !self.ended && self.engine.has_work() && self.generated.values().any(|generated| *generated < tokens) {
            for event in self.engine.step() {
                if let Some(error) = event.failed {
                    return Err(error.into());
                }
                *self.generated.entry(event.request).or_default() += u32::from(event.token.is_some());
                self.ended |= event.finished.is_some();
            }
        }
        Ok(())
    }
}
