//! The cases of a package, and what is done with a case.

use std::path::PathBuf;

use ir::Graph;
use passes::{Changed, Numerics, PassReport};
use smelt::Driver;

use crate::{Case, SeededWeights, run_passes};

/// The cases of a package, and the driver with their ops, passes and kernels.
#[derive(Clone, Debug)]
pub struct Suite {
    /// Where the cases are.
    pub folder: PathBuf,
    /// The driver.
    pub driver: Driver,
}

impl Suite {
    /// smelt's own suite.
    pub fn standard() -> Suite {
        Suite { folder: folder().join("cases"), driver: Driver::new() }
    }

    /// The graph of a case.
    pub fn graph(&self, case: &Case) -> Result<Graph, String> {
        case.graph_of(self.driver.ops())
    }

    /// The graph of a case after the pipeline, its weights, and how values before and after may differ.
    pub fn fused(&self, case: &Case) -> Result<(Graph, SeededWeights, Numerics), String> {
        let graph = self.graph(case)?;
        let weights = SeededWeights::of(&graph, case.dummy_weights);
        let (after, reports) = run_passes(&self.driver.pipeline(), &graph, &weights)?;
        Ok((after, weights, self.numerics(&reports)))
    }

    /// How values may differ after these passes. All fusions round.
    pub fn numerics(&self, reports: &[PassReport]) -> Numerics {
        let changed = reports.iter().filter(|report| report.changed == Changed::Yes);
        let numerics = changed.filter_map(|report| Some(self.driver.passes().find(&report.name)?.numerics()));
        numerics.max().unwrap_or(Numerics::Exact).max(Numerics::Rounding)
    }
}

/// The directory of this package's data. `SMELT_TESTS_DIR` is its path if the tests run on another machine than the one
/// that built them.
pub fn folder() -> PathBuf {
    std::env::var_os("SMELT_TESTS_DIR").map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from)
}
