//! Common subexpression elimination.

use std::collections::HashMap;

use ir::ops::{Add, Mul};
use ir::{Graph, OpClass, OpId, Patch, Value};

use crate::{Changed, Numerics, PassError, graph_pass};

graph_pass! {
    /// Equal ops with equal operands are merged into the first of them, including constants of one key. Stateful ops
    /// are kept: an append writes, attention reads earlier writes, and no two inputs are equal.
    pub struct EliminateCommonSubexpressions(Numerics::Exact) = |graph, _| eliminate(graph);
}

fn eliminate(graph: &mut Graph) -> Result<Changed, PassError> {
    let mut seen: HashMap<(String, Vec<Value>), OpId> = HashMap::new();
    let mut changed = false;
    // In program order, so that operands are already the ones that stay.
    let ids: Vec<OpId> = graph.ops().filter(|id| graph.op(*id).class() != OpClass::State).collect();
    for id in ids {
        let key = meaning(graph, id);
        match seen.get(&key) {
            None => drop(seen.insert(key, id)),
            Some(first) => {
                let mut patch = Patch::new();
                for (old, same) in graph.results(id).zip(graph.results(*first)) {
                    patch.replace(old, same);
                }
                graph.apply("eliminate-common-subexpressions", id, patch)?;
                changed = true;
            }
        }
    }
    Ok(changed.into())
}

/// The computation of an op: equal keys mean equal results.
fn meaning(graph: &Graph, id: OpId) -> (String, Vec<Value>) {
    let op = graph.op(id);
    let mut operands = graph.operands(id);
    if graph.cast::<Add>(id).is_some() || graph.cast::<Mul>(id).is_some() {
        operands.sort(); // a + b is b + a, to the last bit
    }
    (format!("{} {:?} {}", op.mnemonic(), op.attrs(), graph.ty(graph.result(id))), operands)
}
