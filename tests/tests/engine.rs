//! Requests that share a plan generate what they generate alone: whichever come and go, wherever their blocks are, and
//! also where a step is submitted before the last one's tokens were read. The CPU computes during `submit`, so here its
//! session only claims to run ahead.

mod common;

use std::collections::HashMap;
use std::sync::Arc;

use common::{demo, oracle};
use engine::{Engine, FinishReason, GenerationParams, Policy, Request, RequestId, Settings};
use plan::{Bindings, ExecError, Executor, InputData, PlanFile, PortData, Session, StepId};
use runtime::CpuExecutor;
use smelt::{CompileOptions, Driver, Quiet};

/// A session that claims to run ahead, and counts the steps that took their tokens from the previous step.
struct Ahead {
    session: Box<dyn Session>,
    fed_back: Arc<std::sync::atomic::AtomicUsize>,
    ahead: bool,
}

impl Session for Ahead {
    fn runs_ahead(&self) -> bool {
        self.ahead
    }

    fn submit(&mut self, program: usize, bindings: &Bindings<'_>) -> Result<StepId, ExecError> {
        if bindings.inputs.iter().any(|(_, data)| matches!(data, InputData::Forwarded { .. })) {
            self.fed_back.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
        self.session.submit(program, bindings)
    }

    fn wait(&mut self, step: StepId) -> Result<(), ExecError> {
        self.session.wait(step)
    }

    fn read(&mut self, step: StepId, port: &str) -> Result<PortData, ExecError> {
        self.session.read(step, port)
    }
}

/// The tokens of each request, and the number of fed-back steps.
fn run(file: &Arc<PlanFile>, ahead: bool, requests: &[(Vec<u32>, u32, bool)]) -> (Vec<Vec<u32>>, usize) {
    let fed_back = Arc::default();
    let session = CpuExecutor::new(Some(2)).unwrap().load(Arc::clone(file)).unwrap();
    let session = Ahead { session, fed_back: Arc::clone(&fed_back), ahead };
    let mut engine = Engine::new(Arc::clone(file), Box::new(session)).unwrap();
    let add = |engine: &mut Engine, (prompt, max_tokens, ignore_eos): &(Vec<u32>, u32, bool)| -> RequestId {
        let params = GenerationParams { max_tokens: *max_tokens, ignore_eos: *ignore_eos, logits: false };
        engine.add(Request { prompt: prompt.clone(), params, ..Request::default() }).unwrap()
    };
    // the first ones at once, the others while they run
    let mut ids: Vec<RequestId> = requests.iter().take(3).map(|request| add(&mut engine, request)).collect();
    let mut texts: Vec<Vec<u32>> = vec![Vec::new(); requests.len()];
    let mut later = requests.iter().skip(3);
    let mut steps = 0;
    while engine.has_work() || later.len() > 0 {
        steps += 1;
        if steps % 7 == 0 || !engine.has_work() {
            ids.extend(later.next().map(|request| add(&mut engine, request)));
        }
        for event in engine.step() {
            let index = ids.iter().position(|id| *id == event.request).unwrap();
            texts[index].extend(event.token);
        }
    }
    (texts, fed_back.load(std::sync::atomic::Ordering::Relaxed))
}

#[test]
fn a_request_with_a_place_does_not_wait_for_others_to_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("demo.plan");
    let options = CompileOptions { max_batch_size: Some(4), max_seq_len: Some(256), ..CompileOptions::default() };
    Driver::new().compile(&demo(), &path, &options, &mut Quiet).unwrap();
    let file = Arc::new(PlanFile::open(&path).unwrap());
    let session = CpuExecutor::new(Some(2)).unwrap().load(Arc::clone(&file)).unwrap();
    let session = Ahead { session, fed_back: Arc::default(), ahead: true };
    let mut engine = Engine::new(file, Box::new(session)).unwrap();
    let request = |max_tokens| {
        let params = GenerationParams { max_tokens, ignore_eos: true, logits: false };
        Request { prompt: vec![5, 6, 7], params, ..Request::default() }
    };
    engine.add(request(200)).unwrap();
    for _ in 0..10 {
        engine.step();
    }
    let late = engine.add(request(5)).unwrap();
    let first = (0..10).find(|_| engine.step().iter().any(|event| event.request == late && event.token.is_some()));
    assert!(first.is_some_and(|steps| steps <= 2), "{first:?}");
}

#[test]
fn running_ahead_changes_no_text() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("demo.plan");
    let options = CompileOptions {
        max_batch_size: Some(4),
        max_seq_len: Some(256),
        max_num_tokens: Some(64),
        // little room: blocks are reassigned while steps are running
        kv_cache_bytes: Some(10 * 64 * 1024 * 4),
        ..CompileOptions::default()
    };
    Driver::new().compile(&demo(), &path, &options, &mut Quiet).unwrap();
    let file = Arc::new(PlanFile::open(&path).unwrap());
    let mut plan = file.plan().clone();
    // common tokens are stop tokens, so that some requests end unexpectedly
    let (texts, _) = run(&file, false, &[(vec![5, 6, 7], 60, true)]);
    plan.model.eos = vec![texts[0][20], texts[0][35]];
    let mut writer = plan::PlanWriter::create(&path).unwrap();
    writer.append(file.weights()).unwrap();
    writer.finish(&plan).unwrap();
    let file = Arc::new(PlanFile::open(&path).unwrap());
    let requests: Vec<(Vec<u32>, u32, bool)> = (0..12u32)
        .map(|index| {
            (
                (0..1 + index * 5 % 40).map(|at| (index * 31 + at * 7) % 900).collect(),
                5 + index * 13 % 70,
                index % 4 == 3,
            )
        })
        .chain([(vec![5, 6, 7], 60, false), (vec![5, 6, 7], 60, true)])
        .collect();
    let (expected, none) = run(&file, false, &requests);
    let (found, fed_back) = run(&file, true, &requests);
    assert_eq!(found, expected);
    assert_eq!(none, 0);
    assert!(fed_back > 50, "{fed_back}");
    let ended = expected.iter().zip(&requests).filter(|(text, request)| text.len() < request.1 as usize).count();
    assert!(ended >= 1, "no text ended early");
}

/// Random numbers.
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % most
    }
}

/// A prompt with one of three beginnings.
fn prompt(dice: &mut Dice) -> Vec<u32> {
    let (text, length) = (dice.below(3) as u32, 1 + dice.below(90) as u32);
    (0..length).map(|at| 3 + (at * 7 + text * (at / 20) * 31) % 300).collect()
}

#[test]
fn requests_together_generate_what_they_do_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.plan");
    let options = CompileOptions {
        max_batch_size: Some(5),
        max_seq_len: Some(192),
        max_num_tokens: Some(48),
        // 5 blocks of 64 tokens: keys and values of 3 layers with 2 heads of 16 in f32
        kv_cache_bytes: Some(5 * 64 * 3 * 2 * 2 * 16 * 4),
        ..CompileOptions::default()
    };
    Driver::new().compile(&oracle("llama-gqa-tied-llama3-rope"), &path, &options, &mut Quiet).unwrap();
    let file = Arc::new(PlanFile::open(&path).unwrap());
    let engine = |ahead, settings| {
        let session = CpuExecutor::new(Some(1)).unwrap().load(Arc::clone(&file)).unwrap();
        let session = Ahead { session, fed_back: Arc::default(), ahead };
        Engine::with_settings(Arc::clone(&file), Box::new(session), settings).unwrap()
    };
    let mut alone = engine(false, Settings { prefix_cache: false, ..Settings::default() });
    let mut known: HashMap<Vec<u32>, Vec<u32>> = HashMap::new();
    let mut dice = Dice(1);
    let (mut preemptions, mut cached, mut cancelled) = (0, 0, 0);
    for workload in 0..60u32 {
        let policy = Policy::ALL[workload as usize % 3];
        let mut engine = engine(workload % 2 == 0, Settings { policy, prefix_cache: workload % 5 > 0, aging_ms: 3 });
        let mut asked: HashMap<RequestId, (Vec<u32>, u32)> = HashMap::new();
        let mut texts: HashMap<RequestId, Vec<u32>> = HashMap::new();
        let mut ends: HashMap<RequestId, FinishReason> = HashMap::new();
        let mut left = 4 + dice.below(10);
        while left > 0 || engine.has_work() {
            if left > 0 && (dice.below(3) == 0 || !engine.has_work()) {
                left -= 1;
                let (prompt, max_tokens) = (prompt(&mut dice), dice.below(60) as u32);
                let params = GenerationParams { max_tokens, ..GenerationParams::default() };
                let priority = dice.below(3) as u8;
                let request = Request { prompt: prompt.clone(), params, priority, timeout: None };
                asked.insert(engine.add(request).unwrap(), (prompt, max_tokens));
            }
            if dice.below(40) == 0 {
                let open: Vec<RequestId> = asked.keys().filter(|id| !ends.contains_key(id)).copied().collect();
                open.iter().min().into_iter().for_each(|id| engine.cancel(*id));
            }
            for event in engine.step() {
                assert!(event.failed.is_none() && !ends.contains_key(&event.request), "{event:?}");
                texts.entry(event.request).or_default().extend(event.token);
                if event.done {
                    ends.insert(event.request, event.finished.unwrap());
                }
            }
        }
        let stats = engine.stats();
        assert_eq!((stats.blocks_used, stats.running, stats.waiting), (0, 0, 0));
        (preemptions, cached) = (preemptions + stats.preemptions, cached + stats.cached_tokens);
        for (request, (prompt, max_tokens)) in asked {
            let text = texts.remove(&request).unwrap_or_default();
            let whole = known.entry(prompt.clone()).or_insert_with(|| {
                let params = GenerationParams { max_tokens: 60, ..GenerationParams::default() };
                alone.add(Request { prompt, params, ..Request::default() }).unwrap();
                let mut text = Vec::new();
                while alone.has_work() {
                    text.extend(alone.step().into_iter().filter_map(|event| event.token));
                }
                text
            });
            let whole = &whole[..whole.len().min(max_tokens as usize)];
            match ends[&request] {
                FinishReason::Cancelled => {
                    cancelled += 1;
                    assert!(whole.starts_with(&text), "workload {workload}");
                }
                _ => assert_eq!(text, whole, "workload {workload}"),
            }
        }
    }
    assert!(preemptions > 0 && cached > 0 && cancelled > 0, "{preemptions} {cached} {cancelled}");
}
