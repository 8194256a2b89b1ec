//! An analysis: it leaves the graph unchanged, and stores its result for the holders of its clones.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use smelt::extend::ir::ops::Linear;
use smelt::extend::ir::{Graph, OpId};
use smelt::extend::{Changed, Dim, Pass, PassContext, PassError};

/// Counts the arithmetic of products with weights, by layer, over the sizes of a step.
#[derive(Clone, Debug, Default)]
pub struct CountFlops {
    found: Arc<Mutex<Option<Flops>>>,
}

/// The result of [`CountFlops`]: floating-point operations of a step, by layer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flops {
    /// By layer number, `None` outside of layers; two operations per weight and row.
    pub layers: BTreeMap<Option<u32>, Dim>,
}

impl CountFlops {
    /// The result of the last run.
    pub fn found(&self) -> Option<Flops> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Pass for CountFlops {
    fn summary(&self) -> &'static str {
        "counts the arithmetic of products with weights, layer by layer"
    }

    fn run(&self, graph: &mut Graph, _: &PassContext<'_>) -> Result<Changed, PassError> {
        let mut flops = Flops::default();
        for (id, count) in graph.ops().filter_map(|id| Some((id, product(graph, id)?))) {
            let sum = flops.layers.entry(layer(graph, id)).or_insert(Dim::from(0));
            *sum = sum.clone() + count;
        }
        *self.found.lock().unwrap_or_else(PoisonError::into_inner) = Some(flops);
        Ok(Changed::No)
    }
}

/// Operations of a product with a weight: two per element and row.
fn product(graph: &Graph, id: OpId) -> Option<Dim> {
    graph.cast::<Linear>(id)?;
    let (result, weight) = (graph.tensor(graph.result(id))?, graph.tensor(graph.operands(id)[1])?);
    let rows = result.shape.split_last()?.1.iter().cloned();
    Some(rows.chain(weight.shape.iter().cloned()).fold(Dim::from(2), |product, dim| product * dim))
}

/// The number in `layers.3.mlp.down`.
fn layer(graph: &Graph, id: OpId) -> Option<u32> {
    graph.value_name(graph.result(id)).strip_prefix("layers.")?.split('.').next()?.parse().ok()
}

impl fmt::Display for Flops {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "FLOPs of a step, for its T tokens and R rows of logits:")?;
        for (layer, count) in &self.layers {
            let name = layer.map_or("no layer".to_owned(), |layer| format!("layer {layer}"));
            writeln!(f, "  {name:<9} {count}")?;
        }
        let total = self.layers.values().cloned().fold(Dim::from(0), |sum, count| sum + count);
        writeln!(f, "  {:<9} {total}", "all")
    }
}
