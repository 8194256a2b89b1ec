//! `smelt inspect --dot`: a program for Graphviz. Launches are nodes, what one hands to another is an edge, and each
//! layer is a cluster.

use std::collections::HashMap;
use std::fmt::Write;

use smelt::plans::Arg;

use super::figures::time;
use super::view::View;

/// The program as a graph in the DOT language.
pub fn dot(view: &View<'_>) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write(&mut out, view);
    out
}

fn write(out: &mut String, view: &View<'_>) -> std::fmt::Result {
    let program = view.program;
    writeln!(out, "digraph {} {{", quoted(&program.name))?;
    writeln!(out, "  node [shape = box, style = rounded, fontname = \"sans-serif\", fontsize = 10];")?;
    writeln!(out, "  edge [fontname = \"sans-serif\", fontsize = 8];")?;
    for port in &program.inputs {
        writeln!(out, "  in_b{} [shape = ellipse, label = {}];", port.buffer, quoted(&port.name))?;
    }
    for run in view.nodes.chunk_by(|a, b| a.layer == b.layer) {
        let layer = run[0].layer;
        if let Some(layer) = layer {
            writeln!(out, "  subgraph cluster_{layer}_{} {{ label = \"layer {layer}\";", run[0].step)?;
        }
        for node in run {
            let label = [&node.launch.site, node.op, &node.kernel.name, &time(node.estimate.seconds)].map(quote);
            writeln!(out, "    n{} [label = \"{}\"];", node.step, label.join("\\n"))?;
        }
        if layer.is_some() {
            writeln!(out, "  }}")?;
        }
    }
    let mut writers: HashMap<Arg, String> =
        program.inputs.iter().map(|port| (Arg::Buffer(port.buffer), format!("in_b{}", port.buffer))).collect();
    for node in &view.nodes {
        for arg in &node.launch.inputs {
            if let Some(writer) = writers.get(arg) {
                writeln!(out, "  {writer} -> n{} [label = {}];", node.step, quoted(&handed(view, *arg)))?;
            }
        }
        writers.extend(node.launch.outputs.iter().map(|arg| (*arg, format!("n{}", node.step))));
    }
    for (index, port) in program.outputs.iter().enumerate() {
        writeln!(out, "  out_{index} [shape = ellipse, label = {}];", quoted(&port.name))?;
        if let Some(writer) = writers.get(&Arg::Buffer(port.buffer)) {
            writeln!(out, "  {writer} -> out_{index};")?;
        }
    }
    writeln!(out, "}}")
}

/// What travels along an edge.
fn handed(view: &View<'_>, arg: Arg) -> String {
    match arg {
        Arg::Buffer(index) => {
            let buffer = &view.program.buffers[index as usize];
            let shape: Vec<String> = buffer.shape.iter().map(ToString::to_string).collect();
            format!("{}[{}]", buffer.dtype, shape.join(", "))
        }
        Arg::Kv { .. } => "KV cache".to_owned(),
        Arg::Weight(_) => String::new(),
    }
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", quote(text))
}

/// Text between quotes. Graphviz knows no other escapes that matter.
fn quote(text: &str) -> String {
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    text.replace('\\', "\\\\").replace('"', "\\\"")
}
