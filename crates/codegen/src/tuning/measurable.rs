//! Ops whose candidates can be measured, and measuring them.

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

use ir::{Graph, OpId};
use plan::{ExecError, Executor};

use super::candidates::{Candidate, Candidates, CodeHashes};
use super::clock::{self, Clock};
use super::trial::Trial;
use super::{Outcome, Timings};
use crate::cuda::Compiler;
use crate::{Catalog, CodegenError, ProgramShape, Selection, Site};

/// Launches of the longer program, besides the first.
const LAUNCHES: u32 = 64;
/// Number of repetitions, of which the median is used; fewer if they take longer than this.
const REPETITIONS: usize = 9;
const FEWEST_REPETITIONS: usize = 3;
const TIME_PER_CANDIDATE: Duration = Duration::from_millis(300);
/// If a single launch takes as long, the overhead of a step is negligible.
const LONG: Duration = Duration::from_millis(5);

/// An op of a program, with candidates to measure.
pub struct Measurable<'a> {
    pub(super) graph: &'a Graph,
    pub(super) program: &'a ProgramShape,
    pub(super) id: OpId,
    pub(super) candidates: Candidates,
}

/// The ops with a choice of kernels that lack timings. Each is listed once, however many layers have
/// it. Programs are those selected without timings.
pub fn untimed<'a>(
    selection: &'a Selection,
    catalog: &Catalog,
    programs: &'a [ProgramShape],
    timings: &Timings,
) -> Vec<Measurable<'a>> {
    let mut hashes = CodeHashes::default();
    let mut seen = HashSet::new();
    let mut found = Vec::new();
    for (index, program) in programs.iter().enumerate() {
        let chosen = selection.program(index);
        for (id, choice) in chosen.launches() {
            let site = Site { graph: chosen.graph(), op: id, program };
            let candidates = Candidates::of(&site, catalog, &choice.call, &mut hashes);
            if candidates.list.is_empty() || timings.of(&candidates).is_some() {
                continue;
            }
            let texts: Vec<String> = candidates.list.iter().map(|candidate| candidate.text.clone()).collect();
            if seen.insert((candidates.op.clone(), texts)) {
                found.push(Measurable { graph: chosen.graph(), program, id, candidates });
            }
        }
    }
    found
}

/// The ops that a step of a program runs, each with only its selected kernel as a candidate: to measure the step.
pub fn chosen<'a>(selection: &'a Selection, programs: &'a [ProgramShape], index: usize) -> Vec<Measurable<'a>> {
    let mut hashes = CodeHashes::default();
    let (chosen, program) = (selection.program(index), &programs[index]);
    let launches = chosen.launches().map(|(id, choice)| {
        let site = Site { graph: chosen.graph(), op: id, program };
        let candidates = Candidates::only(&site, choice.kernel, &choice.call, &mut hashes);
        Measurable { graph: chosen.graph(), program, id, candidates }
    });
    launches.collect()
}

impl Measurable<'_> {
    /// Nanoseconds per launch of the first candidate, if timings have it with the same code.
    pub fn time(&self, timings: &Timings) -> Option<u64> {
        timings.of(&self.candidates)?.first()?.nanoseconds.as_ref().ok().copied()
    }

    /// The key of the op.
    pub fn op(&self) -> &str {
        &self.candidates.op
    }

    /// The kernel of the first candidate.
    pub fn kernel(&self) -> &'static str {
        self.candidates.list.first().map_or("", |candidate| candidate.kernel)
    }

    /// Measures all candidates. A compiler is needed for kernels with code; slow code is not run.
    pub fn measure(
        &self,
        catalog: &Catalog,
        executor: &dyn Executor,
        compiler: Option<&Compiler>,
    ) -> Result<BTreeMap<String, Outcome>, CodegenError> {
        let mut outcomes = BTreeMap::new();
        let mut record = |candidate: &Candidate, nanoseconds| {
            let code = candidate.code.clone();
            outcomes.insert(candidate.text.clone(), Outcome { code, nanoseconds });
        };
        let mut runnable: Vec<&Candidate> = self.candidates.list.iter().collect();
        if let Some(compiler) = compiler {
            let kernels: Vec<plan::Kernel> =
                runnable.iter().map(|candidate| candidate.call.kernel(candidate.kernel)).collect();
            let built = compiler.compile_all(&kernels).map_err(|problems| CodegenError::Units { problems })?;
            let mut built = built.into_iter();
            runnable.retain(|candidate| match built.next().and_then(|built| built.slow) {
                None => true,
                Some(reason) => {
                    record(candidate, Err(reason));
                    false
                }
            });
        }
        if runnable.is_empty() {
            return Ok(outcomes);
        }
        let failed = |error| CodegenError::Timing { op: self.candidates.op.clone(), error: Box::new(error) };
        let site = Site { graph: self.graph, op: self.id, program: self.program };
        let trial = Trial::new(&site, &runnable, (catalog, executor.target()), LAUNCHES);
        let mut trial = trial.map_err(|reason| failed(ExecError::Unsupported(reason)))?;
        if let Some(compiler) = compiler {
            clock::compile(&mut trial.plan, compiler)?;
        }
        let times = run(&trial, executor).map_err(failed)?;
        runnable.iter().zip(times).for_each(|(candidate, time)| record(candidate, Ok(time)));
        Ok(outcomes)
    }
}

/// Nanoseconds per launch of each candidate. Candidates are interleaved, so that a changing clock affects all of them.
fn run(trial: &Trial, executor: &dyn Executor) -> Result<Vec<u64>, ExecError> {
    let mut clock = Clock::start(&trial.plan, &trial.inputs, executor)?;
    let mut time = |program: usize| clock.time(program);
    let mut long = Vec::new();
    // the first run of a program warms up
    for candidate in 0..trial.candidates {
        time(Trial::once(candidate))?;
        long.push(time(Trial::once(candidate))? >= LONG);
        if !long[candidate] {
            time(Trial::often(candidate))?;
        }
    }
    let mut samples = vec![Vec::new(); trial.candidates];
    let (start, enough) = (Instant::now(), TIME_PER_CANDIDATE * trial.candidates as u32);
    for repetition in 0..REPETITIONS {
        if repetition >= FEWEST_REPETITIONS && start.elapsed() > enough {
            break;
        }
        for (candidate, samples) in samples.iter_mut().enumerate() {
            let once = time(Trial::once(candidate))?;
            // the difference excludes the overhead of a step and the first launch
            samples.push(match long[candidate] {
                true => once,
                false => time(Trial::often(candidate))?.saturating_sub(once) / LAUNCHES,
            });
        }
    }
    Ok(samples.into_iter().map(median).collect())
}

fn median(mut samples: Vec<Duration>) -> u64 {
    samples.sort_unstable();
    let middle = samples.get(samples.len() / 2).copied().unwrap_or_default();
    u64::try_from(middle.as_nanos()).unwrap_or(u64::MAX).max(1)
}
