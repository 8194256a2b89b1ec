//! Timing the launches of the step that comes next.

use plan::{Bindings, Cost, DimError, Plan, Profile, ProgramKind, Step, Symbol, SymbolValues, context};

use crate::{Engine, EngineError};

/// A step whose launches were timed.
#[derive(Clone, Debug, PartialEq)]
pub struct ProfiledStep {
    /// Index of its program.
    pub program: usize,
    /// Its sizes.
    pub symbols: SymbolValues,
    /// Its sequences.
    pub sequences: Vec<ProfiledSequence>,
    /// What its launches take.
    pub times: Profile,
}

/// A sequence of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProfiledSequence {
    /// Tokens that the step takes of it.
    pub tokens: u64,
    /// Tokens before those.
    pub cached: u64,
}

impl ProfiledStep {
    /// What each of its launches has to do. A query looks back at its own part of the context, and keys and values of a
    /// sequence are read once.
    pub fn costs(&self, plan: &Plan) -> Result<Vec<Cost>, DimError> {
        let places = |name: &str| Symbol::new(name).and_then(|symbol| self.symbols.get(&symbol).copied()).unwrap_or(1);
        let mean = |total: u64, places: u64| (total + places / 2) / places.max(1);
        let read = self.sequences.iter().map(|sequence| sequence.cached + sequence.tokens).sum();
        let back = |sequence: &ProfiledSequence| {
            sequence.tokens * sequence.cached + sequence.tokens * (sequence.tokens + 1) / 2
        };
        let looked_back = self.sequences.iter().map(back).sum();
        let values = |tokens: u64| {
            let mut values = self.symbols.clone();
            values.entry(context()).or_insert(tokens);
            values
        };
        let (reading, looking) = (values(mean(read, places("B"))), values(mean(looked_back, places("T"))));
        let launches = plan.programs[self.program].steps.iter().map(|Step::Launch(launch)| &launch.work);
        launches.map(|work| Ok(Cost { flops: work.flops.eval(&looking)?, ..work.eval(&reading)? })).collect()
    }

    /// Cached tokens of a sequence, its new ones among them: the mean.
    pub fn context(&self) -> f64 {
        let tokens: u64 = self.sequences.iter().map(|sequence| sequence.cached + sequence.tokens).sum();
        tokens as f64 / self.sequences.len().max(1) as f64
    }

    /// Whether it is one new token for each sequence.
    pub fn decodes(&self, plan: &Plan) -> bool {
        plan.programs[self.program].kind == ProgramKind::Decode
    }
}

impl Engine {
    /// Times the launches of the step that comes next, in as many runs, and does not take it. `None` where nothing is to
    /// be done, and of sessions that do not time launches. No step may run ahead: see [`Engine::submit_in_order`].
    pub fn profile_next(&mut self, runs: usize) -> Result<Option<ProfiledStep>, EngineError> {
        if self.core.under_way() > usize::from(self.planned.is_some()) {
            return Err(EngineError::Request("a step is under way already, which cannot be profiled".to_owned()));
        }
        if !self.plan_next() {
            return Ok(None);
        }
        let (Some(inputs), Some(step)) = (&self.planned, self.core.planned()) else { return Ok(None) };
        let sequences = step
            .chunks
            .iter()
            .map(|chunk| ProfiledSequence { tokens: chunk.tokens as u64, cached: chunk.start as u64 });
        let sequences = sequences.collect();
        let bindings = Bindings { symbols: &inputs.symbols, inputs: &inputs.named() };
        let times = self.session.profile(inputs.program, &bindings, runs)?;
        let (program, symbols) = (inputs.program, inputs.symbols.clone());
        Ok(times.map(|times| ProfiledStep { program, symbols, sequences, times }))
    }

    /// Keeps steps from being submitted before the results of the ones before them were read, or no longer does.
    pub fn submit_in_order(&mut self, in_order: bool) {
        self.in_order = in_order;
    }

    /// Keeps requests from using and filling the prefix cache, or no longer does; returns what held before.
    pub fn reuse_prefixes(&mut self, reuse: bool) -> bool {
        self.core.reuse_prefixes(reuse)
    }
}
