//! Constants are computed once, when the plan is written: what depends on constants alone must be in the graph once.

use std::collections::HashMap;

use ir::{Graph, Patch, Value};

use crate::{Changed, Pass, PassContext, PassError};

/// Equal constants, and equal ops over equal constants, become one. Code generation turns what is left into recipes
/// for weights.
#[derive(Clone, Copy, Debug, Default)]
pub struct FoldConstants;

impl Pass for FoldConstants {
    fn run(&self, graph: &mut Graph, _: &PassContext<'_>) -> Result<Changed, PassError> {
        let mut seen: HashMap<(String, Vec<Value>), Value> = HashMap::new();
        let mut changed = false;
        // In program order, so that operands are already the ones that stay.
        let ids: Vec<_> = graph.ops().filter(|id| graph.is_constant(graph.result(*id))).collect();
        for id in ids {
            let op = graph.op(id);
            let text = format!("{} {:?} {}", op.mnemonic(), op.attrs(), graph.ty(graph.result(id)));
            let key = (text, graph.operands(id));
            match seen.get(&key) {
                None => drop(seen.insert(key, graph.result(id))),
                Some(first) => {
                    let mut patch = Patch::new();
                    for (old, result) in graph.results(id).zip(0..) {
                        patch.replace(old, Value { op: first.op, result });
                    }
                    graph.apply("fold-constants", id, patch)?;
                    changed = true;
                }
            }
        }
        Ok(changed.into())
    }
}
