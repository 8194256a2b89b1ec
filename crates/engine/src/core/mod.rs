//! Which sequences run, in which blocks of the KV cache, and what each step computes. Pure: no device, no clock, no
//! thread, and the same calls give the same steps.

mod blocks;
mod policy;
mod sequence;
mod step;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};

use blocks::{Cached, Pool, PrefixHash};
use policy::Lengths;
use sequence::{Place, Queue, Sequence, SequenceId};

use crate::{FinishReason, Request, RequestId};

pub use policy::Policy;
pub(crate) use sequence::Millis;
pub(crate) use step::{Chunk, StepPlan};

/// How requests share a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// What a sequence reserves when it is admitted.
    pub policy: Policy,
    /// Whether prompts with the same beginning share its blocks.
    pub prefix_cache: bool,
    /// By how many milliseconds a class goes before the next one.
    pub aging_ms: u64,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { policy: Policy::default(), prefix_cache: true, aging_ms: 10_000 }
    }
}

/// What a plan has room for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Room {
    /// Sequences, tokens and rows of logits of a step.
    pub sequences: usize,
    pub tokens: usize,
    pub rows: usize,
    pub block_tokens: usize,
    pub blocks: u32,
    /// The longest sequence.
    pub max_seq_len: usize,
    /// Stop tokens.
    pub eos: Vec<u32>,
}

/// What an engine does, and has done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Requests that wait.
    pub waiting: usize,
    /// Tokens of their prompts.
    pub waiting_tokens: usize,
    /// Requests that run.
    pub running: usize,
    /// Blocks of the KV cache in all.
    pub blocks: usize,
    /// Blocks with an owner.
    pub blocks_used: usize,
    /// Blocks kept for their tokens alone.
    pub blocks_cached: usize,
    /// Steps.
    pub steps: u64,
    /// Steps that were submitted before the results of the one before them were read.
    pub steps_ahead: u64,
    /// Tokens that steps computed.
    pub computed_tokens: u64,
    /// Prompt tokens that were found in the cache instead.
    pub cached_tokens: u64,
    /// Times that a sequence gave its blocks to others, to be computed again.
    pub preemptions: u64,
}

/// What a step has for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Output {
    pub request: RequestId,
    /// The token it got, if any. Negative where none could be chosen: the request has failed.
    pub token: Option<i32>,
    /// Rows of logits that belong to it.
    pub rows: (usize, usize),
    pub finished: Option<FinishReason>,
    pub done: bool,
}

impl Output {
    /// The end of a request that gets nothing more.
    fn end(request: RequestId, finished: Option<FinishReason>) -> Output {
        Output { request, token: None, rows: (0, 0), finished, done: true }
    }
}

/// Requests, queues and blocks.
#[derive(Debug)]
pub(crate) struct Core {
    room: Room,
    settings: Settings,
    /// Running and waiting ones, and places of ended ones.
    sequences: Vec<Sequence>,
    unused: Vec<u32>,
    by_request: HashMap<RequestId, u32>,
    /// In order of admission.
    running: Vec<u32>,
    queue: Queue,
    pool: Pool,
    hash: PrefixHash,
    lengths: Lengths,
    /// Steps whose results have not come, the oldest first.
    under_way: VecDeque<StepPlan>,
    spare: Vec<StepPlan>,
    /// When requests end at the latest, those that have ended included.
    deadlines: BinaryHeap<Reverse<(Millis, SequenceId)>>,
    /// Blocks that were found in the cache.
    found: Vec<u32>,
    stats: Stats,
}

impl Core {
    pub fn new(room: Room, settings: Settings) -> Core {
        let pool = Pool::new(room.blocks, room.block_tokens, settings.prefix_cache);
        Core {
            pool,
            room,
            settings,
            sequences: Vec::new(),
            unused: Vec::new(),
            by_request: HashMap::new(),
            running: Vec::new(),
            queue: Queue::default(),
            hash: PrefixHash::default(),
            lengths: Lengths::new(),
            under_way: VecDeque::new(),
            spare: Vec::new(),
            deadlines: BinaryHeap::new(),
            found: Vec::new(),
            stats: Stats::default(),
        }
    }

    /// Queues a request, which must fit. One that wants nothing ends at once.
    pub fn add(&mut self, now: Millis, id: RequestId, request: Request) -> Option<Output> {
        let finished = (request.params.max_tokens == 0).then_some(FinishReason::Length);
        if finished.is_some() && !request.params.logits {
            return Some(Output::end(id, finished));
        }
        let index = self.unused.pop().unwrap_or(self.sequences.len() as u32);
        let generation = self.sequences.get(index as usize).map_or(0, |old| old.generation);
        let mut sequence = Sequence {
            request: id,
            generation,
            place: Place::Nowhere,
            class: request.priority,
            arrived_at: now,
            prompt_len: request.prompt.len(),
            tokens: request.prompt,
            params: request.params,
            computed: 0,
            chosen: 0,
            received: 0,
            row: 0,
            blocks: Vec::new(),
            reserved: 0,
            hashes: Vec::new(),
            offered: 0,
            cached: None,
            preemptions: 0,
            finished,
        };
        if self.shares(&sequence) {
            let before = |sequence: &Sequence| sequence.hashes.last().copied().unwrap_or(0);
            for block in 0..sequence.tokens.len() / self.room.block_tokens {
                let tokens = &sequence.tokens[block * self.room.block_tokens..][..self.room.block_tokens];
                let hash = self.hash.after(before(&sequence), tokens);
                sequence.hashes.push(hash);
            }
        }
        let sequence_id = SequenceId { index, generation };
        self.queue.push(sequence_id, &mut sequence, Place::Waiting);
        self.by_request.insert(id, index);
        if let Some(timeout) = request.timeout {
            let deadline = now.saturating_add(u64::try_from(timeout.as_millis()).unwrap_or(Millis::MAX));
            self.deadlines.push(Reverse((deadline, sequence_id)));
        }
        match self.sequences.get_mut(index as usize) {
            Some(place) => *place = sequence,
            None => self.sequences.push(sequence),
        }
        None
    }

    /// Ends a request. No step that is planned from now on has a row of it.
    pub fn cancel(&mut self, request: RequestId) -> Option<Output> {
        let index = *self.by_request.get(&request)?;
        self.end(index);
        Some(Output::end(request, Some(FinishReason::Cancelled)))
    }

    /// Ends all requests.
    pub fn cancel_all(&mut self) -> Vec<Output> {
        let mut all: Vec<RequestId> = self.by_request.keys().copied().collect();
        all.sort_unstable();
        all.into_iter().filter_map(|request| self.cancel(request)).collect()
    }

    /// Ends the requests whose time is over.
    pub fn expire(&mut self, now: Millis, out: &mut Vec<Output>) {
        while let Some(&Reverse((deadline, id))) = self.deadlines.peek() {
            let sequence = &self.sequences[id.index as usize];
            if sequence.generation == id.generation {
                if deadline > now {
                    break;
                }
                out.push(Output::end(sequence.request, Some(FinishReason::Timeout)));
                self.end(id.index);
            }
            self.deadlines.pop();
        }
    }

    /// Whether a request waits or runs.
    pub fn has_work(&self) -> bool {
        !self.by_request.is_empty()
    }

    /// Drops all requests and forgets the steps that are under way.
    pub fn clear(&mut self) {
        let all: Vec<u32> = self.by_request.values().copied().collect();
        all.into_iter().for_each(|index| self.end(index));
        self.spare.extend(self.under_way.drain(..));
    }

    pub fn stats(&self) -> Stats {
        let (blocks, available) = (self.pool.all(), self.pool.available());
        Stats {
            waiting: self.queue.len,
            waiting_tokens: self.queue.tokens,
            running: self.running.len(),
            blocks,
            blocks_used: blocks - available,
            blocks_cached: self.pool.cached(),
            ..self.stats.clone()
        }
    }

    /// Whether sequences use and fill the prefix cache from now on; returns what held before.
    pub fn reuse_prefixes(&mut self, reuse: bool) -> bool {
        std::mem::replace(&mut self.settings.prefix_cache, reuse)
    }

    /// Whether a sequence uses and fills the prefix cache. Logits are wanted of positions that must then be computed.
    fn shares(&self, sequence: &Sequence) -> bool {
        self.settings.prefix_cache && !sequence.params.logits
    }

    fn blocks_for(&self, tokens: usize) -> usize {
        tokens.div_ceil(self.room.block_tokens)
    }

    /// The next of those that wait, if there are blocks for it beside those that run, and the blocks that it finds.
    fn next_admitted(&mut self) -> Option<(u32, Cached)> {
        let index = self.queue.next(&self.sequences, self.settings.aging_ms)?;
        let sequence = &self.sequences[index as usize];
        let cached = match self.shares(sequence) {
            // the last token is computed in any case, for its logits
            true => {
                let blocks = (sequence.tokens.len() - 1) / self.room.block_tokens;
                self.pool.find(&sequence.tokens, &sequence.hashes[..blocks], &mut self.found)
            }
            false => {
                self.found.clear();
                Cached::START
            }
        };
        let missing = |index: &u32| {
            let sequence = &self.sequences[*index as usize];
            sequence.reserved.saturating_sub(sequence.blocks.len())
        };
        let promised: usize = self.running.iter().map(missing).sum();
        let unowned = self.found.iter().filter(|block| self.pool.is_unowned(**block)).count();
        let wanted = promised + self.reservation(sequence) - self.found.len();
        (wanted + unowned <= self.pool.available()).then_some((index, cached))
    }

    /// Blocks that a sequence is expected to need in all.
    fn reservation(&self, sequence: &Sequence) -> usize {
        let most = sequence.params.max_tokens;
        let expected = match sequence.is_pledged() {
            true => most,
            false => self.lengths.expected(self.settings.policy, most),
        };
        self.blocks_for((sequence.prompt_len + expected as usize).max(sequence.tokens.len()))
    }

    /// Admits the next of those that wait, if there is room.
    fn admit(&mut self) -> Option<u32> {
        let (index, cached) = self.next_admitted()?;
        let reserved = self.reservation(&self.sequences[index as usize]);
        let sequence = &mut self.sequences[index as usize];
        self.queue.remove(sequence, Place::Running);
        sequence.reserved = reserved;
        sequence.offered = self.found.len();
        sequence.cached = Some(cached);
        sequence.computed = self.found.len() * self.room.block_tokens;
        sequence.blocks.reserve(self.room.max_seq_len.div_ceil(self.room.block_tokens));
        let longest = sequence.prompt_len + sequence.params.max_tokens as usize;
        sequence.tokens.reserve(longest.saturating_sub(sequence.tokens.len()));
        sequence.hashes.reserve((longest / self.room.block_tokens).saturating_sub(sequence.hashes.len()));
        for block in self.found.drain(..) {
            self.pool.share(block);
            sequence.blocks.push(block);
        }
        self.stats.cached_tokens += sequence.computed as u64;
        if sequence.is_pledged() {
            while sequence.blocks.len() < reserved {
                let Some(block) = self.pool.take() else { break };
                sequence.blocks.push(block);
            }
        }
        self.running.push(index);
        Some(index)
    }

    /// Takes the blocks of the last running sequence that is not pledged, which is computed again later, and returns it.
    fn preempt(&mut self) -> Option<u32> {
        let order = |index: &&u32| {
            let sequence = &self.sequences[**index as usize];
            (sequence.class, sequence.request)
        };
        let free = self.running.iter().filter(|index| !self.sequences[**index as usize].is_pledged());
        let index = *free.max_by_key(order)?;
        self.leave(index);
        let sequence = &mut self.sequences[index as usize];
        sequence.preemptions += 1;
        let id = SequenceId { index, generation: sequence.generation };
        self.queue.push(id, sequence, Place::Preempted);
        self.stats.preemptions += 1;
        Some(index)
    }

    /// Ends a sequence.
    fn end(&mut self, index: u32) {
        let sequence = &mut self.sequences[index as usize];
        self.by_request.remove(&sequence.request);
        match sequence.place {
            Place::Running => self.leave(index),
            Place::Waiting | Place::Preempted => self.queue.remove(sequence, Place::Nowhere),
            Place::Nowhere => {}
        }
        let sequence = &mut self.sequences[index as usize];
        sequence.place = Place::Nowhere;
        sequence.generation = sequence.generation.wrapping_add(1);
        sequence.tokens = Vec::new();
        sequence.hashes = Vec::new();
        self.unused.push(index);
        self.queue.sweep(&self.sequences);
        // deadlines of requests that ended before them
        if self.deadlines.len() > 64 + 2 * self.by_request.len() {
            let sequences = &self.sequences;
            self.deadlines.retain(|Reverse((_, id))| sequences[id.index as usize].generation == id.generation);
        }
    }

    /// Takes a sequence from those that run, and its blocks: the only place where blocks are given back.
    fn leave(&mut self, index: u32) {
        self.running.retain(|running| *running != index);
        let sequence = &mut self.sequences[index as usize];
        // the last first, so that the cache keeps beginnings
        while let Some(block) = sequence.blocks.pop() {
            self.pool.release(block);
        }
        (sequence.computed, sequence.offered, sequence.cached, sequence.reserved) = (0, 0, None, 0);
    }
}
