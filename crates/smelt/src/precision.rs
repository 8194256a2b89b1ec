//! Options of precision to the passes that they mean.

use std::sync::Arc;

use ir::Graph;
use passes::quantize::{Assignment, linears};
use passes::{EliminateCommonSubexpressions, Pipeline, Slot};

use crate::{Error, PrecisionOptions};

/// The format of each linear of an imported graph.
pub(crate) fn assignment(graph: &Graph, options: &PrecisionOptions) -> Result<Assignment, Error> {
    let linears = linears(graph);
    let mut assignment = Assignment::uniform(&linears, options.linears, options.head);
    if let Some(map) = &options.map {
        let edited = assignment.edit(&map.text, &linears);
        edited.map_err(|reason| Error::BadInput(format!("{}: {reason}", map.path.display())))?;
    }
    Ok(assignment)
}

/// The pipeline with the passes of an assignment.
pub(crate) fn quantizing(pipeline: Pipeline, assignment: &Assignment) -> Pipeline {
    let passes = assignment.passes();
    if passes.is_empty() {
        return pipeline;
    }
    let pipeline = passes.into_iter().fold(pipeline, |pipeline, pass| pipeline.with(Slot::BeforeFusion, pass));
    // linears over the same activations make the same codes of them
    pipeline.with(Slot::BeforeFusion, Arc::new(EliminateCommonSubexpressions))
}
