//! Only sampled rows are computed: gather_rows moves up through row-wise ops.

use ir::ops::{GatherRows, LayerNorm, Linear, RmsNorm, Swiglu};
use ir::{Graph, OpClass, OpId, Patch, PatchValue, Value};

use crate::{Numerics, rewrite_pass};

rewrite_pass! {
    /// `gather_rows(f(x, ..), rows) → f(gather_rows(x, rows), ..)` if `f` works row by row and only these rows of its
    /// result are read: the final norm, and everything after attention in the last layer.
    pub struct GatherRowsEarly(Numerics::Exact) { gather_rows_early }
}

// matched at `f`, so that the replacement keeps its position
fn gather_rows_early(graph: &Graph, id: OpId) -> Option<Patch> {
    let by_row = operands_by_row(graph, id)?;
    let x = graph.result(id);
    let (gathers, rows) = gathers(graph, x)?;
    // constants are computed when the plan is written
    (!graph.is_constant(x)).then_some(())?;
    let mut patch = Patch::new();
    let mut moved: Vec<(Value, PatchValue)> = Vec::new();
    let mut operands: Vec<PatchValue> = Vec::new();
    for (operand, by_row) in graph.operands(id).into_iter().zip(by_row) {
        let known = moved.iter().find(|(value, _)| *value == operand).map(|(_, gathered)| *gathered);
        operands.push(match (by_row, known) {
            (false, _) => operand.into(),
            (true, Some(gathered)) => gathered,
            (true, None) => {
                let gathered = patch.add(graph, GatherRows {}, &[operand.into(), rows.into()]);
                patch.name(format!("{}.rows", graph.value_name(operand)));
                moved.push((operand, gathered));
                gathered
            }
        });
    }
    let fewer = patch.add_op(graph, graph.op(id).clone(), &operands);
    // the first one's name is assigned last, so it is kept
    gathers.into_iter().rev().for_each(|gather| patch.replace(graph.result(gather), fewer));
    Some(patch)
}

/// All users of `x`, if they gather the same rows of it, and the row indices.
fn gathers(graph: &Graph, x: Value) -> Option<(Vec<OpId>, Value)> {
    let shown = graph.outputs().iter().any(|output| output.value == x);
    let mut users: Vec<OpId> = graph.uses(x).into_iter().map(|user| user.op).collect();
    let [_, rows] = graph.operands_of(*users.first().filter(|_| !shown)?)?;
    let same = |user: &OpId| graph.cast::<GatherRows>(*user).is_some() && graph.operands(*user) == [x, rows];
    users.iter().all(same).then_some(())?;
    users.sort_by_key(|user| graph.value_name(graph.result(*user)));
    Some((users, rows))
}

/// Which operands of a row-wise op are rows themselves; the others are the same for all rows.
fn operands_by_row(graph: &Graph, id: OpId) -> Option<Vec<bool>> {
    let operands = graph.operands(id);
    if graph.op(id).class() == OpClass::Elementwise && graph.results(id).count() == 1 {
        return operands.into_iter().map(|operand| Some(graph.tensor(operand)?.shape.len() == 2)).collect();
    }
    let one_by_row = graph.cast::<RmsNorm>(id).is_some()
        || graph.cast::<LayerNorm>(id).is_some()
        || graph.cast::<Linear>(id).is_some()
        || graph.cast::<Swiglu>(id).is_some();
    one_by_row.then(|| (0..operands.len()).map(|index| index == 0).collect())
}
