//! Passes by name, for test cases and the command line.

use std::sync::Arc;

use crate::Pass;
use crate::calibration::InsertObservers;
use crate::pipeline::{self, Entry};
use crate::quantize::{ActivationScales, Format, Layers, ScaleKv};

/// Passes in the order of their names, and those of a program after them.
#[derive(Clone, Debug)]
pub struct PassList {
    passes: Vec<Arc<dyn Pass>>,
}

impl PassList {
    /// The passes of the pipeline, and those that options insert.
    pub fn standard() -> PassList {
        let pipeline = pipeline::standard();
        let in_pipeline = pipeline.entries().iter().filter_map(|entry| match entry {
            Entry::Pass(pass) => Some(Arc::clone(pass)),
            Entry::Reach(_) | Entry::Slot(_) => None,
        });
        let pass = |format: Format| format.pass(Layers::Inner, ActivationScales::Dynamic);
        let formats = Format::ALL.into_iter().map(pass);
        let inserted: [Arc<dyn Pass>; 2] = [Arc::new(InsertObservers), Arc::new(ScaleKv::default())];
        let mut passes: Vec<Arc<dyn Pass>> = in_pipeline.chain(formats).chain(inserted).collect();
        passes.sort_by_key(|pass| pass.name());
        passes.dedup_by_key(|pass| pass.name());
        PassList { passes }
    }

    /// Adds a pass.
    pub fn add(&mut self, pass: Arc<dyn Pass>) {
        self.passes.push(pass);
    }

    /// The pass of this name.
    pub fn find(&self, name: &str) -> Option<Arc<dyn Pass>> {
        self.iter().find(|pass| pass.name() == name).cloned()
    }

    /// All passes.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<dyn Pass>> {
        self.passes.iter()
    }
}
