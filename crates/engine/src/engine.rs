//! The loop from requests to tokens.

use std::collections::VecDeque;
use std::sync::Arc;

use plan::{ExecError, PlanFile, PortData, ProgramKind, Session, StepId};

use crate::BlockPool;
use crate::sequence::{FinishReason, Request, RequestId, Sequence};
use crate::step::{Chunk, Padding, blocks_for, check_ports, pack, schedule};

/// Generates tokens for any number of concurrent requests. A request waits until there is room in the batch and there
/// are blocks for all the tokens it may need, so that none is ever preempted.
pub struct Engine {
    pub(crate) file: Arc<PlanFile>,
    pub(crate) session: Box<dyn Session>,
    blocks: BlockPool,
    waiting: VecDeque<Sequence>,
    pub(crate) running: Vec<Sequence>,
    /// The step that was submitted before the results of the previous one were read.
    pub(crate) ahead: Option<Flight>,
    /// Whether steps are submitted only after the results of the previous one were read.
    pub(crate) in_order: bool,
    /// The step whose results were read last.
    read: StepId,
    next_id: u64,
}

/// A running step.
pub(crate) struct Flight {
    step: StepId,
    program: usize,
    chunks: Vec<Chunk>,
}

/// The outcome of one step for one request.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// The request.
    pub request: RequestId,
    /// The token it got, if any.
    pub token: Option<u32>,
    /// Logits of this step's positions, `[rows, vocab]`, if the request asks for them.
    pub logits: Vec<f32>,
    /// Set with the last token.
    pub finished: Option<FinishReason>,
    /// Whether the request is finished.
    pub done: bool,
}

/// Why a request or a step failed.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The request does not fit the plan.
    #[error("{0}")]
    Request(String),
    /// The plan does not suit this engine.
    #[error("the plan cannot generate text: {0}; compile the checkpoint again")]
    Plan(String),
    /// A row of logits has NaN or infinity, or nothing finite: no token can be chosen.
    #[error("request {}: the logits at position {position} are not finite{}", request.0, origin(.first))]
    NotFinite {
        /// The request.
        request: RequestId,
        /// The position of the last token before them, counted from 0.
        position: usize,
        /// The first weight or op with such a value, if the session can tell.
        first: Option<String>,
    },
    /// The device failed.
    #[error(transparent)]
    Exec(#[from] ExecError),
}

/// The end of [`EngineError::NotFinite`].
fn origin(found: &Option<String>) -> String {
    match found {
        Some(found) => format!(": {found}"),
        None => " (to find the first such weight or op, compile with --target cpu and run the same prompt)".to_owned(),
    }
}

impl Engine {
    /// An engine over a loaded plan, whose programs must accept the engine's inputs.
    pub fn new(file: Arc<PlanFile>, session: Box<dyn Session>) -> Result<Engine, EngineError> {
        check_ports(file.plan()).map_err(EngineError::Plan)?;
        // All groups have as many blocks, and a block number means the same place in each.
        let blocks = file.plan().kv.iter().map(|group| group.blocks).min().unwrap_or(0);
        let blocks = BlockPool::new(blocks);
        let (waiting, running) = (VecDeque::new(), Vec::new());
        Ok(Engine {
            file,
            session,
            blocks,
            waiting,
            running,
            ahead: None,
            in_order: false,
            read: StepId(0),
            next_id: 0,
        })
    }

    /// Why the plan cannot serve a request, if it cannot.
    pub fn check(&self, request: &Request) -> Result<(), EngineError> {
        let plan = self.file.plan();
        let fail = |reason: String| Err(EngineError::Request(reason));
        let (prompt, generated) = (request.prompt.len(), request.params.max_tokens as usize);
        let max_seq_len = plan.limits.max_seq_len as usize;
        if prompt == 0 {
            return fail("the prompt is empty, expected at least one token".to_owned());
        }
        if let Some(id) = request.prompt.iter().find(|id| **id >= plan.model.vocab_size) {
            return fail(format!("token {id} is outside the vocabulary, expected ids below {}", plan.model.vocab_size));
        }
        let max_input_len = plan.limits.max_input_len as usize;
        if prompt > max_input_len {
            return fail(format!(
                "the prompt has {prompt} tokens, the plan allows {max_input_len} (compile with a larger --max-input-len)"
            ));
        }
        if prompt + generated > max_seq_len {
            return fail(format!(
                "a prompt of {prompt} tokens and {generated} output tokens are {}, the plan allows {max_seq_len} \
                 (compile with a larger --max-seq-len, or a smaller --max-tokens)",
                prompt + generated
            ));
        }
        let needed = self.blocks_for(prompt + generated);
        let total = self.file.plan().kv.iter().map(|group| group.blocks as usize).min().unwrap_or(0);
        if needed > total {
            return fail(format!(
                "{} tokens take {needed} KV blocks, the plan has {total} (compile with a larger --kv-cache)",
                prompt + generated
            ));
        }
        Ok(())
    }

    /// Queues a request.
    pub fn add(&mut self, request: Request) -> Result<RequestId, EngineError> {
        self.check(&request)?;
        let id = RequestId(self.next_id);
        self.next_id += 1;
        self.waiting.push_back(Sequence {
            id,
            prompt_len: request.prompt.len(),
            tokens: request.prompt,
            cached: 0,
            blocks: Vec::new(),
            finished: (request.params.max_tokens == 0).then_some(FinishReason::Length),
            params: request.params,
        });
        Ok(id)
    }

    /// Drops all requests, after an error for instance.
    pub fn clear(&mut self) {
        self.waiting.clear();
        self.ahead = None;
        for sequence in self.running.drain(..) {
            self.blocks.give_back(sequence.blocks);
        }
    }

    /// Whether a request waits or runs.
    pub fn has_work(&self) -> bool {
        !self.waiting.is_empty() || !self.running.is_empty()
    }

    /// Runs one step and returns its events. On a device that runs ahead, the next step is submitted first if possible:
    /// it takes its tokens on the device, which then does not wait for the host.
    pub fn step(&mut self) -> Result<Vec<Event>, EngineError> {
        let mut events = Vec::new();
        let flight = match self.ahead.take() {
            Some(flight) => Some(flight),
            None => {
                self.admit();
                let chunks = schedule(&self.running, &self.file.plan().limits);
                if chunks.is_empty() { None } else { Some(self.submit(chunks, false)?) }
            }
        };
        if let Some(flight) = flight {
            if self.can_run_ahead(&flight) {
                self.ahead = Some(self.submit(flight.chunks.clone(), true)?);
            }
            self.finish(&flight, &mut events)?;
        }
        self.retire(&mut events);
        Ok(events)
    }

    /// Another output of the step with the latest events, for plans with more outputs than tokens and logits. It is
    /// kept if no step runs ahead: none does while requests ask for logits.
    pub fn output(&mut self, port: &str) -> Result<PortData, EngineError> {
        Ok(self.session.read(self.read, port)?)
    }

    /// Whether the next step is known before the results of this one are: the same sequences continue to decode, and no
    /// waiting request can be admitted. A sequence may end with a token that the host has not seen yet; the next step
    /// then computed an unused row, in blocks that belong to the sequence until that step has run.
    fn can_run_ahead(&self, flight: &Flight) -> bool {
        let decode = self.file.plan().programs[flight.program].kind == ProgramKind::Decode;
        let all = flight.chunks.len() == self.running.len();
        let on = |sequence: &Sequence| sequence.outlasts_next() && !sequence.params.logits;
        decode && all && !self.in_order && self.session.runs_ahead() && self.running.iter().all(on) && !self.can_admit()
    }

    /// Whether the longest waiting request can be admitted: there is room in the batch, and there are blocks.
    fn can_admit(&self) -> bool {
        let place = self.running.len() < self.file.plan().limits.max_batch_size as usize;
        place && self.waiting.front().is_some_and(|next| self.needed_blocks(next) <= self.blocks.free())
    }

    /// Blocks for all the tokens that a sequence may have.
    fn needed_blocks(&self, sequence: &Sequence) -> usize {
        self.blocks_for(sequence.prompt_len + sequence.params.max_tokens as usize)
    }

    fn blocks_for(&self, tokens: usize) -> usize {
        blocks_for(self.file.plan(), tokens)
    }

    /// Gives waiting requests their blocks, in order of arrival.
    pub(crate) fn admit(&mut self) {
        while self.running.len() < self.file.plan().limits.max_batch_size as usize {
            let Some(next) = self.waiting.front() else { return };
            let needed = self.needed_blocks(next);
            let Some(blocks) = self.blocks.take(needed) else { return };
            let Some(mut sequence) = self.waiting.pop_front() else { return };
            sequence.blocks = blocks;
            self.running.push(sequence);
        }
    }

    /// Submits a step; with `feedback` it takes its tokens from the previous step.
    fn submit(&mut self, chunks: Vec<Chunk>, feedback: bool) -> Result<Flight, EngineError> {
        let inputs = pack(self.file.plan(), &self.running, &chunks, Padding::Decode);
        let step = self.session.submit(inputs.program, &inputs.bindings(feedback))?;
        for chunk in &chunks {
            if let Some(sequence) = self.running.iter_mut().find(|sequence| sequence.id == chunk.sequence) {
                sequence.cached += chunk.tokens;
            }
        }
        Ok(Flight { step, program: inputs.program, chunks })
    }

    /// Reads what a step computed.
    fn finish(&mut self, flight: &Flight, events: &mut Vec<Event>) -> Result<(), EngineError> {
        self.read = flight.step;
        let file = Arc::clone(&self.file);
        let plan = file.plan();
        let wrong =
            |port: &str| ExecError::Unsupported(format!("the plan has no output `{port}` of the expected dtype"));
        let PortData::I32(sampled) = self.session.read(flight.step, "next_tokens")? else {
            return Err(wrong("next_tokens").into());
        };
        let wants_logits = |chunk: &Chunk| self.running.iter().any(|s| s.id == chunk.sequence && s.params.logits);
        let logits = match flight.chunks.iter().any(wants_logits) {
            true => match self.session.read(flight.step, "logits")? {
                PortData::F32(logits) => logits,
                PortData::I32(_) => return Err(wrong("logits").into()),
            },
            false => Vec::new(),
        };
        let vocab = plan.model.vocab_size as usize;
        let mut row = 0;
        for chunk in &flight.chunks {
            let rows = row..row + chunk.rows;
            row = rows.end;
            // sequences that ended in the previous step are gone
            let Some(sequence) = self.running.iter_mut().find(|sequence| sequence.id == chunk.sequence) else {
                continue;
            };
            let mut event =
                Event { request: sequence.id, token: None, logits: Vec::new(), finished: None, done: false };
            if sequence.params.logits {
                event.logits = logits.get(rows.start * vocab..rows.end * vocab).unwrap_or_default().to_vec();
            }
            if chunk.samples && sequence.finished.is_none() {
                let token = rows.last().and_then(|row| sampled.get(row)).copied();
                let token = token.ok_or_else(|| wrong("next_tokens"))?;
                let Ok(token) = u32::try_from(token) else {
                    return Err(self.not_finite(chunk));
                };
                sequence.push(token, &plan.model.eos);
                event.token = Some(token);
                event.finished = sequence.finished;
            }
            events.push(event);
        }
        Ok(())
    }

    /// The error of a chunk whose logits are not finite. The step runs again, if that can find the first such value.
    fn not_finite(&mut self, chunk: &Chunk) -> EngineError {
        let Some(sequence) = self.running.iter_mut().find(|sequence| sequence.id == chunk.sequence) else {
            return ExecError::Unsupported("a step returned tokens for a sequence that is not running".to_owned())
                .into();
        };
        let position = sequence.tokens.len() - 1;
        sequence.cached = sequence.tokens.len() - chunk.tokens;
        let inputs = pack(self.file.plan(), &self.running, &[*chunk], Padding::None);
        match self.session.first_not_finite(inputs.program, &inputs.bindings(false)) {
            Ok(first) => EngineError::NotFinite { request: chunk.sequence, position, first },
            Err(error) => error.into(),
        }
    }

    /// Removes finished sequences and frees their blocks.
    fn retire(&mut self, events: &mut Vec<Event>) {
        let (done, running) = std::mem::take(&mut self.running).into_iter().partition(Sequence::is_done);
        self.running = running;
        let done: Vec<Sequence> = done;
        for sequence in done {
            self.blocks.give_back(sequence.blocks);
            match events.iter_mut().find(|event| event.request == sequence.id) {
                Some(event) => event.done = true,
                None => events.push(Event {
                    request: sequence.id,
                    token: None,
                    logits: Vec::new(),
                    finished: sequence.finished,
                    done: true,
                }),
            }
        }
    }
}
