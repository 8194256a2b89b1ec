//! Extracts a subgraph: some values become inputs, some become outputs, and the ops between them are kept.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use crate::graph::GraphError;
use crate::{Graph, KvAccess, OpId, Output, Type, Value};

/// The ops that `outputs` depend on, up to `inputs`: values that become inputs of the subgraph, under their names.
/// Other inputs of the graph, and constants, are included as needed; KV cache layers are renumbered.
pub fn extract(graph: &Graph, inputs: &[Value], outputs: &[Output]) -> Result<Graph, GraphError> {
    let needed = needed(graph, inputs, outputs);
    let layers = Layers::of(graph, &needed);
    let mut part = Graph::new(graph.name(), graph.symbols().to_vec(), layers.declarations(graph));
    let mut values: HashMap<Value, Value> = HashMap::new();
    for input in graph.inputs().iter().filter(|input| needed.contains(&input.op) || inputs.contains(input)) {
        add_input(graph, &mut part, *input, &mut values)?;
    }
    for input in inputs {
        if !values.contains_key(input) {
            add_input(graph, &mut part, *input, &mut values)?;
        }
    }
    for id in graph.ops().filter(|id| needed.contains(id)) {
        let operands: Vec<Value> = graph.operands(id).iter().map(|operand| values[operand]).collect();
        let names: Vec<&str> = graph.results(id).map(|result| graph.value_name(result)).collect();
        let moved = layers.place(graph, id).and_then(|(group, layer)| graph.op(id).on_layer(group, layer));
        let added = part.add(moved.unwrap_or_else(|| graph.op(id).clone()), &operands, &names)?;
        for (old, new) in graph.results(id).zip(part.results(added)) {
            // a result that is also an input is read from outside
            values.entry(old).or_insert(new);
        }
    }
    for output in outputs {
        part.add_output(&output.name, values[&output.value]);
    }
    Ok(part)
}

fn add_input(
    graph: &Graph,
    part: &mut Graph,
    value: Value,
    values: &mut HashMap<Value, Value>,
) -> Result<(), GraphError> {
    let Type::Tensor(ty) = graph.ty(value) else {
        let reason = format!("`%{}` orders ops, only tensors can become inputs", graph.value_name(value));
        return Err(GraphError { mnemonic: graph.op(value.op).mnemonic().to_owned(), reason });
    };
    values.insert(value, part.add_input(graph.value_name(value), ty.clone()));
    Ok(())
}

/// Ops and inputs of the graph between the given values.
fn needed(graph: &Graph, inputs: &[Value], outputs: &[Output]) -> HashSet<OpId> {
    let mut needed = HashSet::new();
    let mut open: Vec<Value> = outputs.iter().map(|output| output.value).collect();
    while let Some(value) = open.pop() {
        if !inputs.contains(&value) && needed.insert(value.op) {
            open.extend(graph.operands(value.op));
        }
    }
    needed
}

/// The KV cache layers of a subgraph, by group.
struct Layers(BTreeMap<u32, BTreeSet<u32>>);

impl Layers {
    fn of(graph: &Graph, needed: &HashSet<OpId>) -> Layers {
        let mut layers: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
        for access in needed.iter().filter_map(|id| access(graph, *id)) {
            layers.entry(access.group).or_default().insert(access.layer);
        }
        Layers(layers)
    }

    fn declarations(&self, graph: &Graph) -> Vec<crate::KvDecl> {
        let groups = self.0.iter().filter_map(|(group, layers)| Some((graph.kv().get(*group as usize)?, layers)));
        groups.map(|(group, layers)| crate::KvDecl { layers: layers.len() as u32, ..group.clone() }).collect()
    }

    /// The layer of a KV cache op in the subgraph.
    fn place(&self, graph: &Graph, id: OpId) -> Option<(u32, u32)> {
        let access = access(graph, id)?;
        let group = self.0.keys().position(|group| *group == access.group)?;
        let layer = self.0[&access.group].iter().position(|layer| *layer == access.layer)?;
        Some((group as u32, layer as u32))
    }
}

fn access(graph: &Graph, id: OpId) -> Option<KvAccess> {
    let operands = graph.operands(id);
    let types: Vec<&Type> = operands.iter().map(|value| graph.ty(*value)).collect();
    graph.op(id).kv_access(&types)
}
