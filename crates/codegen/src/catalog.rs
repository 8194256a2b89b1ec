//! The catalog of a target's kernels, in order of preference, with what is known about their speed.

use std::collections::BTreeMap;

use crate::tuning::Timings;
use crate::{Call, Kernel};

/// The kernels of a target, in order of preference.
#[derive(Debug, Default)]
pub struct Catalog {
    kernels: Vec<Box<dyn Kernel>>,
    /// Units that compiled to slow code, with the reason.
    slow: BTreeMap<String, String>,
    /// Timings, which decide if they are known.
    timings: Timings,
}

impl Catalog {
    /// A catalog of these kernels.
    pub fn new(kernels: Vec<Box<dyn Kernel>>) -> Catalog {
        Catalog { kernels, slow: BTreeMap::new(), timings: Timings::default() }
    }

    /// The same catalog with one more kernel, preferred to the existing ones.
    pub fn with(mut self, kernel: Box<dyn Kernel>) -> Catalog {
        self.kernels.insert(0, kernel);
        self
    }

    /// The same catalog with timings: if all candidates for an op are timed, the fastest is chosen.
    pub fn timed(self, timings: Timings) -> Catalog {
        Catalog { timings, ..self }
    }

    /// From now on, these timings decide.
    pub(crate) fn set_timings(&mut self, timings: Timings) {
        self.timings = timings;
    }

    /// The timings that decide.
    pub(crate) fn timings(&self) -> &Timings {
        &self.timings
    }

    /// From now on, a call with this unit is a last resort: it compiles to slow code. Returns false if it already was.
    pub fn refuse(&mut self, unit: String, reason: String) -> bool {
        self.slow.insert(unit, reason).is_none()
    }

    /// Why an offered call is not used.
    pub(crate) fn refused(&self, call: &Call) -> Option<&str> {
        let device = call.device.as_ref().filter(|_| !self.slow.is_empty())?;
        self.slow.get(&device.source()).map(String::as_str)
    }

    /// All kernels, the preferred first.
    pub fn iter(&self) -> impl Iterator<Item = &dyn Kernel> {
        self.kernels.iter().map(Box::as_ref)
    }
}
