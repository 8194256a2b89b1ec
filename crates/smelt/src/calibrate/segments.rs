//! A model's graph cut into segments that run in order: one per layer, with the observed tensors as outputs.

use std::collections::{HashMap, HashSet};

use crate::Error;
use ir::ops::AppendKv;
use ir::{DerivedWeights, Graph, NoWeights, OpId, Output, Type, Value};
use passes::calibration::{InsertObservers, Observed, observed};
use passes::{Pass, PassContext};

/// A segment of a model.
pub(super) struct Segment {
    /// Its ops.
    pub graph: Graph,
    /// The input, which is the output of the previous segment.
    pub input: Option<Port>,
    /// The output, which is the input of the next segment.
    pub output: Option<Port>,
    /// The observed tensors.
    pub tensors: Vec<Tensor>,
}

/// A tensor that is passed from one segment to the next, in f32.
#[derive(Clone)]
pub(super) struct Port {
    /// Its name.
    pub name: String,
    /// Values per row.
    pub width: usize,
}

/// A tensor that calibration observes.
#[derive(Clone)]
pub(super) struct Tensor {
    /// Its name.
    pub name: String,
    /// Values per row.
    pub channels: usize,
    /// Whether a `linear` reads it.
    pub by_linear: bool,
}

/// Cuts an imported graph after each layer, where a single tensor is live; layers without such a point between them
/// stay together.
pub(super) fn segments(graph: &Graph) -> Result<Vec<Segment>, Error> {
    let mut graph = graph.clone();
    let own = graph.outputs().len();
    let failed = |error: passes::PassError| Error::Unsupported(format!("calibration: {error}"));
    InsertObservers.run(&mut graph, &PassContext::new(&DerivedWeights::over(&NoWeights))).map_err(failed)?;
    let shown = &graph.outputs()[own..];
    let place: HashMap<OpId, usize> = graph.ops().enumerate().map(|(place, id)| (id, place)).collect();
    let cuts = cuts(&graph, shown, &place);
    let by_linear: HashMap<Value, bool> =
        observed(&graph).into_iter().map(|Observed { value, by_linear }| (value, by_linear)).collect();
    let mut segments = Vec::new();
    let mut input: Option<Value> = None;
    let mut from = 0;
    for cut in cuts.iter().copied().map(Some).chain([None]) {
        let to = cut.map_or(place.len(), |value| place[&value.op] + 1);
        let inside = |output: &&Output| place.get(&output.value.op).is_some_and(|place| (from..to).contains(place));
        let looked_at: Vec<Output> = shown.iter().filter(inside).cloned().collect();
        let tensors = looked_at.iter().map(|Output { name, value }| {
            let channels = width(&graph, *value)?;
            Ok(Tensor { name: name.clone(), channels, by_linear: by_linear.get(value).copied().unwrap_or(false) })
        });
        let tensors = tensors.collect::<Result<Vec<_>, Error>>()?;
        let port = |value: Value| {
            Ok::<Port, Error>(Port { name: graph.value_name(value).to_owned(), width: width(&graph, value)? })
        };
        let mut outputs = looked_at;
        if let Some(value) = cut
            && outputs.iter().all(|output| output.value != value)
        {
            outputs.push(Output { name: graph.value_name(value).to_owned(), value });
        }
        let inputs: Vec<Value> = input.into_iter().collect();
        let part = ir::extract(&graph, &inputs, &outputs);
        let part = part.map_err(|error| Error::Unsupported(format!("calibration: {error}")))?;
        let (input_port, output) = (input.map(port).transpose()?, cut.map(port).transpose()?);
        segments.push(Segment { graph: part, input: input_port, output, tensors });
        (input, from) = (cut, to);
    }
    Ok(segments)
}

fn width(graph: &Graph, value: Value) -> Result<usize, Error> {
    let width = graph.tensor(value).and_then(ir::TensorType::width);
    let name = graph.value_name(value);
    width.map(|width| width as usize).ok_or_else(|| Error::Unsupported(format!("`{name}` has rows of no fixed width")))
}

/// The values between layers, in order.
fn cuts(graph: &Graph, shown: &[Output], place: &HashMap<OpId, usize>) -> Vec<Value> {
    let needed = needed(graph, shown);
    // the number of live values after each op, as the difference to the op before it
    let mut alive = vec![0_i64; place.len() + 1];
    let values = graph.ops().filter(|id| needed.contains(id)).flat_map(|id| graph.results(id));
    let ends: Vec<(Value, usize, usize)> = values
        .filter(|value| !graph.is_constant(*value))
        .filter_map(|value| {
            let readers = graph.uses(value).into_iter().filter(|user| needed.contains(&user.op));
            Some((value, place[&value.op], readers.map(|user| place[&user.op]).max()?))
        })
        .collect();
    for (_, from, to) in &ends {
        alive[*from] += 1;
        alive[*to] -= 1;
    }
    let counts = alive.iter().scan(0, |count, change| {
        *count += change;
        Some(*count)
    });
    let alone: Vec<bool> = counts.map(|count| count == 1).collect();
    let layers: Vec<usize> =
        graph.ops().filter(|id| graph.cast::<AppendKv>(*id).is_some()).map(|id| place[&id]).collect();
    let cut = |pair: &[usize]| {
        let cut = (pair[0]..pair[1]).rev().find(|place| alone[*place])?;
        let (value, ..) = ends.iter().find(|(_, from, to)| *from <= cut && cut < *to)?;
        let is_f32 = matches!(graph.ty(*value), Type::Tensor(ty) if ty.dtype == ir::DType::F32);
        is_f32.then_some(*value)
    };
    layers.windows(2).filter_map(cut).collect()
}

/// Ops that the outputs depend on.
fn needed(graph: &Graph, shown: &[Output]) -> HashSet<OpId> {
    let mut needed = HashSet::new();
    let mut open: Vec<OpId> = shown.iter().map(|output| output.value.op).collect();
    while let Some(id) = open.pop() {
        if needed.insert(id) {
            open.extend(graph.operands(id).iter().map(|operand| operand.op));
        }
    }
    needed
}
