//! A request on its way through the engine, and the queue of those that wait.

use std::collections::VecDeque;

use super::blocks::Cached;
use crate::{FinishReason, GenerationParams, RequestId};

/// Milliseconds on a clock of the caller's.
pub(crate) type Millis = u64;

/// Names a sequence as long as it exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SequenceId {
    pub index: u32,
    pub generation: u32,
}

/// Where a sequence is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Ended: this place in memory is for the next one.
    Nowhere,
    Waiting,
    /// Waiting again, after its blocks were needed by others.
    Preempted,
    Running,
}

/// A request and its progress.
#[derive(Clone, Debug)]
pub(crate) struct Sequence {
    pub request: RequestId,
    pub generation: u32,
    pub place: Place,
    /// From 0, which goes first, to 7.
    pub class: u8,
    pub arrived_at: Millis,
    /// Prompt, then generated tokens.
    pub tokens: Vec<u32>,
    pub prompt_len: usize,
    pub params: GenerationParams,
    /// Tokens whose keys and values exist once all submitted steps have run. One more than are known if a step takes its
    /// token from the step before it.
    pub computed: usize,
    /// Tokens that submitted steps choose, and those that have come back. They only rise.
    pub chosen: u64,
    pub received: u64,
    /// The row of the step under way that chooses its token.
    pub row: u32,
    /// Its blocks, and how many it is expected to need.
    pub blocks: Vec<u32>,
    pub reserved: usize,
    /// Hashes at the end of full blocks of known tokens.
    pub hashes: Vec<u64>,
    /// Blocks that were offered to the cache, and the last of them if it is there.
    pub offered: usize,
    pub cached: Option<Cached>,
    pub preemptions: u32,
    pub finished: Option<FinishReason>,
}

impl Sequence {
    /// Tokens that are known or will be, and are not computed: one during decode, more during prefill.
    pub fn pending(&self) -> usize {
        (self.tokens.len() + self.flying()).saturating_sub(self.computed)
    }

    /// Chosen tokens that the host does not know yet.
    pub fn flying(&self) -> usize {
        (self.chosen - self.received) as usize
    }

    /// Generated tokens.
    pub fn generated(&self) -> usize {
        self.tokens.len() - self.prompt_len
    }

    /// Whether it has tokens for a later step, whatever the tokens under way turn out to be.
    pub fn goes_on(&self) -> bool {
        match self.flying() {
            0 => !self.is_done(),
            flying => self.finished.is_none() && self.generated() + flying < self.params.max_tokens as usize,
        }
    }

    /// Whether it is finished. If logits are requested, the last token has a step of its own.
    pub fn is_done(&self) -> bool {
        self.finished.is_some() && (!self.params.logits || self.pending() == 0)
    }

    /// Whether it has been preempted so often that it now takes all blocks that it may need, and is not preempted again.
    pub fn is_pledged(&self) -> bool {
        self.preemptions >= 2
    }

    /// Adds a generated token.
    pub fn push(&mut self, token: u32, eos: &[u32]) {
        self.tokens.push(token);
        if !self.params.ignore_eos && eos.contains(&token) {
            self.finished = Some(FinishReason::Stop);
        } else if self.generated() >= self.params.max_tokens as usize {
            self.finished = Some(FinishReason::Length);
        }
    }
}

/// Number of classes.
pub(crate) const CLASSES: usize = 8;

/// Those that wait, by class, in order of arrival.
#[derive(Clone, Debug, Default)]
pub(crate) struct Queue {
    classes: [VecDeque<SequenceId>; CLASSES],
    /// Those that have not ended while they waited.
    pub len: usize,
    /// Tokens of their prompts.
    pub tokens: usize,
    /// Those of them that were preempted.
    pub preempted: usize,
    /// Those that ended while they waited and are still in a class.
    ended: usize,
}

impl Queue {
    /// Adds the last of its class, or one that was preempted, which goes first.
    pub fn push(&mut self, id: SequenceId, sequence: &mut Sequence, place: Place) {
        let class = &mut self.classes[usize::from(sequence.class) % CLASSES];
        match place {
            Place::Preempted => class.push_front(id),
            _ => class.push_back(id),
        }
        sequence.place = place;
        self.len += 1;
        self.tokens += sequence.prompt_len;
        self.preempted += usize::from(place == Place::Preempted);
    }

    /// The next one: of the first of each class that which came first, each class counting as `aging` later than the one
    /// before it. While some that were preempted wait, it is one of them.
    pub fn next(&mut self, sequences: &[Sequence], aging: Millis) -> Option<u32> {
        let mut best: Option<(Millis, u32)> = None;
        for (class, waiting) in (0..).zip(&mut self.classes) {
            // those that ended while they waited
            while waiting.front().is_some_and(|id| !waits(sequences, id)) {
                waiting.pop_front();
            }
            let Some(head) = waiting.front() else { continue };
            let sequence = &sequences[head.index as usize];
            let key = sequence.arrived_at.saturating_add(aging * class);
            let eligible = self.preempted == 0 || sequence.place == Place::Preempted;
            if eligible && best.is_none_or(|(first, _)| key < first) {
                best = Some((key, head.index));
            }
        }
        best.map(|(_, index)| index)
    }

    /// Takes out one that runs now, or has ended.
    pub fn remove(&mut self, sequence: &mut Sequence, place: Place) {
        self.len -= 1;
        self.tokens -= sequence.prompt_len;
        self.preempted -= usize::from(sequence.place == Place::Preempted);
        self.ended += usize::from(place == Place::Nowhere);
        sequence.place = place;
    }

    /// Forgets those that ended while they waited, once they are many.
    pub fn sweep(&mut self, sequences: &[Sequence]) {
        if self.ended > 64 + self.len {
            self.classes.iter_mut().for_each(|class| class.retain(|id| waits(sequences, id)));
            self.ended = 0;
        }
    }
}

fn waits(sequences: &[Sequence], id: &SequenceId) -> bool {
    let sequence = &sequences[id.index as usize];
    matches!(sequence.place, Place::Waiting | Place::Preempted) && sequence.generation == id.generation
}
