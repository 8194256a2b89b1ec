//! The loop from requests to tokens: steps of a [`Core`] on a session.

use std::sync::Arc;
use std::time::Instant;

use plan::{Bindings, ExecError, Plan, PlanFile, PortData, Session, StepId};

use crate::core::{Chunk, Core, Millis, Output, Room, Settings, Stats};
use crate::request::{FinishReason, Request, RequestId};
use crate::step::{Packer, Padding, StepInputs, blocks_for};

/// Generates tokens for any number of concurrent requests. A request waits until there is room in the batch and there
/// are blocks for the tokens that it is expected to need; where others then lack blocks, the last one gives its own back
/// and is computed again later.
pub struct Engine {
    pub(crate) file: Arc<PlanFile>,
    pub(crate) session: Box<dyn Session>,
    pub(crate) core: Core,
    packer: Packer,
    /// A step that was planned and is not submitted yet.
    pub(crate) planned: Option<StepInputs>,
    /// Memory of steps before.
    spare: StepInputs,
    outputs: Vec<Output>,
    /// Submitted steps whose results were not read, the oldest first.
    submitted: [Option<StepId>; 2],
    /// Whether steps are submitted only after the results of the previous one were read.
    pub(crate) in_order: bool,
    /// The step whose results were read last.
    read: StepId,
    /// Requests that ended without a step.
    ended: Vec<Output>,
    next_request: u64,
    start: Instant,
}

/// The outcome of one step for one request.
#[derive(Debug)]
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
    /// Why it has failed, if it has. Others go on.
    pub failed: Option<EngineError>,
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
    /// The device failed: all requests of the step have this error.
    #[error(transparent)]
    Exec(Arc<ExecError>),
}

impl From<ExecError> for EngineError {
    fn from(error: ExecError) -> EngineError {
        EngineError::Exec(Arc::new(error))
    }
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
        Engine::with_settings(file, session, Settings::default())
    }

    /// The same with settings.
    pub fn with_settings(
        file: Arc<PlanFile>,
        session: Box<dyn Session>,
        settings: Settings,
    ) -> Result<Engine, EngineError> {
        let packer = Packer::new(file.plan()).map_err(EngineError::Plan)?;
        let plan = file.plan();
        let room = Room {
            sequences: plan.limits.max_batch_size as usize,
            tokens: plan.limits.max_num_tokens as usize,
            rows: plan.limits.max_logit_rows as usize,
            block_tokens: plan.kv.first().map_or(1, |group| group.block_tokens as usize),
            // all groups have as many blocks, and a block number means the same place in each
            blocks: plan.kv.iter().map(|group| group.blocks).min().unwrap_or(0),
            max_seq_len: plan.limits.max_seq_len as usize,
            eos: plan.model.eos.clone(),
        };
        Ok(Engine {
            core: Core::new(room, settings),
            file,
            session,
            packer,
            planned: None,
            spare: StepInputs::default(),
            outputs: Vec::new(),
            submitted: [None; 2],
            in_order: false,
            read: StepId(0),
            ended: Vec::new(),
            next_request: 0,
            start: Instant::now(),
        })
    }

    /// Why a plan cannot serve a request, if it cannot.
    pub fn check(plan: &Plan, request: &Request) -> Result<(), EngineError> {
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
                "the prompt has {prompt} tokens, the plan allows {max_input_len} (compile with a larger `max_input_len`)"
            ));
        }
        if prompt + generated > max_seq_len {
            return fail(format!(
                "a prompt of {prompt} tokens and {generated} output tokens are {}, the plan allows {max_seq_len} \
                 (compile with a larger `max_seq_len`, or use a smaller `max_tokens`)",
                prompt + generated
            ));
        }
        if request.priority > 7 {
            return fail(format!("priority {} does not exist, expected 0 to 7", request.priority));
        }
        let needed = blocks_for(plan, prompt + generated);
        let total = plan.kv.iter().map(|group| group.blocks as usize).min().unwrap_or(0);
        if needed > total {
            return fail(format!(
                "{} tokens take {needed} KV blocks, the plan has {total} (compile with a larger `kv_cache_bytes`)",
                prompt + generated
            ));
        }
        Ok(())
    }

    /// Queues a request.
    pub fn add(&mut self, request: Request) -> Result<RequestId, EngineError> {
        Engine::check(self.file.plan(), &request)?;
        let id = RequestId(self.next_request);
        self.add_as(id, request);
        Ok(id)
    }

    /// Queues a request that was checked, under a name that no other one has had.
    pub fn add_as(&mut self, id: RequestId, request: Request) {
        self.next_request = self.next_request.max(id.0 + 1);
        let now = self.now();
        self.ended.extend(self.core.add(now, id, request));
    }

    /// Milliseconds since the engine began.
    fn now(&self) -> Millis {
        self.start.elapsed().as_millis() as Millis
    }

    /// Ends a request: no step that begins from now on computes anything for it. Its last event comes with the next step.
    pub fn cancel(&mut self, request: RequestId) {
        self.ended.extend(self.core.cancel(request));
    }

    /// Ends all requests.
    pub fn cancel_all(&mut self) {
        self.ended.extend(self.core.cancel_all());
    }

    /// Drops the last events of requests that were cancelled.
    pub fn forget_ended(&mut self) {
        self.ended.clear();
    }

    /// Drops all requests, after an error for instance.
    pub fn clear(&mut self) {
        self.core.clear();
        (self.planned, self.submitted) = (None, [None; 2]);
        self.ended.clear();
    }

    /// Whether a request waits or runs, or there is something to be said of one.
    pub fn has_work(&self) -> bool {
        self.core.has_work() || !self.ended.is_empty()
    }

    /// What the engine does, and has done.
    pub fn stats(&self) -> Stats {
        self.core.stats()
    }

    /// Runs one step and returns its events. On a device that runs ahead, the next step is submitted first if possible:
    /// it takes its tokens on the device, which then does not wait for the host. A step that fails ends its requests
    /// alone.
    pub fn step(&mut self) -> Vec<Event> {
        let now = self.now();
        self.core.expire(now, &mut self.ended);
        let mut events: Vec<Event> = self.ended.drain(..).map(|output| event(output, None)).collect();
        if self.submitted[0].is_none() && self.plan_next() {
            self.submit(&mut events);
        }
        if self.may_run_ahead() && self.core.plan() {
            self.pack(Padding::Decode);
            self.submit(&mut events);
        }
        if let Some(step) = self.submitted[0].take() {
            self.submitted.swap(0, 1);
            self.finish(step, &mut events);
        }
        events
    }

    /// Another output of the step with the latest events, for plans with more outputs than tokens and logits. It is
    /// kept if no step runs ahead: none does while requests ask for logits.
    pub fn output(&mut self, port: &str) -> Result<PortData, EngineError> {
        Ok(self.session.read(self.read, port)?)
    }

    /// Plans and packs the next step, if there is one and it is not planned yet.
    pub(crate) fn plan_next(&mut self) -> bool {
        if self.planned.is_none() && self.core.plan() {
            self.pack(Padding::Decode);
        }
        self.planned.is_some()
    }

    fn pack(&mut self, padding: Padding) {
        let Some(step) = self.core.planned() else { return };
        let mut inputs = std::mem::take(&mut self.spare);
        self.packer.pack(&self.core, &step.chunks, padding, &mut inputs);
        self.planned = Some(inputs);
    }

    /// Whether a step may be submitted before the results of the running one were read.
    fn may_run_ahead(&self) -> bool {
        matches!(self.submitted, [Some(_), None]) && !self.in_order && self.session.runs_ahead()
    }

    /// Submits the planned step. If it is refused, its requests end.
    fn submit(&mut self, events: &mut Vec<Event>) {
        let Some(inputs) = self.planned.take() else { return };
        let bindings = Bindings { symbols: &inputs.symbols, inputs: &inputs.named() };
        match self.session.submit(inputs.program, &bindings) {
            Ok(step) => {
                let place = usize::from(self.submitted[0].is_some());
                self.submitted[place] = Some(step);
            }
            Err(error) => events.extend(failed(self.core.fail_planned(), error)),
        }
        self.spare = inputs;
    }

    /// Reads what a step computed.
    fn finish(&mut self, step: StepId, events: &mut Vec<Event>) {
        self.read = step;
        let wanted = self.wants_logits();
        let (chosen, logits) = match self.results(step, !wanted.is_empty()) {
            Ok(results) => results,
            Err(error) => return events.extend(failed(self.core.fail_oldest(), error)),
        };
        let mut errors = self.not_finite(&chosen);
        let vocab = self.file.plan().model.vocab_size as usize;
        let mut outputs = std::mem::take(&mut self.outputs);
        self.core.complete(&chosen, &mut outputs);
        events.reserve(outputs.len());
        for output in outputs.drain(..) {
            let error = errors.iter().position(|(request, _)| *request == output.request);
            let mut event = event(output, error.map(|at| errors.swap_remove(at).1));
            if wanted.contains(&output.request) {
                let rows = output.rows.0 * vocab..output.rows.1 * vocab;
                event.logits = logits.get(rows).unwrap_or_default().to_vec();
            }
            events.push(event);
        }
        self.outputs = outputs;
    }

    /// The requests of the oldest step that want logits.
    fn wants_logits(&self) -> Vec<RequestId> {
        let chunks = self.core.oldest().map(|step| &step.chunks[..]).unwrap_or_default();
        let sequences = chunks.iter().filter_map(|chunk| self.core.sequence_of(chunk));
        sequences.filter(|sequence| sequence.params.logits).map(|sequence| sequence.request).collect()
    }

    /// The tokens that a step chose, and its logits if they are wanted.
    fn results(&mut self, step: StepId, logits: bool) -> Result<(Vec<i32>, Vec<f32>), ExecError> {
        let wrong =
            |port: &str| ExecError::Unsupported(format!("the plan has no output `{port}` of the expected dtype"));
        let PortData::I32(chosen) = self.session.read(step, "next_tokens")? else { return Err(wrong("next_tokens")) };
        let logits = match logits.then(|| self.session.read(step, "logits")).transpose()? {
            Some(PortData::F32(logits)) => logits,
            Some(PortData::I32(_)) => return Err(wrong("logits")),
            None => Vec::new(),
        };
        Ok((chosen, logits))
    }

    /// The errors of requests for which no token can be chosen, since their logits are not finite. Their part of the step
    /// runs again, if that can find the first such value.
    fn not_finite(&mut self, chosen: &[i32]) -> Vec<(RequestId, EngineError)> {
        let mut errors = Vec::new();
        let Some(step) = self.core.oldest() else { return errors };
        let mut end = 0;
        let broken = step.chunks.iter().filter(|chunk| {
            end += chunk.rows;
            chunk.samples && chosen.get(end.wrapping_sub(1)).is_none_or(|token| *token < 0)
        });
        let broken: Vec<Chunk> = broken.copied().collect();
        for chunk in broken {
            let Some(sequence) = self.core.sequence_of(&chunk).filter(|sequence| sequence.finished.is_none()) else {
                continue;
            };
            let (request, position) = (sequence.request, chunk.start + chunk.tokens - 1);
            let mut inputs = StepInputs::default();
            self.packer.pack(&self.core, &[chunk], Padding::None, &mut inputs);
            let bindings = Bindings { symbols: &inputs.symbols, inputs: &inputs.named() };
            let error = match self.session.first_not_finite(inputs.program, &bindings) {
                Ok(first) => EngineError::NotFinite { request, position, first },
                Err(error) => error.into(),
            };
            errors.push((request, error));
        }
        errors
    }
}

fn event(output: Output, failed: Option<EngineError>) -> Event {
    Event {
        request: output.request,
        token: output.token.and_then(|token| u32::try_from(token).ok()),
        logits: Vec::new(),
        finished: output.finished,
        done: output.done,
        failed,
    }
}

/// The ends of all requests of a step.
fn failed(outputs: Vec<Output>, error: ExecError) -> impl Iterator<Item = Event> {
    let error = Arc::new(error);
    outputs.into_iter().map(move |output| event(output, Some(EngineError::Exec(Arc::clone(&error)))))
}
