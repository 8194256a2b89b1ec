//! One run of a benchmark: prompts of new tokens, and when each generated token was there.

use std::time::{Duration, Instant};

use smelt::{GenerationParams, Llm, NewToken, Plan, Prompt};

use crate::failure::Failure;

/// What is measured: some sequences, all at once.
#[derive(Clone, Copy, Debug)]
pub struct Workload {
    /// Sequences.
    pub batch: usize,
    /// Tokens of each prompt.
    pub input_len: usize,
    /// Tokens to generate for each.
    pub output_len: u32,
    /// What prompts are drawn from.
    pub seed: u64,
    /// A wait after each step, for tests of `--fail-if`.
    pub pause: Duration,
}

impl Workload {
    /// Runs once. No two runs have the same prompts.
    pub fn run(&self, llm: &mut Llm, index: u64) -> Result<Run, Failure> {
        let prompts: Vec<Prompt> = self.prompts(llm.plan().plan(), index)?.into_iter().map(Prompt::Tokens).collect();
        let params = GenerationParams { max_tokens: self.output_len, ignore_eos: true, logits: false };
        let mut times = vec![Vec::with_capacity(self.output_len as usize); self.batch];
        let start = Instant::now();
        let mut last = start;
        llm.generate_with(&prompts, &params, &mut |token: NewToken| {
            times[token.prompt].push((token.at - start).as_secs_f64());
            if token.at != last && !self.pause.is_zero() {
                std::thread::sleep(self.pause);
            }
            last = token.at;
        })?;
        let seconds = start.elapsed().as_secs_f64();
        let wanted = self.output_len as usize;
        if let Some(short) = times.iter().position(|times| times.len() != wanted) {
            let found = times[short].len();
            return Err(Failure::bad_input(format!(
                "run {index}: sequence {short} has {found} generated tokens, expected {wanted}"
            )));
        }
        Ok(Run::of(&times, seconds))
    }

    /// Random tokens, none of which ends a text.
    pub fn prompts(&self, plan: &Plan, run: u64) -> Result<Vec<Vec<u32>>, Failure> {
        let (vocab, eos) = (plan.model.vocab_size, &plan.model.eos);
        if !(0..vocab).any(|id| !eos.contains(&id)) {
            return Err(Failure::bad_input(
                "every token of the vocabulary ends a text: there is nothing to prompt with",
            ));
        }
        let prompt = |index: usize| {
            let mut state = mixed(mixed(mixed(self.seed) ^ run) ^ index as u64);
            let draws = std::iter::repeat_with(move || {
                state = state.wrapping_add(GOLDEN);
                ((u128::from(mixed(state)) * u128::from(vocab)) >> 64) as u32
            });
            draws.filter(|id| !eos.contains(id)).take(self.input_len).collect()
        };
        Ok((0..self.batch).map(prompt).collect())
    }
}

/// The step of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// Its output function.
fn mixed(state: u64) -> u64 {
    let state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    state ^ (state >> 31)
}

/// What was seen of a run. Times in seconds from its start.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// Until it was over.
    pub seconds: f64,
    /// Until each sequence had its first token.
    pub first: Vec<f64>,
    /// Time per token after the first of each sequence; empty where there is one token alone.
    pub per_token: Vec<f64>,
    /// Generated tokens.
    pub tokens: usize,
    /// The part in which all sequences decode, if there is one.
    pub full: Option<FullBatch>,
}

/// The steps between the last first token and the first last one: each gives every sequence a token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FullBatch {
    /// How many.
    pub steps: usize,
    /// What they took together.
    pub seconds: f64,
    /// Tokens of each sequence that were cached or computed before the step's own output, prompts left out: the mean
    /// over steps and sequences.
    pub generated: f64,
    /// Tokens that all sequences had together before the first of these steps.
    pub before: usize,
}

impl Run {
    /// From the times of each sequence's tokens, which are equal where one step made them.
    fn of(times: &[Vec<f64>], seconds: f64) -> Run {
        let first: Vec<f64> = times.iter().filter_map(|times| times.first().copied()).collect();
        let per_token = times.iter().filter_map(|times| match times[..] {
            [first, .., last] => Some((last - first) / (times.len() - 1) as f64),
            _ => None,
        });
        Run {
            seconds,
            per_token: per_token.collect(),
            tokens: times.iter().map(Vec::len).sum(),
            full: FullBatch::of(times),
            first,
        }
    }

    /// Until all sequences had a first token.
    pub fn last_first(&self) -> f64 {
        self.first.iter().copied().fold(0.0, f64::max)
    }

    /// Until one of them had.
    pub fn first_first(&self) -> f64 {
        self.first.iter().copied().fold(f64::INFINITY, f64::min)
    }

    /// The mean over sequences of the time per token after the first.
    pub fn mean_per_token(&self) -> Option<f64> {
        let count = self.per_token.len();
        (count > 0).then(|| self.per_token.iter().sum::<f64>() / count as f64)
    }
}

impl FullBatch {
    fn of(times: &[Vec<f64>]) -> Option<FullBatch> {
        let begin = times.iter().filter_map(|times| times.first().copied()).reduce(f64::max)?;
        let end = times.iter().filter_map(|times| times.last().copied()).reduce(f64::min)?;
        let within = |times: &Vec<f64>| times.iter().filter(|time| **time > begin && **time <= end).count();
        let steps = times.first().map(within).filter(|steps| *steps > 0)?;
        if times.iter().any(|times| within(times) != steps) {
            return None;
        }
        let before: usize = times.iter().map(|times| times.iter().filter(|time| **time <= begin).count()).sum();
        let generated = before as f64 / times.len() as f64 + (steps - 1) as f64 / 2.0;
        Some(FullBatch { steps, seconds: end - begin, generated, before })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_sequence_decodes_from_its_first_token_on() {
        let run = Run::of(&[vec![0.5, 0.6, 0.7, 0.8, 0.9]], 1.0);
        assert_eq!((run.last_first(), run.first_first(), run.tokens), (0.5, 0.5, 5));
        assert!((run.mean_per_token().unwrap() - 0.1).abs() < 1e-12);
        let full = run.full.unwrap();
        // the step of the second token reads the first one beside the prompt
        assert_eq!((full.steps, full.before, full.generated), (4, 1, 2.5));
        assert!((full.seconds - 0.4).abs() < 1e-12);
    }

    #[test]
    fn the_full_batch_has_no_ramps() {
        // the second sequence starts two steps later, and ends two steps later
        let run = Run::of(&[vec![1.0, 2.0, 3.0, 4.0, 5.0], vec![3.0, 4.0, 5.0, 6.0, 7.0]], 7.0);
        assert_eq!((run.first_first(), run.last_first()), (1.0, 3.0));
        assert_eq!(run.full, Some(FullBatch { steps: 2, seconds: 2.0, generated: 2.5, before: 4 }));
    }

    #[test]
    fn sequences_that_never_run_together_have_no_full_batch() {
        assert_eq!(Run::of(&[vec![1.0, 2.0], vec![3.0, 4.0]], 4.0).full, None);
        let alone = Run::of(&[vec![1.0], vec![1.0]], 1.0);
        assert_eq!((alone.full, alone.mean_per_token()), (None, None));
    }
}
