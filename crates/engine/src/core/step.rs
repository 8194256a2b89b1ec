//! What a step computes, and what comes back from it.

use super::sequence::Sequence;
use super::{Core, Output, SequenceId};

/// A step.
#[derive(Clone, Debug, Default)]
pub(crate) struct StepPlan {
    /// Single tokens first.
    pub chunks: Vec<Chunk>,
    tokens: usize,
    rows: usize,
}

/// Tokens of one sequence in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Chunk {
    pub sequence: SequenceId,
    /// The first of its tokens, and their number.
    pub start: usize,
    pub tokens: usize,
    /// Rows of logits, of the last tokens of the chunk.
    pub rows: usize,
    /// Whether the last row yields the sequence's next token.
    pub samples: bool,
    /// The row of the step before that chooses its token, if that is not known yet.
    pub chosen_by: Option<u32>,
}

impl StepPlan {
    fn clear(&mut self) {
        self.chunks.clear();
        (self.tokens, self.rows) = (0, 0);
    }
}

impl Core {
    /// Plans the next step, if there is something to compute: single tokens of sequences that decode, then parts of
    /// prompts in order of admission, then those of newcomers. It is then under way.
    ///
    /// While one step is under way, the next one is planned before its results are known: a sequence takes the token
    /// that the step before it chooses for it. The sequence may turn out to have ended with that token; its row is then
    /// nobody's, in blocks that are given to others only in later steps. A step for which some would have to give their
    /// blocks to others waits for the results, and so does one after logits, which are kept of the last step alone.
    pub fn plan(&mut self) -> bool {
        let ahead = !self.under_way.is_empty();
        if ahead && !self.may_run_ahead() {
            return false;
        }
        let mut step = self.spare.pop().unwrap_or_default();
        step.clear();
        // those that end with the token under way need no place any more
        let mut places = self.running.iter().filter(|index| self.sequences[**index as usize].goes_on()).count();
        for decodes in [true, false] {
            let mut at = 0;
            while let Some(&index) = self.running.get(at) {
                let sequence = &self.sequences[index as usize];
                let pending = sequence.pending();
                let before = self.running.len();
                if pending > 0 && (pending == 1) == decodes && sequence.goes_on() {
                    self.take_chunk(index, &mut step);
                }
                at = match self.running.len() == before {
                    true => at + 1,
                    // some were preempted, perhaps this one
                    false => self.running.iter().position(|running| *running == index).map_or(at, |at| at + 1),
                };
            }
        }
        while places < self.room.sequences && step.tokens < self.room.tokens && step.rows < self.room.rows {
            let Some(index) = self.admit() else { break };
            places += 1;
            let before = step.chunks.len();
            self.take_chunk(index, &mut step);
            if step.chunks.len() == before {
                break;
            }
        }
        self.stats.steps_ahead += u64::from(ahead && !step.chunks.is_empty());
        self.submit(step)
    }

    /// Whether a step may be planned over the one that is under way; notes the rows of the tokens that it chooses.
    fn may_run_ahead(&mut self) -> bool {
        let [before] = self.under_way.make_contiguous() else { return false };
        let mut end = 0;
        for chunk in &before.chunks {
            end += chunk.rows;
            let sequence = &mut self.sequences[chunk.sequence.index as usize];
            if sequence.generation == chunk.sequence.generation {
                if sequence.params.logits {
                    return false;
                }
                sequence.row = end.saturating_sub(1) as u32;
            }
        }
        let growth = |index: &u32| {
            let sequence = &self.sequences[*index as usize];
            let tokens = sequence.computed + sequence.pending();
            tokens.div_ceil(self.room.block_tokens).saturating_sub(sequence.blocks.len())
        };
        self.running.iter().map(growth).sum::<usize>() <= self.pool.available()
    }

    fn submit(&mut self, step: StepPlan) -> bool {
        let any = !step.chunks.is_empty();
        if any {
            self.stats.steps += 1;
            self.stats.computed_tokens += step.tokens as u64;
            self.under_way.push_back(step);
        } else {
            self.spare.push(step);
        }
        any
    }

    /// The step that was planned last, with its sequences.
    pub fn planned(&self) -> Option<&StepPlan> {
        self.under_way.back()
    }

    /// The step whose results come next.
    pub fn oldest(&self) -> Option<&StepPlan> {
        self.under_way.front()
    }

    /// Steps whose results have not come.
    pub fn under_way(&self) -> usize {
        self.under_way.len()
    }

    /// The sequence of a chunk, unless it has ended since.
    pub fn sequence_of(&self, chunk: &Chunk) -> Option<&Sequence> {
        let sequence = &self.sequences[chunk.sequence.index as usize];
        (sequence.generation == chunk.sequence.generation).then_some(sequence)
    }

    /// Puts as many tokens of a sequence into a step as it has room for. Blocks that it lacks are taken from others.
    fn take_chunk(&mut self, index: u32, step: &mut StepPlan) {
        let sequence = &self.sequences[index as usize];
        let (start, pending, logits) = (sequence.computed, sequence.pending(), sequence.params.logits);
        let (tokens, rows) = (self.room.tokens - step.tokens, self.room.rows - step.rows);
        let mut taken = pending.min(tokens);
        if logits {
            taken = taken.min(rows);
        }
        let block_tokens = self.room.block_tokens;
        if taken < pending && !logits {
            // whole blocks, if there is room for one
            let end = (start + taken) / block_tokens * block_tokens;
            taken = if end > start { end - start } else { taken };
        }
        let complete = taken == pending;
        let wanted = if logits { taken } else { usize::from(complete) };
        if taken == 0 || wanted > rows {
            return;
        }
        while self.sequences[index as usize].blocks.len() * block_tokens < start + taken {
            match self.pool.take() {
                Some(block) => self.sequences[index as usize].blocks.push(block),
                // the results of the step under way may free blocks
                None if !self.under_way.is_empty() => return,
                None => match self.preempt() {
                    Some(victim) if victim != index => self.drop_chunk(victim, step),
                    // it has to wait itself
                    _ => return,
                },
            }
        }
        let sequence = &mut self.sequences[index as usize];
        let chosen_by = (start >= sequence.tokens.len()).then_some(sequence.row);
        let written = start / block_tokens..(start + taken).div_ceil(block_tokens);
        let private = sequence.blocks[written].iter().all(|block| self.pool.is_private(*block));
        assert!(private, "a step may write only blocks that no other sequence reads");
        sequence.computed = start + taken;
        sequence.chosen += u64::from(complete);
        step.chunks.push(Chunk {
            sequence: SequenceId { index, generation: sequence.generation },
            start,
            tokens: taken,
            rows: wanted,
            samples: complete,
            chosen_by,
        });
        step.tokens += taken;
        step.rows += wanted;
    }

    /// Takes a sequence out of a step that is not submitted yet.
    fn drop_chunk(&mut self, index: u32, step: &mut StepPlan) {
        let Some(at) = step.chunks.iter().position(|chunk| chunk.sequence.index == index) else { return };
        let chunk = step.chunks.remove(at);
        step.tokens -= chunk.tokens;
        step.rows -= chunk.rows;
        self.sequences[index as usize].chosen -= u64::from(chunk.samples);
    }

    /// Takes the results of the oldest step: a token for each row of logits, negative where none can be chosen.
    pub fn complete(&mut self, chosen: &[i32], out: &mut Vec<Output>) {
        let Some(step) = self.under_way.pop_front() else { return };
        let mut row = 0;
        for chunk in &step.chunks {
            let rows = (row, row + chunk.rows);
            row = rows.1;
            let index = chunk.sequence.index;
            let sequence = &mut self.sequences[index as usize];
            // it may have ended since
            if sequence.generation != chunk.sequence.generation {
                continue;
            }
            let mut output = Output { request: sequence.request, token: None, rows, finished: None, done: false };
            if chunk.samples {
                sequence.received += 1;
                if sequence.finished.is_none() {
                    let token = rows.1.checked_sub(1).and_then(|row| chosen.get(row)).copied().unwrap_or(-1);
                    output.token = Some(token);
                    match u32::try_from(token) {
                        Ok(token) => sequence.push(token, &self.room.eos),
                        Err(_) => output.done = true,
                    }
                    output.finished = sequence.finished;
                }
            }
            output.done |= sequence.is_done();
            self.offer(index, chunk.start + chunk.tokens);
            if output.done {
                let sequence = &self.sequences[index as usize];
                output.finished = sequence.finished;
                if sequence.finished.is_some() && sequence.params.max_tokens > 0 {
                    self.lengths.count(sequence.generated() as u32);
                }
                self.end(index);
            }
            if output.done || output.token.is_some() || chunk.rows > 0 {
                out.push(output);
            }
        }
        self.spare.push(step);
    }

    /// Ends all sequences of the step that was planned last, which was not submitted.
    pub fn fail_planned(&mut self) -> Vec<Output> {
        let step = self.under_way.pop_back();
        self.fail(step)
    }

    /// Ends all sequences of the oldest step, whose results will not come.
    pub fn fail_oldest(&mut self) -> Vec<Output> {
        let step = self.under_way.pop_front();
        self.fail(step)
    }

    fn fail(&mut self, step: Option<StepPlan>) -> Vec<Output> {
        let Some(step) = step else { return Vec::new() };
        let mut outputs = Vec::new();
        for chunk in &step.chunks {
            if let Some(sequence) = self.sequence_of(chunk) {
                outputs.push(Output::end(sequence.request, None));
                self.end(chunk.sequence.index);
            }
        }
        self.spare.push(step);
        outputs
    }

    /// Offers blocks that are full and computed to the prefix cache.
    fn offer(&mut self, index: u32, computed: usize) {
        let sequence = &mut self.sequences[index as usize];
        if !self.settings.prefix_cache || sequence.params.logits {
            return;
        }
        let block_tokens = self.room.block_tokens;
        while (sequence.offered + 1) * block_tokens <= computed {
            let at = sequence.offered;
            let tokens = &sequence.tokens[at * block_tokens..][..block_tokens];
            if sequence.hashes.len() == at {
                let before = sequence.hashes.last().copied().unwrap_or(0);
                sequence.hashes.push(self.hash.after(before, tokens));
            }
            let offer = |before| self.pool.cache(before, tokens, sequence.hashes[at], sequence.blocks[at]);
            sequence.cached = sequence.cached.and_then(offer);
            sequence.offered += 1;
        }
    }
}
