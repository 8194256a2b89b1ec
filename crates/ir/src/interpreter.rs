//! The reference interpreter: the semantics of a graph, one op at a time.

use std::collections::HashMap;

use plan::SymbolValues;

use crate::ops::{Constant, Input};
use crate::{Graph, HostTensor, KvState, NoWeights, OpId, Type, Value, WeightSource, read_tensor};

/// The environment of an evaluation.
pub struct Environment<'a> {
    /// Source of constants.
    pub weights: &'a dyn WeightSource,
    /// Values of the graph's symbols.
    pub symbols: SymbolValues,
    /// Values of the graph's inputs, by name.
    pub inputs: HashMap<String, HostTensor>,
}

impl Environment<'_> {
    /// An environment without weights, symbols and inputs.
    pub fn empty() -> Environment<'static> {
        Environment { weights: &NoWeights, symbols: SymbolValues::new(), inputs: HashMap::new() }
    }
}

/// Why a graph could not be evaluated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`%{value}`: {reason}")]
pub struct EvalError {
    /// The value that could not be computed.
    pub value: String,
    /// The reason.
    pub reason: String,
}

/// Evaluates a graph and returns its outputs in order. The KV cache is read and written.
pub fn evaluate(graph: &Graph, env: &Environment<'_>, kv: &mut KvState) -> Result<Vec<HostTensor>, EvalError> {
    let mut values: HashMap<Value, HostTensor> = HashMap::new();
    let mut remaining: HashMap<Value, usize> = HashMap::new();
    for value in graph.inputs() {
        values.insert(*value, compute(graph, value.op, &[], env, kv)?.remove(0));
        remaining.insert(*value, graph.uses(*value).len());
    }
    for output in graph.outputs() {
        *remaining.entry(output.value).or_default() += 1;
    }
    for id in graph.ops() {
        let operands = graph.operands(id);
        let tensors: Vec<&HostTensor> = operands.iter().map(|value| &values[value]).collect();
        let results = compute(graph, id, &tensors, env, kv)?;
        for (value, tensor) in graph.results(id).zip(results) {
            *remaining.entry(value).or_default() += graph.uses(value).len();
            values.insert(value, tensor);
        }
        // Values are dropped after their last use: those of a real model would not fit.
        for operand in operands {
            if let Some(left) = remaining.get_mut(&operand) {
                *left = left.saturating_sub(1);
                if *left == 0 {
                    values.remove(&operand);
                }
            }
        }
    }
    Ok(graph.outputs().iter().map(|output| values[&output.value].clone()).collect())
}

/// The value of a constant of the graph, computed op by op.
pub fn constant_value(graph: &Graph, value: Value, weights: &dyn WeightSource) -> Result<HostTensor, EvalError> {
    let env = Environment { weights, ..Environment::empty() };
    let mut operands = Vec::new();
    for operand in graph.operands(value.op) {
        operands.push(constant_value(graph, operand, weights)?);
    }
    let operands: Vec<&HostTensor> = operands.iter().collect();
    let results = compute(graph, value.op, &operands, &env, &mut KvState::new(&[]))?;
    Ok(results.into_iter().nth(value.result as usize).unwrap_or_else(HostTensor::effect))
}

/// The results of one op, rounded to their dtypes, with shapes checked against the types.
fn compute(
    graph: &Graph,
    id: OpId,
    operands: &[&HostTensor],
    env: &Environment<'_>,
    kv: &mut KvState,
) -> Result<Vec<HostTensor>, EvalError> {
    let name = graph.value_name(graph.result(id));
    let error = |reason: String| EvalError { value: name.to_owned(), reason };
    let results = if let Some(constant) = graph.cast::<Constant>(id) {
        vec![read_tensor(env.weights, &constant.key, &constant.ty).map_err(error)?]
    } else if graph.cast::<Input>(id).is_some() {
        vec![env.inputs.get(name).cloned().ok_or_else(|| error("the input has no value".to_owned()))?]
    } else {
        graph.op(id).eval(operands, kv).map_err(error)?
    };
    let mut rounded = Vec::with_capacity(results.len());
    for (value, tensor) in graph.results(id).zip(results) {
        let Type::Tensor(ty) = graph.ty(value) else {
            rounded.push(tensor);
            continue;
        };
        let shape: Result<Vec<usize>, _> =
            ty.shape.iter().map(|dim| dim.eval(&env.symbols).map(|size| size as usize)).collect();
        let shape = shape.map_err(|dim_error| error(dim_error.to_string()))?;
        if shape != tensor.shape {
            return Err(error(format!("has shape {:?}, its type has {shape:?}", tensor.shape)));
        }
        rounded.push(tensor.rounded(ty.dtype));
    }
    Ok(rounded)
}
