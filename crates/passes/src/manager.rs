//! Runs a pipeline, and does once what every pass would otherwise repeat: verify, dump, time, bisect, and on failure
//! write down the graph that shows it.

use std::time::{Duration, Instant};

use ir::{Diagnostic, Graph, Stage, text, verify};

use crate::pipeline::{Entry, Pipeline};
use crate::{Changed, Pass, PassContext, PassError};

/// Which passes run.
#[derive(Clone, Debug, Default)]
pub struct PassOptions {
    /// Names of passes that are left out; required ones run all the same.
    pub disabled: Vec<String>,
    /// Passes that are not required stop after this many.
    pub bisect_limit: Option<usize>,
}

/// What one pass did.
#[derive(Clone, Debug)]
pub struct PassReport {
    /// Place among the passes that ran, from 0.
    pub index: usize,
    /// Its number, from 1, among those that a bisect limit counts; none where it is required.
    pub bisect: Option<usize>,
    /// Its name.
    pub name: String,
    /// Whether it changed the graph.
    pub changed: Changed,
    /// Ops before.
    pub ops_before: usize,
    /// Ops after.
    pub ops_after: usize,
    /// How long it took.
    pub time: Duration,
}

/// Sees the graph after each pass.
pub trait Observer {
    /// Called after a pass, before the graph is verified.
    fn after_pass(&mut self, report: &PassReport, graph: &Graph);
}

/// An observer that looks away.
#[derive(Debug)]
pub struct Silent;

impl Observer for Silent {
    fn after_pass(&mut self, _: &PassReport, _: &Graph) {}
}

/// A pass that broke the graph: a bug of that pass.
#[derive(Clone, Debug, thiserror::Error)]
#[error("this is a bug in `{pass}`: {reason}")]
pub struct PassFailure {
    /// The pass, or what else made the graph.
    pub pass: String,
    /// What went wrong.
    pub reason: String,
    /// The graph before the pass as a test case that shows the failure.
    pub repro: String,
    /// Whose fault it is.
    pub cause: Cause,
}

/// Whose fault a failure of a pass is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The pass's own.
    Bug,
    /// A weight or the calibration is not fit for it.
    Input,
    /// The pass does not do this.
    Unsupported,
}

/// Runs pipelines.
#[derive(Clone, Debug, Default)]
pub struct PassManager {
    options: PassOptions,
}

impl PassManager {
    /// A manager with these options.
    pub fn new(options: PassOptions) -> PassManager {
        PassManager { options }
    }

    /// Runs all passes of a pipeline over a graph.
    pub fn run(
        &self,
        pipeline: &Pipeline,
        graph: &mut Graph,
        ctx: &PassContext<'_>,
        observer: &mut dyn Observer,
    ) -> Result<Vec<PassReport>, Box<PassFailure>> {
        let mut reports: Vec<PassReport> = Vec::new();
        let mut stage = Stage::Imported;
        let mut optional = 0;
        let mut last = "import".to_owned();
        for entry in pipeline.entries() {
            match entry {
                Entry::Slot(_) => {}
                Entry::Reach(reached) => {
                    stage = *reached;
                    let before = graph.clone();
                    check(graph, stage).map_err(|reason| failure(&last, reason, &before))?;
                }
                Entry::Pass(pass) => {
                    let name = pass.name().into_owned();
                    let mut bisect = None;
                    if !pass.required() {
                        let over = self.options.bisect_limit.is_some_and(|limit| optional >= limit);
                        if over || self.options.disabled.contains(&name) {
                            continue;
                        }
                        optional += 1;
                        bisect = Some(optional);
                    }
                    let before = graph.clone();
                    let report = run_pass(pass.as_ref(), reports.len(), bisect, graph, ctx);
                    let report = report.map_err(|error| {
                        let cause = match &error {
                            PassError::Input(_) => Cause::Input,
                            PassError::Unsupported(_) => Cause::Unsupported,
                            PassError::Rewrite(_) | PassError::Other(_) => Cause::Bug,
                        };
                        Box::new(PassFailure { cause, ..*failure(&name, error.to_string(), &before) })
                    })?;
                    observer.after_pass(&report, graph);
                    check(graph, stage).map_err(|reason| failure(&name, reason, &before))?;
                    reports.push(report);
                    last = name;
                }
            }
        }
        Ok(reports)
    }
}

fn run_pass(
    pass: &dyn Pass,
    index: usize,
    bisect: Option<usize>,
    graph: &mut Graph,
    ctx: &PassContext<'_>,
) -> Result<PassReport, PassError> {
    let ops_before = graph.len();
    let start = Instant::now();
    let changed = pass.run(graph, ctx)?;
    let time = start.elapsed();
    Ok(PassReport { index, bisect, name: pass.name().into_owned(), changed, ops_before, ops_after: graph.len(), time })
}

fn check(graph: &Graph, stage: Stage) -> Result<(), String> {
    let found = match verify(graph, stage) {
        Ok(_) => return Ok(()),
        Err(found) => found,
    };
    let list: Vec<String> = found.iter().take(8).map(Diagnostic::to_string).collect();
    Err(format!("the graph is not legal at stage `{}`: {}", stage.name(), list.join("; ")))
}

fn failure(pass: &str, reason: String, before: &Graph) -> Box<PassFailure> {
    let repro = format!("// test: pass {pass}\n{}", text::print(before));
    Box::new(PassFailure { pass: pass.to_owned(), reason, repro, cause: Cause::Bug })
}
