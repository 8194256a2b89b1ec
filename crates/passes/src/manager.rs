//! Runs a pipeline, and does for every pass: verify, dump, time, bisect, and on failure write a reproducer.

use std::time::{Duration, Instant};

use ir::{Diagnostic, Graph, Stage, text, verify};

use crate::pipeline::{Entry, Pipeline};
use crate::{Changed, Pass, PassContext, PassError};

/// Which passes run.
#[derive(Clone, Debug, Default)]
pub struct PassOptions {
    /// Disabled passes; required ones run anyway.
    pub disabled: Vec<String>,
    /// Number of optional passes to run.
    pub bisect_limit: Option<usize>,
}

/// Statistics of one pass.
#[derive(Clone, Debug)]
pub struct PassReport {
    /// Index among the passes that ran, from 0.
    pub index: usize,
    /// Its number, from 1, among those that a bisect limit counts; `None` if it is required.
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

/// An observer that does nothing.
#[derive(Debug)]
pub struct Silent;

impl Observer for Silent {
    fn after_pass(&mut self, _: &PassReport, _: &Graph) {}
}

/// A pass that produced an invalid graph, or a graph that passes cannot bring to its stage: `cause` says whose fault it
/// is.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{}{reason}", self.blame())]
pub struct PassFailure {
    /// The pass, or another producer of the graph.
    pub pass: String,
    /// What went wrong.
    pub reason: String,
    /// The graph before the pass as a test case that shows the failure.
    pub repro: String,
    /// Whose fault it is.
    pub cause: Cause,
}

impl PassFailure {
    fn blame(&self) -> String {
        match self.cause {
            Cause::Bug => format!("this is a bug in `{}`: ", self.pass),
            Cause::Input | Cause::Unsupported => String::new(),
        }
    }
}

/// The cause of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// A bug of the pass.
    Bug,
    /// A weight or the calibration is not suitable.
    Input,
    /// Not supported by the pass, or the input graph is illegal at a stage.
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
        let entered = graph.clone();
        for entry in pipeline.entries() {
            match entry {
                Entry::Slot(_) => {}
                Entry::Reach(reached) => {
                    stage = *reached;
                    check(graph, stage).map_err(|found| match always_there(&entered, stage, &found) {
                        Some(old) => unsupported(graph, stage, &old),
                        None => failure(&last, not_legal(stage, &found), graph),
                    })?;
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
                    check(graph, stage).map_err(|found| failure(&name, not_legal(stage, &found), &before))?;
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

fn check(graph: &Graph, stage: Stage) -> Result<(), Vec<Diagnostic>> {
    verify(graph, stage).map(drop)
}

fn not_legal(stage: Stage, found: &[Diagnostic]) -> String {
    let list: Vec<String> = found.iter().take(8).map(Diagnostic::to_string).collect();
    format!("the graph is not legal at stage `{}`: {}", stage.name(), list.join("; "))
}

/// Violations of a stage that were all in the input graph: no pass introduced them. Values have their original names.
/// The producer of an illegal input graph is at fault.
fn always_there(entered: &Graph, stage: Stage, found: &[Diagnostic]) -> Option<Vec<Diagnostic>> {
    if stage == Stage::Imported {
        return None;
    }
    let mut old = verify(entered, stage).err()?;
    let count = |list: &[Diagnostic], message: &str| list.iter().filter(|known| known.message == message).count();
    let worse = found.iter().any(|new| count(found, &new.message) > count(&old, &new.message));
    // violations that passes have fixed are not reported
    old.retain(|known| count(found, &known.message) > 0);
    (!worse).then_some(old)
}

/// A graph that the pipeline cannot make legal.
fn unsupported(graph: &Graph, stage: Stage, found: &[Diagnostic]) -> Box<PassFailure> {
    let reason = not_legal(stage, found) + ", and no pass fixes it";
    let repro = format!("// test: verify {}\n{}", stage.name(), text::print(graph));
    Box::new(PassFailure { cause: Cause::Unsupported, repro, ..*failure("import", reason, graph) })
}

fn failure(pass: &str, reason: String, before: &Graph) -> Box<PassFailure> {
    let repro = format!("// test: pass {pass}\n{}", text::print(before));
    Box::new(PassFailure { pass: pass.to_owned(), reason, repro, cause: Cause::Bug })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ir::{DerivedWeights, NoWeights, OpSet};

    use super::*;
    use crate::Slot;
    use crate::pipeline::standard;

    /// A pass that returns another graph.
    #[derive(Debug)]
    struct Leaves(&'static str);

    impl Pass for Leaves {
        fn run(&self, graph: &mut Graph, _: &PassContext<'_>) -> Result<Changed, PassError> {
            *graph = read(self.0);
            Ok(Changed::Yes)
        }
    }

    const JOINED: &str = "graph @g<T in 1..8>(%x: f32[T, 3], %y: f32[2 * T, 3]) {
        %unused = silu %y : f32[2 * T, 3]
        %twice = concat %x, %x : f32[2 * T, 3]
        %z = add %twice, %y : f32[2 * T, 3]
        return %z
    }";
    const JOINED_MORE: &str = "graph @g<T in 1..8>(%x: f32[T, 3], %y: f32[2 * T, 3]) {
        %twice = concat %x, %x : f32[2 * T, 3]
        %z = add %twice, %y : f32[2 * T, 3]
        %more = concat %z, %y : f32[4 * T, 3]
        return %more
    }";
    const SUM: &str = "graph @g<T in 1..8>(%y: f32[2 * T, 3]) {
        %z = add %y, %y : f32[2 * T, 3]
        return %z
    }";

    fn read(text: &str) -> Graph {
        text::parse(text, &OpSet::standard()).unwrap().graph
    }

    fn failure_of(text: &str, pipeline: &Pipeline) -> PassFailure {
        let (mut graph, weights) = (read(text), DerivedWeights::over(&NoWeights));
        let context = PassContext::new(&weights);
        *PassManager::default().run(pipeline, &mut graph, &context, &mut Silent).unwrap_err()
    }

    #[test]
    fn what_was_there_before_is_no_fault_of_a_pass() {
        let failure = failure_of(JOINED, &standard());
        assert_eq!(failure.cause, Cause::Unsupported);
        // neither a pass is named, nor violations that passes have fixed
        let reason = "the graph is not legal at stage `fused`: `%twice`: joins values of a step; only weights can be \
                      joined, and no pass fixes it";
        assert_eq!(failure.to_string(), reason);
        assert!(failure.repro.starts_with("// test: verify fused\ngraph @g"), "{}", failure.repro);
    }

    #[test]
    fn a_pass_that_makes_a_graph_worse_is_named() {
        for (entered, left) in [(SUM, JOINED), (JOINED, JOINED_MORE)] {
            let pipeline = standard().with(Slot::BeforeFusion, Arc::new(Leaves(left)));
            let failure = failure_of(entered, &pipeline);
            assert_eq!(failure.cause, Cause::Bug);
            assert!(failure.to_string().starts_with("this is a bug in `"), "{failure}");
        }
    }
}
