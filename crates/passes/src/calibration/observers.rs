//! Makes the tensors that calibration observes outputs of the graph.

use ir::ops::{AppendKv, Linear};
use ir::{Graph, Value};

use crate::{Changed, Numerics, PassError, graph_pass};

/// A value that calibration observes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observed {
    /// The value.
    pub value: Value,
    /// Whether a `linear` reads it; otherwise it is stored in the KV cache.
    pub by_linear: bool,
}

/// The inputs of every `linear`, and the keys and values of every `append_kv`: each once, in program order of their
/// first readers.
pub fn observed(graph: &Graph) -> Vec<Observed> {
    let mut found: Vec<Observed> = Vec::new();
    for id in graph.ops() {
        let (count, by_linear) = match (graph.cast::<Linear>(id), graph.cast::<AppendKv>(id)) {
            (Some(_), _) => (1, true),
            (_, Some(_)) => (2, false),
            _ => continue,
        };
        for value in graph.operands(id).into_iter().take(count).filter(|value| !graph.is_constant(*value)) {
            match found.iter_mut().find(|observed| observed.value == value) {
                Some(observed) => observed.by_linear |= by_linear,
                None => found.push(Observed { value, by_linear }),
            }
        }
    }
    found
}

graph_pass! {
    /// Inputs of linear layers and values stored in the KV cache become outputs, under their own names.
    pub struct InsertObservers(Numerics::Exact) = |graph, _| insert(graph);
}

fn insert(graph: &mut Graph) -> Result<Changed, PassError> {
    let mut changed = false;
    for Observed { value, .. } in observed(graph) {
        let name = graph.value_name(value).to_owned();
        if graph.outputs().iter().all(|output| output.name != name) {
            graph.add_output(&name, value);
            changed = true;
        }
    }
    Ok(changed.into())
}
