//! A rewrite: rows are gathered before the work on them, not after it.

use smelt::extend::ir::ops::GatherRows;
use smelt::extend::ir::{Graph, OpClass, OpId, Patch, PatchValue};
use smelt::extend::{Numerics, rewrite_pass};

rewrite_pass! {
    /// `gather_rows(f(x, weight), rows) → f(gather_rows(x, rows), weight)`, if `f` works row by row and all its users
    /// gather these rows.
    pub struct GatherEarly(Numerics::Exact) { gather_early }
}

fn gather_early(graph: &Graph, id: OpId) -> Option<Patch> {
    graph.cast::<GatherRows>(id)?;
    let [value, rows] = graph.operands_of(id)?;
    let f = value.op;
    let elementwise = match graph.op(f).class() {
        OpClass::Elementwise => true,
        OpClass::Reduction | OpClass::Matmul => false,
        _ => return None,
    };
    // the gathers that read f, each with the result it reads
    let mut gathers = Vec::new();
    for result in graph.results(f) {
        let shown = graph.outputs().iter().any(|output| output.value == result);
        let users: Vec<OpId> = graph.uses(result).into_iter().map(|user| user.op).collect();
        let picks = |user: &OpId| graph.cast::<GatherRows>(*user).is_some() && graph.operands(*user) == [result, rows];
        (!shown && users.iter().all(picks)).then_some(())?;
        gathers.extend(users.into_iter().map(|user| (user, result.result)));
    }

    let mut patch = Patch::new();
    let mut operands = Vec::new();
    for x in graph.operands(f) {
        let by_row = elementwise || !graph.is_constant(x);
        operands.push(match by_row {
            true => {
                // a row for each row of the result
                let shape = &graph.tensor(x)?.shape;
                (shape.len() == 2 && shape[0] == graph.tensor(value)?.shape[0]).then_some(())?;
                let picked = patch.add(graph, GatherRows {}, &[x.into(), rows.into()]);
                patch.name(format!("{}.rows", graph.value_name(x)));
                picked
            }
            false => PatchValue::from(x),
        });
    }
    let over_rows = patch.add_op(graph, graph.op(f).clone(), &operands);
    for (gather, result) in gathers {
        patch.replace(graph.result(gather), over_rows.result(result));
    }
    Some(patch)
}
