//! A model that many threads ask gives each the answer that it gives alone, and forgets those that have gone.

mod common;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use common::demo;
use smelt::{
    CompileOptions, Driver, EngineStats, Error, FinishReason, GenerationParams, Llm, LoadOptions, Prompt, Quiet,
    Refused, Service, ServiceSettings, Submission,
};

/// The demo model with so many places.
fn llm(max_batch_size: u32) -> Llm {
    let compile = CompileOptions {
        max_batch_size: Some(max_batch_size),
        max_seq_len: Some(512),
        max_num_tokens: Some(64),
        ..CompileOptions::default()
    };
    let options = LoadOptions { compile, ..LoadOptions::default() };
    Llm::load_with(&Driver::new(), &demo(), &options, &mut Quiet).unwrap()
}

fn service(max_batch_size: u32) -> Service {
    Service::start(llm(max_batch_size), ServiceSettings::default())
}

/// A request that goes on for a while.
fn long() -> Submission {
    let params = GenerationParams { max_tokens: 500, ignore_eos: true, logits: false };
    Submission::new(vec![5, 6, 7], params)
}

/// Waits until the engine says something of itself.
fn until(service: &Service, what: impl Fn(&EngineStats) -> bool) -> EngineStats {
    let start = Instant::now();
    loop {
        let stats = service.stats();
        if what(&stats) {
            return stats;
        }
        assert!(start.elapsed() < Duration::from_secs(60), "{stats:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn threads_get_the_answers_of_requests_alone() {
    let texts = ["If the vector", "The file", "", "for (int i", "é"];
    let params = |index: usize| GenerationParams { max_tokens: 10 + index as u32 * 3, ..GenerationParams::default() };
    let prompt = |index: usize| Prompt::from(texts[index % texts.len()]);
    let mut alone = llm(1);
    let expected: Vec<_> =
        (0..20).map(|index| alone.generate(&[prompt(index)], &params(index)).unwrap().remove(0)).collect();
    let service = service(6);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (service, expected) = (&service, &expected);
            scope.spawn(move || {
                for index in (thread..20).step_by(4) {
                    let mut answers = service.submit(&Submission::new(prompt(index), params(index))).unwrap();
                    let (mut ids, mut text, mut end) = (Vec::new(), String::new(), None);
                    for answer in answers.by_ref() {
                        ids.extend(answer.token);
                        text.push_str(&answer.text.unwrap_or_default());
                        end = answer.end;
                    }
                    let (generation, timings) = end.unwrap().unwrap();
                    assert_eq!(generation, expected[index]);
                    assert_eq!((ids, Some(text)), (generation.token_ids, generation.text));
                    assert!(timings.prefill_ms > 0.0 && answers.next().is_none());
                }
            });
        }
    });
    let stats = until(&service, |stats| stats.running == 0);
    assert_eq!((stats.waiting, stats.waiting_tokens, stats.blocks_used), (0, 0, 0));
    assert!(service.shutdown(Duration::ZERO), "nothing was left");
}

#[test]
fn answers_that_nobody_takes_are_cancelled() {
    let service = service(2);
    let mut answers = service.submit(&long()).unwrap();
    let kept = service.submit(&long()).unwrap();
    let waiting = service.submit(&long()).unwrap();
    for _ in 0..3 {
        assert!(answers.next().unwrap().token.is_some());
    }
    drop((answers, waiting));
    let (generation, _) = kept.wait().unwrap();
    assert_eq!(generation.token_ids.len(), 500);
    let stats = until(&service, |stats| stats.running == 0 && stats.waiting == 0);
    assert_eq!(stats.blocks_used, 0);
    assert!(stats.computed_tokens < 2 * 503, "{stats:?}");
    // and by name
    let mut cancelled = service.submit(&long()).unwrap();
    service.cancel(cancelled.request());
    let last = cancelled.by_ref().last().unwrap();
    assert_eq!(last.end.unwrap().unwrap().0.finish_reason, FinishReason::Cancelled);
}

#[test]
fn what_does_not_fit_the_queue_is_refused_and_costs_nothing() {
    let service = Service::start(llm(1), ServiceSettings { max_waiting: 3, max_waiting_tokens: 10 });
    let running = service.submit(&long()).unwrap();
    until(&service, |stats| stats.running == 1);
    // three tokens each
    let mut waiting: Vec<_> = (0..3).map(|_| service.submit(&long()).unwrap()).collect();
    let refused = |service: &Service| match service.submit(&long()) {
        Err(Error::Refused(refused)) => refused,
        other => panic!("{other:?}"),
    };
    let Refused::Full { retry_after } = refused(&service) else { panic!("not full") };
    assert!((Duration::from_millis(10)..=Duration::from_secs(60)).contains(&retry_after));
    waiting.pop();
    until(&service, |stats| stats.waiting == 2);
    // a place, but no room for as many tokens
    let big = Submission { prompt: Prompt::Tokens(vec![5; 5]), ..long() };
    assert!(matches!(service.submit(&big), Err(Error::Refused(Refused::Full { .. }))));
    waiting.push(service.submit(&long()).unwrap());
    drop((running, waiting));
    until(&service, |stats| stats.running + stats.waiting == 0);
    // alone it is taken, however long
    let params = GenerationParams { max_tokens: 5, ignore_eos: true, logits: false };
    let big = Submission::new(vec![5; 40], params);
    assert_eq!(service.submit(&big).unwrap().wait().unwrap().0.token_ids.len(), 5);
    // what the plan has no room for is an error of its own
    let endless = GenerationParams { max_tokens: 1000, ..GenerationParams::default() };
    assert!(matches!(service.submit(&Submission::new(vec![5], endless)), Err(Error::Engine(_))));
}

#[test]
fn a_request_ends_when_its_time_is_over() {
    let service = service(1);
    let running = service.submit(&Submission { timeout: Some(Duration::from_millis(40)), ..long() }).unwrap();
    // it waits for all of its time
    let waiting = service.submit(&Submission { timeout: Some(Duration::from_millis(1)), ..long() }).unwrap();
    let (generation, _) = waiting.wait().unwrap();
    assert_eq!((generation.finish_reason, generation.token_ids.len()), (FinishReason::Timeout, 0));
    let (generation, _) = running.wait().unwrap();
    assert_eq!(generation.finish_reason, FinishReason::Timeout);
    assert!(generation.token_ids.len() < 500);
    let (generation, _) =
        service.submit(&Submission { timeout: Some(Duration::MAX), ..long() }).unwrap().wait().unwrap();
    assert_eq!(generation.finish_reason, FinishReason::Length);
}

#[test]
fn a_service_that_shuts_down_finishes_what_it_has() {
    let first = service(1);
    let waiting: Vec<_> = (0..3).map(|_| first.submit(&long()).unwrap()).collect();
    first.drain();
    assert!(matches!(first.submit(&long()), Err(Error::Refused(Refused::Draining))));
    assert!(first.shutdown(Duration::from_secs(120)));
    for answers in waiting {
        assert_eq!(answers.wait().unwrap().0.token_ids.len(), 500);
    }
    let forever = service(1);
    let answers = forever.submit(&long()).unwrap();
    assert!(forever.shutdown(Duration::MAX));
    assert_eq!(answers.wait().unwrap().0.token_ids.len(), 500);
    // or cancels it, where there is no time
    let second = service(1);
    let waiting: Vec<_> = (0..3).map(|_| second.submit(&long()).unwrap()).collect();
    assert!(!second.shutdown(Duration::from_millis(20)));
    for answers in waiting {
        assert_eq!(answers.wait().unwrap().0.finish_reason, FinishReason::Cancelled);
    }
}

#[test]
fn a_function_that_panics_or_blocks_for_a_moment_harms_nobody() {
    let service = service(2);
    let (send, ended) = mpsc::channel();
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    service
        .submit_with(&long(), move |_| {
            counted.fetch_add(1, Ordering::Relaxed);
            panic!("a caller's own, which is meant to be seen here");
        })
        .unwrap();
    service
        .submit_with(&long(), move |answer| {
            if let Some(end) = answer.end {
                send.send(end).unwrap();
            }
        })
        .unwrap();
    let (generation, _) = ended.recv_timeout(Duration::from_secs(60)).unwrap().unwrap();
    assert_eq!(generation.token_ids.len(), 500);
    until(&service, |stats| stats.running == 0);
    assert_eq!(calls.load(Ordering::Relaxed), 1);
}
