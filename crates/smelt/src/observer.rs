//! What a caller sees of a compilation: the result of each stage.

use codegen::{Lowered, Selection};
use ir::Graph;
use passes::PassReport;

use crate::{PassTime, Quiet, Unit};

/// Sees the results of a compilation's stages, also of those before one that fails.
pub trait Observer {
    /// The graph as it was imported.
    fn imported(&mut self, _graph: &Graph) {}
    /// The graph after a pass.
    fn after_pass(&mut self, _pass: &PassTime, _graph: &Graph) {}
    /// The graph after all passes, and its kernels by heuristics.
    fn selected(&mut self, _graph: &Graph, _selection: &Selection) {}
    /// The plan without machine code.
    fn lowered(&mut self, _lowered: &Lowered) {}
    /// The plan with machine code, and the code of its kernels. Kernels that would be slow have been replaced.
    fn built(&mut self, _lowered: &Lowered, _units: &[Unit]) {}
}

impl Observer for Quiet {}

/// Passes as an observer sees them, if there is one.
pub(crate) struct ObservedPasses<'o, 'a>(pub Option<&'o mut (dyn Observer + 'a)>);

impl passes::Observer for ObservedPasses<'_, '_> {
    fn after_pass(&mut self, report: &PassReport, graph: &Graph) {
        if let Some(observer) = &mut self.0 {
            observer.after_pass(&PassTime::from(report), graph);
        }
    }
}
