//! Properties of the core, on a simulated device that checks what it is pointed at.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use proptest::prelude::*;

use super::sequence::Place;
use super::{Core, Output, Policy, Room, Settings, Stats};
use crate::{FinishReason, GenerationParams, Request, RequestId};

const EOS: u32 = 0;

/// The token after a text.
fn next(text: &[u32]) -> u32 {
    let hash = text.iter().fold(17u64, |hash, token| (hash ^ u64::from(*token)).wrapping_mul(0x0100_0000_01b3));
    // one of 23 is the stop token
    ((hash >> 20) % 23) as u32
}

/// What a request generates alone.
fn alone(prompt: &[u32], max_tokens: u32) -> Vec<u32> {
    let mut text = prompt.to_vec();
    for _ in 0..max_tokens {
        text.push(next(&text));
        if text.last() == Some(&EOS) {
            break;
        }
    }
    text.split_off(prompt.len())
}

/// A KV cache of positions and tokens instead of keys and values. Each row writes its own, then reads its whole context.
struct Device {
    block_tokens: usize,
    cache: Vec<(usize, u32)>,
    results: VecDeque<Vec<i32>>,
    last: Vec<i32>,
}

impl Device {
    fn new(room: &Room) -> Device {
        let cache = vec![(usize::MAX, 0); room.blocks as usize * room.block_tokens];
        Device { block_tokens: room.block_tokens, cache, results: VecDeque::new(), last: Vec::new() }
    }

    /// Runs the step that was planned last.
    fn run(&mut self, core: &Core) {
        let step = core.planned().unwrap();
        let mut chosen = Vec::new();
        for chunk in &step.chunks {
            let sequence = core.sequence_of(chunk).unwrap();
            let place = |position: usize| {
                sequence.blocks[position / self.block_tokens] as usize * self.block_tokens
                    + position % self.block_tokens
            };
            for position in chunk.start..chunk.start + chunk.tokens {
                let token = match sequence.tokens.get(position) {
                    Some(token) => *token,
                    None => self.last[chunk.chosen_by.unwrap() as usize] as u32,
                };
                self.cache[place(position)] = (position, token);
            }
            let end = chunk.start + chunk.tokens;
            for row in end - chunk.rows..end {
                let context = (0..=row).map(|position| {
                    let (found, token) = self.cache[place(position)];
                    assert_eq!(found, position, "a block of request {:?} holds other tokens", sequence.request);
                    token
                });
                chosen.push(next(&context.collect::<Vec<u32>>()) as i32);
            }
        }
        self.last.clone_from(&chosen);
        self.results.push_back(chosen);
    }
}

/// A request, when it comes, when it is cancelled, and how long it may take.
#[derive(Clone, Debug)]
struct Asked {
    prompt: Vec<u32>,
    max_tokens: u32,
    priority: u8,
    at: u64,
    cancelled: Option<u64>,
    timeout: Option<u64>,
}

/// A request that comes at once.
fn asked(prompt: Vec<u32>, max_tokens: u32) -> Asked {
    Asked { prompt, max_tokens, priority: 0, at: 0, cancelled: None, timeout: None }
}

/// What became of each request: its tokens, why it ended, and when.
struct Outcome {
    texts: Vec<Vec<u32>>,
    ends: Vec<(FinishReason, u64)>,
    steps: u64,
    stats: Stats,
}

fn room(sequences: usize, tokens: usize, blocks: u32) -> Room {
    Room { sequences, tokens, rows: sequences, block_tokens: 4, blocks, max_seq_len: 4096, eos: vec![EOS] }
}

/// Runs requests until they end, and checks everything after each step.
fn run(room: &Room, settings: &Settings, ahead: bool, requests: &[Asked]) -> Outcome {
    let mut core = Core::new(room.clone(), settings.clone());
    let mut device = Device::new(room);
    let mut out: Vec<Output> = Vec::new();
    let mut ids: HashMap<RequestId, usize> = HashMap::new();
    let mut by_request: Vec<Option<RequestId>> = vec![None; requests.len()];
    let mut texts = vec![Vec::new(); requests.len()];
    let mut ends: Vec<Option<(FinishReason, u64)>> = vec![None; requests.len()];
    for now in 0.. {
        assert!(now < 1_000_000, "requests never end");
        for (index, asked) in requests.iter().enumerate() {
            if asked.at == now {
                let params = GenerationParams { max_tokens: asked.max_tokens, ..GenerationParams::default() };
                let timeout = asked.timeout.map(Duration::from_millis);
                let request = Request { prompt: asked.prompt.clone(), params, priority: asked.priority, timeout };
                let id = RequestId(index as u64);
                out.extend(core.add(now, id, request));
                by_request[index] = Some(id);
                ids.insert(id, index);
            }
            if let (true, Some(id)) = (asked.cancelled == Some(now), by_request[index]) {
                out.extend(core.cancel(id));
                let planned = core.running.iter().any(|index| core.sequences[*index as usize].request == id);
                assert!(!planned, "a cancelled request has no place in the next step");
            }
        }
        core.expire(now, &mut out);
        if core.under_way() == 0 && core.plan() {
            device.run(&core);
        }
        if ahead && core.under_way() == 1 && core.plan() {
            device.run(&core);
        }
        if let Some(chosen) = device.results.pop_front() {
            core.complete(&chosen, &mut out);
        }
        for output in out.drain(..) {
            let index = ids[&output.request];
            assert!(ends[index].is_none(), "request {index} has ended");
            texts[index].extend(output.token.map(|token| token as u32));
            if output.done {
                ends[index] = Some((output.finished.unwrap(), now));
            }
        }
        check(&core);
        if requests.iter().all(|asked| asked.at <= now) && !core.has_work() {
            assert_eq!((core.stats().blocks_used, core.queue.len), (0, 0));
            let ends = ends.into_iter().map(Option::unwrap).collect();
            return Outcome { texts, ends, steps: now + 1, stats: core.stats() };
        }
    }
    unreachable!("the loop returns")
}

/// The invariants of queues and blocks.
fn check(core: &Core) {
    core.pool.check();
    let mut owners = vec![0; core.pool.all()];
    for sequence in &core.sequences {
        assert!(sequence.place == Place::Running || sequence.blocks.is_empty());
        sequence.blocks.iter().for_each(|block| owners[*block as usize] += 1);
    }
    for (block, owners) in (0..).zip(owners) {
        assert_eq!(core.pool.owners(block), owners, "owners of block {block}");
    }
    let places = core.running.iter().filter(|index| core.sequences[**index as usize].goes_on());
    assert!(places.count() <= core.room.sequences);
    if let Some(step) = core.planned() {
        assert!(step.chunks.len() <= core.room.sequences);
        let sum = |of: fn(&super::Chunk) -> usize| step.chunks.iter().map(of).sum::<usize>();
        assert!(sum(|chunk| chunk.tokens) <= core.room.tokens && sum(|chunk| chunk.rows) <= core.room.rows);
    }
}

/// A prompt of one of a few texts, so that beginnings are shared.
fn prompt(text: u32, length: usize) -> Vec<u32> {
    (0..length as u32).map(|at| 1 + (at * 7 + text * (at / 9)) % 19).collect()
}

fn any_request() -> impl Strategy<Value = Asked> {
    let sometimes = || prop_oneof![4 => Just(None), 1 => (0u64..60).prop_map(Some)];
    (0u32..3, 1usize..40, 0u32..30, 0u8..3, 0u64..40, sometimes(), sometimes()).prop_map(
        |(text, length, max_tokens, priority, at, after, timeout)| Asked {
            prompt: prompt(text, length),
            max_tokens,
            priority,
            at,
            cancelled: after.map(|after| at + after),
            timeout,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Whatever comes and goes, in whatever pool: each request generates what it generates alone.
    #[test]
    fn texts_are_those_of_requests_alone(
        requests in prop::collection::vec(any_request(), 1..24),
        sequences in 1usize..6,
        tokens in 1usize..40,
        // a sequence of 40 + 30 tokens takes 18 blocks
        blocks in 18u32..60,
        policy in prop::sample::select(Policy::ALL.to_vec()),
        prefix_cache: bool,
        ahead: bool,
    ) {
        let room = Room { tokens: tokens.max(sequences), ..room(sequences, 0, blocks) };
        let settings = Settings { policy, prefix_cache, aging_ms: 20 };
        let outcome = run(&room, &settings, ahead, &requests);
        for ((asked, text), (end, at)) in requests.iter().zip(&outcome.texts).zip(&outcome.ends) {
            let whole = alone(&asked.prompt, asked.max_tokens);
            prop_assert!(asked.timeout.is_none_or(|timeout| *at <= asked.at + timeout));
            match end {
                FinishReason::Cancelled | FinishReason::Timeout => prop_assert!(whole.starts_with(text)),
                _ => prop_assert_eq!(text, &whole),
            }
        }
        if policy == Policy::GuaranteedNoEvict {
            prop_assert_eq!(outcome.stats.preemptions, 0);
        }
    }
}

#[test]
fn a_common_beginning_is_computed_once() {
    let shared = prompt(0, 400);
    let requests: Vec<Asked> = (0..16u32)
        .map(|index| Asked { at: u64::from(index > 0) * 4, ..asked([&shared[..], &[1 + index, 5]].concat(), 4) })
        .collect();
    let outcome = run(&room(16, 512, 200), &Settings::default(), false, &requests);
    assert_eq!(outcome.stats.cached_tokens, 15 * 400);
    assert!(outcome.stats.computed_tokens <= 400 + 16 * (2 + 4 + 4), "{:?}", outcome.stats);
    let settings = Settings { prefix_cache: false, ..Settings::default() };
    let outcome = run(&room(16, 512, 2000), &settings, false, &requests);
    assert_eq!(outcome.stats.cached_tokens, 0);
}

#[test]
fn sequences_that_outgrow_the_pool_are_computed_again() {
    let requests: Vec<Asked> = (0..12).map(|index| asked(prompt(index, 9), 60)).collect();
    let settings = Settings { policy: Policy::MaxUtilization, ..Settings::default() };
    let outcome = run(&room(12, 64, 40), &settings, true, &requests);
    assert!(outcome.stats.preemptions > 0);
    for (asked, text) in requests.iter().zip(&outcome.texts) {
        assert_eq!(text, &alone(&asked.prompt, asked.max_tokens));
    }
}

#[test]
fn what_is_allowed_costs_nothing_until_it_is_made() {
    // outputs end at ten tokens or so, and a hundred times as many are allowed
    let requests = |max_tokens| -> Vec<Asked> {
        (0..400).map(|index| Asked { at: u64::from(index) / 4, ..asked(prompt(index, 8), max_tokens) }).collect()
    };
    let steps = |policy, max_tokens| {
        let settings = Settings { policy, ..Settings::default() };
        let outcome = run(&room(16, 64, 300), &settings, false, &requests(max_tokens));
        (outcome.steps, outcome.stats.preemptions)
    };
    let (likely, preempted) = steps(Policy::Likely, 1000);
    let (guaranteed, none) = steps(Policy::GuaranteedNoEvict, 1000);
    assert_eq!((preempted, none), (0, 0));
    assert!(likely * 12 < guaranteed * 10, "{likely} against {guaranteed} steps");
}

#[test]
fn a_lower_class_goes_first_and_none_waits_for_ever() {
    let ends = |aging_ms| {
        // one place, a stream of requests of class 0, and one of class 7 that came first
        let mut requests: Vec<Asked> =
            (0..60).map(|index| Asked { at: index, ..asked(prompt(index as u32, 5), 3) }).collect();
        requests.insert(0, Asked { priority: 7, ..asked(prompt(0, 6), 3) });
        requests.insert(0, asked(prompt(1, 6), 3));
        let settings = Settings { aging_ms, ..Settings::default() };
        let outcome = run(&room(1, 64, 40), &settings, false, &requests);
        let (_, last) = outcome.ends[1];
        outcome.ends.iter().filter(|(_, end)| *end > last).count()
    };
    assert_eq!(ends(1_000), 0, "it is the last");
    // it is overtaken only by those that come within 7 * 2 ms after it
    assert!(ends(2) >= 60 - 14 - 1, "{}", ends(2));
}

#[test]
fn a_prompt_goes_on_while_others_decode_however_small_steps_are() {
    // two decode, and a step has room for one token more, which is less than a block
    let mut requests: Vec<Asked> = (0..2).map(|index| asked(prompt(index, 3), 60)).collect();
    let text = (1..1000).map(|first| vec![first, 5, 7]).find(|prompt| alone(prompt, 60).len() == 60);
    requests.iter_mut().for_each(|asked| asked.prompt.clone_from(text.as_ref().unwrap()));
    requests.push(Asked { at: 4, ..asked(prompt(2, 10), 1) });
    let outcome = run(&room(3, 3, 60), &Settings::default(), false, &requests);
    assert!(outcome.ends[2].1 <= 4 + 11 && outcome.ends[0].1 > 50, "{:?}", outcome.ends);
}

#[test]
fn steps_run_ahead_whoever_comes_and_goes() {
    let requests: Vec<Asked> = (0..200)
        .map(|index| Asked {
            at: u64::from(index),
            ..asked(prompt(index, 3 + index as usize * 7 % 60), 1 + index * 5 % 20)
        })
        .collect();
    let ahead = run(&room(4, 24, 200), &Settings::default(), true, &requests).stats;
    assert!(ahead.steps_ahead * 100 >= ahead.steps * 99, "{ahead:?}");
    let in_order = run(&room(4, 24, 200), &Settings::default(), false, &requests).stats;
    assert_eq!(in_order.steps_ahead, 0);
    // a step ahead has a row for nobody only where a text ends with a stop token
    assert!(ahead.computed_tokens < in_order.computed_tokens + 200, "{ahead:?} {in_order:?}");
}

#[test]
fn a_place_is_free_once_the_last_token_is_under_way() {
    // one place, texts of one token each: a step for each, none of them empty
    let requests: Vec<Asked> = (0..50).map(|index| asked(prompt(index, 8), 1)).collect();
    let outcome = run(&room(1, 64, 200), &Settings::default(), true, &requests);
    assert_eq!(outcome.stats.steps, 50);
    assert!(outcome.steps <= 52, "{}", outcome.steps);
}

#[test]
fn a_row_without_a_token_fails_its_request_alone() {
    let room = room(2, 64, 40);
    let mut core = Core::new(room, Settings::default());
    let params = GenerationParams { max_tokens: 3, ..GenerationParams::default() };
    let mut add = |id| {
        let request = Request { prompt: prompt(id as u32, 5), params: params.clone(), ..Request::default() };
        assert!(core.add(0, RequestId(id), request).is_none());
        RequestId(id)
    };
    let (first, second) = (add(0), add(1));
    assert!(core.plan());
    let mut out = Vec::new();
    core.complete(&[-1, 4], &mut out);
    let ends: Vec<(RequestId, Option<i32>, bool)> =
        out.iter().map(|output| (output.request, output.token, output.done)).collect();
    assert_eq!(ends, [(first, Some(-1), true), (second, Some(4), false)]);
    assert!(core.plan());
    assert_eq!(core.planned().unwrap().chunks.len(), 1);
    let out = core.fail_planned();
    assert!(out.len() == 1 && out[0].request == second && out[0].done && !core.has_work());
    check(&core);
}

#[test]
fn deadlines_of_requests_that_ended_are_forgotten() {
    let mut core = Core::new(room(1, 64, 40), Settings::default());
    let request = |timeout| Request {
        prompt: prompt(0, 5),
        params: GenerationParams::default(),
        timeout: Some(Duration::from_millis(timeout)),
        ..Request::default()
    };
    let mut out = Vec::new();
    for id in 0..10_000 {
        core.add(id, RequestId(id), request(1_000_000));
        core.cancel(RequestId(id));
        assert!(core.deadlines.len() < 200);
    }
    core.add(20_000, RequestId(20_000), request(7));
    core.add(20_000, RequestId(20_001), request(9));
    core.expire(20_006, &mut out);
    assert!(out.is_empty());
    core.expire(20_007, &mut out);
    assert_eq!(out, [Output::end(RequestId(20_000), Some(FinishReason::Timeout))]);
    assert!(core.plan(), "the other one runs");
    check(&core);
}
