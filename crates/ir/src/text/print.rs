//! A graph as text. Names, order and attributes determine every character, so equal graphs print equal.

use std::fmt::Write;

use crate::ops::Constant;
use crate::{Graph, OpId, Value};

/// The text of a graph, one line per op.
pub fn print(graph: &Graph) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write_graph(&mut out, graph);
    out
}

/// The line of one op.
pub fn print_op(graph: &Graph, id: OpId) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write_op(&mut out, graph, id);
    out
}

fn write_graph(out: &mut String, graph: &Graph) -> std::fmt::Result {
    write!(out, "graph @{}", graph.name())?;
    if !graph.symbols().is_empty() {
        let symbols = graph.symbols().iter();
        let bounds: Vec<String> =
            symbols.map(|decl| format!("{} in {}..{}", decl.symbol, decl.min, decl.max)).collect();
        write!(out, "<{}>", bounds.join(", "))?;
    }
    let typed = |value: &Value| format!("%{}: {}", graph.value_name(*value), graph.ty(*value));
    let inputs: Vec<String> = graph.inputs().iter().map(typed).collect();
    writeln!(out, "({}) {{", inputs.join(", "))?;
    for (index, kv) in graph.kv().iter().enumerate() {
        writeln!(
            out,
            "  kv {index} : {} {{layers = {}, kv_heads = {}, head_dim = {}, block_tokens = {}}}",
            kv.dtype, kv.layers, kv.kv_heads, kv.head_dim, kv.block_tokens
        )?;
    }
    for id in graph.ops() {
        write_op(out, graph, id)?;
    }
    let outputs = graph.outputs().iter().map(|output| {
        let name = graph.value_name(output.value);
        if output.name == name { format!("%{name}") } else { format!("{} = %{name}", output.name) }
    });
    writeln!(out, "  return {}", outputs.collect::<Vec<_>>().join(", "))?;
    writeln!(out, "}}")
}

fn write_op(out: &mut String, graph: &Graph, id: OpId) -> std::fmt::Result {
    let names: Vec<String> = graph.results(id).map(|value| format!("%{}", graph.value_name(value))).collect();
    write!(out, "  {} = {}", names.join(", "), graph.op(id).mnemonic())?;
    if let Some(constant) = graph.cast::<Constant>(id) {
        return writeln!(out, " @\"{}\" : {}", constant.key, constant.ty);
    }
    for (index, operand) in graph.operands(id).into_iter().enumerate() {
        let separator = if index > 0 { ", " } else { " " };
        write!(out, "{separator}%{}", graph.value_name(operand))?;
    }
    let attrs = graph.op(id).attrs();
    if !attrs.is_empty() {
        let attrs: Vec<String> = attrs.into_iter().map(|(name, value)| format!("{name} = {value}")).collect();
        write!(out, " {{{}}}", attrs.join(", "))?;
    }
    let types: Vec<String> = graph.results(id).map(|value| graph.ty(value).to_string()).collect();
    writeln!(out, " : {}", types.join(", "))
}
