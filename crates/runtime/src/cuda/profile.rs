//! What the launches of a step take, by events in the stream. The stream is held until all of a run is in it, so that the
//! device never waits for this side.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use plan::{ExecError, Profile, SymbolValues, median};

use super::driver::Event;
use super::failure::Failure;
use super::launch::Between;
use super::session::CudaSession;

impl CudaSession {
    /// Times the launches of a program whose inputs are on the device.
    pub(super) fn times(
        &self,
        index: usize,
        symbols: &SymbolValues,
        places: &[(u32, u64)],
        runs: usize,
    ) -> Result<Profile, ExecError> {
        let file = Arc::clone(&self.file);
        let program = &file.plan().programs[index];
        let failed = |failure: Failure| self.failure(program, 0, failure);
        let pair = || Ok([Event::timing(&self.options.context)?, Event::timing(&self.options.context)?]);
        let marks = program.steps.iter().map(|_| pair()).collect::<Result<Vec<_>, _>>().map_err(failed)?;
        let [whole, nothing] = [pair().map_err(failed)?, pair().map_err(failed)?];
        let run =
            |between| self.launches[index].enqueue(program, symbols, places, &self.functions, &self.stream, between);
        let between = |marks: &[Event; 2]| marks[0].microseconds_to(&marks[1]).map_err(failed);
        let mut alone = vec![Vec::new(); marks.len()];
        let (mut apart, mut step, mut empty) = (Vec::new(), Vec::new(), Vec::new());
        // one more, to warm up
        for round in 0..=runs.max(1) {
            self.held(|| {
                nothing.iter().try_for_each(|mark| mark.record(&self.stream)).map_err(failed)?;
                run(Between::Marks(&marks))
            })?;
            let mut taken = marks.iter().map(between).collect::<Result<Vec<_>, _>>()?.into_iter();
            let overhead = between(&nothing)?;
            let timed = |launches: &dyn Fn() -> Result<(), ExecError>| {
                self.held(|| {
                    whole[0].record(&self.stream).map_err(failed)?;
                    launches()?;
                    whole[1].record(&self.stream).map_err(failed)
                })?;
                between(&whole)
            };
            let in_order = timed(&|| run(Between::Order))?;
            let as_ever = timed(&|| self.launch(index, symbols, places))?;
            if round > 0 {
                alone.iter_mut().zip(&mut taken).for_each(|(samples, time)| samples.push(time));
                empty.push(overhead);
                apart.push(in_order);
                step.push(as_ever);
            }
        }
        // what two events take with nothing between them is no part of a launch
        let overhead = median(empty);
        let alone = alone.into_iter().map(|samples| (median(samples) - overhead).max(0.0));
        let captured = self.graphs[index].is_some();
        Ok(Profile { launches: alone.collect(), apart: median(apart), step: median(step), captured })
    }

    /// Puts work into the stream while it is held, lets it run, and waits for it.
    fn held(&self, enqueue: impl FnOnce() -> Result<(), ExecError>) -> Result<(), ExecError> {
        let ready = Arc::new(AtomicBool::new(false));
        self.stream.hold(&ready).map_err(Failure::device)?;
        let enqueued = enqueue();
        ready.store(true, Ordering::Release);
        enqueued?;
        self.stream.synchronize().map_err(Failure::device)
    }
}
