//! Measurements on one device, and the choice by them.

use std::collections::BTreeMap;
use std::fmt::Write;

use plan::Param;

use super::candidates::{Candidate, Candidates};
use crate::select::param_text;

/// Measurements on one device: for each op, the outcome of each candidate by its kernel and configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Timings {
    /// By the key of the op, then by that of the candidate.
    pub ops: BTreeMap<String, BTreeMap<String, Outcome>>,
}

/// The outcome of a candidate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// A hash of the measured code: for other code the outcome is invalid.
    pub code: String,
    /// Nanoseconds per launch, or why the compiled code was not measured.
    pub nanoseconds: Result<u64, String>,
}

/// A candidate with its outcome, for reports.
#[derive(Clone, Debug, PartialEq)]
pub struct Timed {
    /// Name of the kernel.
    pub kernel: &'static str,
    /// Its configuration.
    pub params: Vec<Param>,
    /// As in [`Outcome::nanoseconds`].
    pub nanoseconds: Result<u64, String>,
}

/// By how many percent another candidate must be faster than the heuristic's choice: less is noise, and would make
/// plans of two measurements differ needlessly.
const MARGIN_PERCENT: u64 = 2;

impl Timings {
    /// The outcomes of these candidates, in order, if all are known.
    pub(super) fn of(&self, candidates: &Candidates) -> Option<Vec<&Outcome>> {
        let outcomes = self.ops.get(&candidates.op)?;
        let known =
            |candidate: &Candidate| outcomes.get(&candidate.text).filter(|outcome| outcome.code == candidate.code);
        candidates.list.iter().map(known).collect()
    }

    /// The index of the fastest of these candidates, with the outcomes of all, the fastest first. `None` if some are
    /// not known, or none has a time.
    pub(crate) fn decide(&self, candidates: &Candidates) -> Option<(usize, Vec<Timed>)> {
        let outcomes = self.of(candidates)?;
        let time = |index: usize| outcomes[index].nanoseconds.as_ref().ok().copied();
        let fastest = (0..outcomes.len()).filter(|index| time(*index).is_some()).min_by_key(|index| time(*index))?;
        let keeps_first = time(0).zip(time(fastest)).is_some_and(|(first, best)| {
            u128::from(first) * 100 <= u128::from(best) * u128::from(100 + MARGIN_PERCENT)
        });
        let mut timed: Vec<Timed> = candidates
            .list
            .iter()
            .zip(&outcomes)
            .map(|(candidate, outcome)| Timed {
                kernel: candidate.kernel,
                params: candidate.call.params.clone(),
                nanoseconds: outcome.nanoseconds.clone(),
            })
            .collect();
        // those without a time last
        timed.sort_by_key(|timed| timed.nanoseconds.as_ref().map_or(u64::MAX, |time| *time));
        Some((if keeps_first { 0 } else { fastest }, timed))
    }

    /// Adds outcomes for an op, replacing those of the same candidates.
    pub fn record(&mut self, op: &str, outcomes: BTreeMap<String, Outcome>) {
        self.ops.entry(op.to_owned()).or_default().extend(outcomes);
    }
}

/// `linear_skinny {warps = 8, strips = 1} 14.8 µs; {warps = 16, strips = 2} 15.6 µs`: a kernel is named where it
/// changes, and parameters that all its candidates share are omitted.
pub(crate) fn print_timed(timed: &[Timed]) -> String {
    let mut out = String::new();
    let mut last = "";
    for candidate in timed {
        let family = || timed.iter().filter(|other| other.kernel == candidate.kernel);
        let shared = |param: &&Param| family().count() > 1 && family().all(|other| other.params.contains(param));
        let own: Vec<String> = candidate.params.iter().filter(|param| !shared(param)).map(param_text).collect();
        let separator = if out.is_empty() { "" } else { "; " };
        let name = if candidate.kernel == last { String::new() } else { format!("{} ", candidate.kernel) };
        last = candidate.kernel;
        let outcome = match &candidate.nanoseconds {
            Ok(time) if *time < 10_000_000 => format!("{:.1} µs", *time as f64 / 1e3),
            Ok(time) => format!("{:.1} ms", *time as f64 / 1e6),
            Err(reason) => format!("slow ({reason})"),
        };
        // Writing to a String cannot fail.
        let _ = write!(out, "{separator}{name}{{{}}} {outcome}", own.join(", "));
    }
    out
}

#[cfg(test)]
mod tests {
    use plan::Dim;

    use super::*;
    use crate::Call;

    fn candidates(times: &[Option<u64>]) -> (Candidates, Timings) {
        let mut outcomes = BTreeMap::new();
        let list = times.iter().enumerate().map(|(index, time)| {
            let call = Call::grid(Dim::from(1)).int("n", 4096).int("warps", index as i64);
            let (text, code) = (format!("linear {{warps = {index}}}"), "code".to_owned());
            let nanoseconds = time.ok_or_else(|| "it spills".to_owned());
            outcomes.insert(text.clone(), Outcome { code: code.clone(), nanoseconds });
            Candidate { kernel: "linear", call, text, code }
        });
        let candidates = Candidates { op: "op".to_owned(), list: list.collect() };
        (candidates, Timings { ops: BTreeMap::from([("op".to_owned(), outcomes)]) })
    }

    #[test]
    fn the_fastest_wins_unless_it_is_hardly_faster_than_the_first() {
        let decided = |times: &[Option<u64>]| {
            let (candidates, timings) = candidates(times);
            timings.decide(&candidates).map(|(index, _)| index)
        };
        assert_eq!(decided(&[Some(100), Some(90), Some(80)]), Some(2));
        assert_eq!(decided(&[Some(100), Some(99), Some(120)]), Some(0));
        assert_eq!(decided(&[None, Some(99), Some(98)]), Some(2));
        assert_eq!(decided(&[None, None]), None);
    }

    #[test]
    fn one_unknown_candidate_leaves_all_to_heuristics() {
        let (candidates, mut timings) = candidates(&[Some(100), Some(50)]);
        timings.ops.values_mut().for_each(|outcomes| drop(outcomes.remove("linear {warps = 1}")));
        assert_eq!(timings.decide(&candidates), None);
    }

    #[test]
    fn what_all_candidates_share_is_not_printed() {
        let (candidates, timings) = candidates(&[Some(15_640), None, Some(14_810), Some(23_456_789)]);
        let (_, timed) = timings.decide(&candidates).expect("decided");
        let text = "linear {warps = 2} 14.8 µs; {warps = 0} 15.6 µs; {warps = 3} 23.5 ms; {warps = 1} slow (it spills)";
        assert_eq!(print_timed(&timed), text);
    }
}
