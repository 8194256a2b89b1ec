//! A model that many threads ask: the engine has a thread of its own, and does nothing else on it. The events of a step
//! leave it as one message; a second thread makes text of them and hands them out.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use engine::{Engine, Event, GenerationParams, Request, RequestId, Stats};
use plan::PlanFile;
use text::Tokenizer;

use crate::answer::{Growing, tokens};
use crate::{Answer, Error, Llm, Prompt, Refused};

/// How much may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceSettings {
    /// Most requests that wait for a place in the batch.
    pub max_waiting: usize,
    /// Most tokens of their prompts. A single request may have more.
    pub max_waiting_tokens: usize,
}

impl Default for ServiceSettings {
    fn default() -> ServiceSettings {
        ServiceSettings { max_waiting: 1024, max_waiting_tokens: 4 << 20 }
    }
}

/// A request to a [`Service`].
#[derive(Clone, Debug, PartialEq)]
pub struct Submission {
    /// The prompt.
    pub prompt: Prompt,
    /// How to generate.
    pub params: GenerationParams,
    /// Of those that wait, one of a lower class goes first, from 0 to 7.
    pub priority: u8,
    /// How long it may take in all: it then ends with what it has generated.
    pub timeout: Option<Duration>,
}

impl Submission {
    /// A request of class 0 without a time limit.
    pub fn new(prompt: impl Into<Prompt>, params: GenerationParams) -> Submission {
        Submission { prompt: prompt.into(), params, priority: 0, timeout: None }
    }
}

/// Takes the answers of one request. It is called on the thread that hands them out, so it must not block.
type Sink = Box<dyn FnMut(Answer) + Send>;

/// A model on a thread of its own. Dropping it cancels all requests.
#[derive(Debug)]
pub struct Service {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// What callers and threads share.
#[derive(Debug)]
struct Shared {
    file: Arc<PlanFile>,
    tokenizer: Option<Arc<Tokenizer>>,
    settings: ServiceSettings,
    desk: Mutex<Desk>,
    /// A request has ended, or the engine.
    ended: Condvar,
}

/// Where requests are taken.
#[derive(Debug)]
struct Desk {
    to_engine: Sender<Command>,
    to_router: Sender<Message>,
    next: u64,
    /// Requests that were submitted, and their tokens, which the engine has not taken yet.
    submitted: Load,
    /// Of the engine, after its latest step.
    stats: Stats,
    /// Mean time between two requests that leave the queue, once some have.
    interval: Option<Duration>,
    draining: bool,
    stopped: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Load {
    requests: usize,
    tokens: usize,
}

/// To the engine's thread.
#[derive(Debug)]
enum Command {
    Add(RequestId, Request),
    Cancel(RequestId),
    Stop,
}

/// To the thread that hands answers out.
enum Message {
    Open(RequestId, Box<Growing>, Sink),
    /// The events of a step, and when they came.
    Events(Vec<Event>, Instant),
    /// The engine's thread has ended: no more events.
    Stopped,
}

impl Service {
    /// Puts a model on a thread of its own.
    pub fn start(llm: Llm, settings: ServiceSettings) -> Service {
        let (to_engine, commands) = mpsc::channel();
        let (to_router, messages) = mpsc::channel();
        let desk = Desk {
            to_engine: to_engine.clone(),
            to_router,
            next: 0,
            submitted: Load::default(),
            stats: llm.engine.stats(),
            interval: None,
            draining: false,
            stopped: false,
        };
        let (file, tokenizer, engine) = llm.into_parts();
        let (desk, ended) = (Mutex::new(desk), Condvar::new());
        let shared = Arc::new(Shared { file, tokenizer, settings, desk, ended });
        let spawn = |name: &str, run: Box<dyn FnOnce() + Send>| {
            // fails only where the system has no thread left
            std::thread::Builder::new().name(name.to_owned()).spawn(run).ok()
        };
        let for_engine = Arc::clone(&shared);
        let threads = [
            spawn("smelt-engine", Box::new(move || run_engine(engine, &commands, for_engine))),
            spawn("smelt-answers", Box::new(move || hand_out(&messages, &to_engine))),
        ];
        if threads.iter().any(Option::is_none) {
            let mut desk = shared.desk();
            desk.stopped = true;
            // the other thread must not wait for the one that is missing
            let _ = (desk.to_router.send(Message::Stopped), desk.to_engine.send(Command::Stop));
        }
        Service { shared, threads: threads.into_iter().flatten().collect() }
    }

    /// Submits a request and returns its answers as they come.
    pub fn submit(&self, submission: &Submission) -> Result<Answers, Error> {
        let (send, answers) = mpsc::channel();
        let request = self.submit_with(submission, move |answer| {
            // nobody may wait for it any more
            let _ = send.send(answer);
        })?;
        Ok(Answers { request, answers, shared: Arc::clone(&self.shared), ended: false })
    }

    /// Submits a request whose answers are given to a function. It is called on a thread that serves all requests, so it
    /// must not block; if it panics, its request is cancelled.
    pub fn submit_with(
        &self,
        submission: &Submission,
        answers: impl FnMut(Answer) + Send + 'static,
    ) -> Result<RequestId, Error> {
        let Submission { prompt, params, priority, timeout } = submission;
        let tokenizer = self.shared.tokenizer.as_ref();
        // a queue that is full costs nothing more
        self.shared.desk().refuse(&self.shared.settings, 0)?;
        let prompt = tokens(tokenizer, prompt)?;
        let request =
            Request { prompt: prompt.clone(), params: params.clone(), priority: *priority, timeout: *timeout };
        Engine::check(self.shared.file.plan(), &request)?;
        let growing = Growing::new(tokenizer, prompt)?;
        let mut desk = self.shared.desk();
        let tokens = request.prompt.len();
        desk.refuse(&self.shared.settings, tokens)?;
        let id = RequestId(desk.next);
        let opened = desk.to_router.send(Message::Open(id, Box::new(growing), Box::new(answers)));
        if opened.is_err() || desk.to_engine.send(Command::Add(id, request)).is_err() {
            return Err(Refused::Stopped.into());
        }
        desk.next += 1;
        desk.submitted.requests += 1;
        desk.submitted.tokens += tokens;
        Ok(id)
    }

    /// Ends a request: no step that begins from now on computes anything for it. Its answer ends with what it has.
    pub fn cancel(&self, request: RequestId) {
        self.shared.cancel(request);
    }

    /// The plan.
    pub fn plan(&self) -> &PlanFile {
        &self.shared.file
    }

    /// A prompt as tokens, with the tokenizer's special tokens.
    pub fn tokens(&self, prompt: &Prompt) -> Result<Vec<u32>, Error> {
        tokens(self.shared.tokenizer.as_ref(), prompt)
    }

    /// What the engine does, and has done. Requests on their way to it wait.
    pub fn stats(&self) -> Stats {
        let desk = self.shared.desk();
        let mut stats = desk.stats.clone();
        stats.waiting += desk.submitted.requests;
        stats.waiting_tokens += desk.submitted.tokens;
        stats
    }

    /// Refuses requests from now on. Those that it has go on.
    pub fn drain(&self) {
        self.shared.desk().draining = true;
    }

    /// Refuses new requests, waits at most this long for those that it has, cancels the rest, and ends. Returns whether all
    /// had ended by themselves.
    pub fn shutdown(mut self, grace: Duration) -> bool {
        self.drain();
        let start = Instant::now();
        let mut desk = self.shared.desk();
        while !desk.stopped && desk.submitted.requests + desk.stats.waiting + desk.stats.running > 0 {
            let left = grace.saturating_sub(start.elapsed());
            if left.is_zero() {
                break;
            }
            desk = self.shared.ended.wait_timeout(desk, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        let done = desk.submitted.requests + desk.stats.waiting + desk.stats.running == 0;
        drop(desk);
        self.stop();
        done
    }

    fn stop(&mut self) {
        {
            let mut desk = self.shared.desk();
            desk.draining = true;
            let _ = desk.to_engine.send(Command::Stop);
        }
        // a thread that panicked has said so
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn desk(&self) -> MutexGuard<'_, Desk> {
        // nothing panics with it
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cancel(&self, request: RequestId) {
        let _ = self.desk().to_engine.send(Command::Cancel(request));
    }
}

impl Desk {
    /// Why a request with this many tokens is not taken, if it is not.
    fn refuse(&self, settings: &ServiceSettings, tokens: usize) -> Result<(), Refused> {
        if self.stopped {
            return Err(Refused::Stopped);
        }
        if self.draining {
            return Err(Refused::Draining);
        }
        let requests = self.stats.waiting + self.submitted.requests;
        let waiting = self.stats.waiting_tokens + self.submitted.tokens;
        let over = (requests + 1).saturating_sub(settings.max_waiting);
        if over > 0 || requests > 0 && waiting + tokens > settings.max_waiting_tokens {
            let each = self.interval.unwrap_or(Duration::from_secs(1));
            let retry_after = each.saturating_mul(u32::try_from(over.max(1)).unwrap_or(u32::MAX));
            let retry_after = retry_after.clamp(Duration::from_millis(10), Duration::from_secs(60));
            return Err(Refused::Full { retry_after });
        }
        Ok(())
    }

    /// Takes over what the engine says after a step that took this load from those submitted, in this time.
    fn update(&mut self, stats: Stats, taken: Load, time: Duration) {
        let left = (self.stats.waiting + taken.requests).saturating_sub(stats.waiting);
        if let Ok(left) = u32::try_from(left)
            && left > 0
        {
            let each = time / left;
            self.interval = Some(self.interval.map_or(each, |before| (before * 7 + each) / 8));
        }
        self.submitted.requests -= taken.requests;
        self.submitted.tokens -= taken.tokens;
        self.stats = stats;
    }
}

/// The engine's thread: commands, then a step, again and again. Waits for a command where there is nothing to do.
fn run_engine(mut engine: Engine, commands: &Receiver<Command>, shared: Arc<Shared>) {
    /// Says that the thread has ended, however it does.
    struct Stopped(Arc<Shared>);
    impl Drop for Stopped {
        fn drop(&mut self) {
            let mut desk = self.0.desk();
            desk.stopped = true;
            let _ = desk.to_router.send(Message::Stopped);
            self.0.ended.notify_all();
        }
    }
    let shared = Stopped(shared);
    let to_router = shared.0.desk().to_router.clone();
    let mut left_at = Instant::now();
    let mut stop = false;
    while !stop {
        let mut taken = Load::default();
        let mut next = commands.try_recv().ok();
        if next.is_none() && !engine.has_work() {
            next = commands.recv().ok();
            left_at = Instant::now();
        }
        while let Some(command) = next {
            match command {
                Command::Add(id, request) => {
                    taken.requests += 1;
                    taken.tokens += request.prompt.len();
                    engine.add_as(id, request);
                }
                Command::Cancel(id) => engine.cancel(id),
                Command::Stop => stop = true,
            }
            next = commands.try_recv().ok();
        }
        if stop {
            engine.cancel_all();
        }
        let events = engine.step();
        let at = Instant::now();
        let ended = events.iter().any(|event| event.done);
        if !events.is_empty() && to_router.send(Message::Events(events, at)).is_err() {
            break;
        }
        shared.0.desk().update(engine.stats(), taken, at - std::mem::replace(&mut left_at, at));
        if ended {
            shared.0.ended.notify_all();
        }
    }
}

/// Hands answers out until the engine's thread has ended.
fn hand_out(messages: &Receiver<Message>, to_engine: &Sender<Command>) {
    let mut open: HashMap<RequestId, (Box<Growing>, Sink)> = HashMap::new();
    for message in messages {
        let (events, at) = match message {
            Message::Open(id, growing, sink) => {
                open.insert(id, (growing, sink));
                continue;
            }
            Message::Events(events, at) => (events, at),
            Message::Stopped => break,
        };
        for event in events {
            let request = event.request;
            let Some((growing, sink)) = open.get_mut(&request) else { continue };
            let answer = growing.answer(event, at);
            let (end, failed) = (answer.end.is_some(), answer.end.as_ref().is_some_and(Result::is_err));
            let panicked = !give(sink, answer);
            if failed || panicked {
                // the engine may not know
                let _ = to_engine.send(Command::Cancel(request));
            }
            if end || panicked {
                open.remove(&request);
            }
        }
    }
    for (request, (_, mut sink)) in open {
        give(&mut sink, stopped(request));
    }
}

/// The last answer of a request whose engine has stopped.
fn stopped(request: RequestId) -> Answer {
    let end = Some(Err(Refused::Stopped.into()));
    Answer { request, at: Instant::now(), token: None, text: None, end }
}

/// Calls a function of a caller's. Returns whether it did not panic.
fn give(sink: &mut Sink, answer: Answer) -> bool {
    catch_unwind(AssertUnwindSafe(|| sink(answer))).is_ok()
}

/// The answers of a request, one for each of its tokens. The last one has an end. Dropping them before cancels the request.
#[derive(Debug)]
pub struct Answers {
    request: RequestId,
    answers: Receiver<Answer>,
    shared: Arc<Shared>,
    ended: bool,
}

impl Answers {
    /// The request.
    pub fn request(&self) -> RequestId {
        self.request
    }

    /// Waits for the end, and returns all that was generated.
    pub fn wait(mut self) -> Result<(crate::Generation, crate::GenerateTimings), Error> {
        self.find_map(|answer| answer.end).unwrap_or(Err(Refused::Stopped.into()))
    }
}

impl Iterator for Answers {
    type Item = Answer;

    fn next(&mut self) -> Option<Answer> {
        if self.ended {
            return None;
        }
        let answer = self.answers.recv().unwrap_or_else(|_| stopped(self.request));
        self.ended = answer.end.is_some();
        Some(answer)
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        if !self.ended {
            self.shared.cancel(self.request);
        }
    }
}
