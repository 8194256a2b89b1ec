//! An engine that submits a step before it has read the last one's tokens generates the same texts, whichever request
//! ends when. The CPU computes during `submit`, so here its session only claims to run ahead.

mod common;

use std::sync::Arc;

use common::demo;
use engine::{Engine, GenerationParams, Request, RequestId};
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
        if bindings.inputs.iter().any(|(_, data)| matches!(data, InputData::Previous(_))) {
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
