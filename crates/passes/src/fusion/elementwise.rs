//! Elementwise regions: elementwise ops that read each other's results are fused into one op.

use ir::ops::Map;
use ir::{Apply, Formula, Graph, OpId, Patch, PatchValue, Store, Term, Value};

use crate::{Numerics, rewrite_pass};

rewrite_pass! {
    /// `f(g(x, ..), ..) → map(x, ..) {f = [g.., f..]}` for elementwise ops of one shape. A value with other users
    /// becomes an additional result; inside the region no value is rounded.
    pub struct FuseElementwise(Numerics::Rounding) { into_the_user, into_the_producer }
}

/// `user` and the producer of an operand become one op at the position of the user: no op between them may read the
/// producer, since it would precede it.
fn into_the_user(graph: &Graph, user: OpId) -> Option<Patch> {
    graph.formula(user)?;
    let producers = graph.operands(user).into_iter().map(|operand| operand.op);
    let mut producers = producers.filter(|producer| graph.formula(*producer).is_some());
    let stands_behind = |other: OpId| other == user || graph.place(user) < graph.place(other);
    producers.find_map(|producer| users(graph, producer).all(stands_behind).then(|| joined(graph, producer, user))?)
}

/// `producer` and a user become one op at the position of the producer: all other operands of the user must precede it.
fn into_the_producer(graph: &Graph, producer: OpId) -> Option<Patch> {
    graph.formula(producer)?;
    let is_there = |value: &Value| {
        value.op == producer || graph.place(value.op) < graph.place(producer) || graph.is_constant(*value)
    };
    let reads_what_is_there = |user: OpId| graph.operands(user).iter().all(is_there);
    users(graph, producer).find_map(|user| reads_what_is_there(user).then(|| joined(graph, producer, user))?)
}

/// The users of any result of an op.
fn users(graph: &Graph, id: OpId) -> impl Iterator<Item = OpId> + '_ {
    graph.results(id).flat_map(|value| graph.uses(value)).map(|user| user.op)
}

/// The op that computes both.
fn joined(graph: &Graph, producer: OpId, user: OpId) -> Option<Patch> {
    let formulas = [graph.formula(producer)?, graph.formula(user)?];
    let shape = |id| graph.tensor(graph.result(id)).map(|ty| &ty.shape);
    // constants are computed when the plan is written
    (shape(producer) == shape(user) && !graph.is_constant(graph.result(producer))).then_some(())?;
    let mut region = Region::default();
    for (id, formula) in [producer, user].into_iter().zip(&formulas) {
        region.append(graph, id, formula);
    }
    let read_outside = |value: &Value| {
        let shown = graph.outputs().iter().any(|output| output.value == *value);
        shown || graph.uses(*value).iter().any(|other| other.op != user)
    };
    let values = region.values.iter().filter(|(value, _)| value.op == user || read_outside(value));
    let (replaced, stores): (Vec<Value>, Vec<Store>) = values.copied().unzip();
    let formula = Formula::new(region.steps, stores).ok()?;
    let operands: Vec<PatchValue> = region.operands.into_iter().map(PatchValue::from).collect();
    let mut patch = Patch::new();
    let map = patch.add(graph, Map { f: formula }, &operands);
    for (value, result) in replaced.into_iter().zip(0..) {
        patch.replace(value, map.result(result));
    }
    Some(patch)
}

/// A formula under construction.
#[derive(Default)]
struct Region {
    operands: Vec<Value>,
    steps: Vec<Apply>,
    /// The steps of the ops so far.
    values: Vec<(Value, Store)>,
}

impl Region {
    /// Adds the steps of an op; existing ones are not repeated.
    fn append(&mut self, graph: &Graph, id: OpId, formula: &Formula) {
        let inputs: Vec<Term> = graph.operands(id).into_iter().map(|operand| self.operand(operand)).collect();
        let mut steps: Vec<Term> = Vec::new();
        for step in formula.steps() {
            let args = step.args.iter().map(|term| resolve(*term, &inputs, &steps)).collect();
            let step = Apply { function: step.function, args };
            let index = self.steps.iter().position(|known| *known == step).unwrap_or_else(|| {
                self.steps.push(step);
                self.steps.len() - 1
            });
            steps.push(Term::Step(index as u32));
        }
        for (value, store) in graph.results(id).zip(formula.stores()) {
            self.values.push((value, Store { value: resolve(store.value, &inputs, &steps), ..*store }));
        }
    }

    /// The term of an operand: a value of the region, or an operand of it.
    fn operand(&mut self, operand: Value) -> Term {
        if let Some((_, store)) = self.values.iter().find(|(value, _)| *value == operand) {
            return store.value;
        }
        let index = self.operands.iter().position(|known| *known == operand).unwrap_or_else(|| {
            self.operands.push(operand);
            self.operands.len() - 1
        });
        Term::Input(index as u32)
    }
}

/// A term of a formula as a term of the region.
fn resolve(term: Term, inputs: &[Term], steps: &[Term]) -> Term {
    match term {
        Term::Input(index) => inputs[index as usize],
        Term::Step(index) => steps[index as usize],
        number => number,
    }
}
