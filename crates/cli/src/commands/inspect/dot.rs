//! `smelt inspect --dot`: a program for Graphviz. Launches are nodes, what one hands to another is an edge, and each
//! layer is a cluster. Nodes stand before the clusters, and are called what they compute, because Netron leaves out
//! clusters and shows names.

use std::collections::HashMap;
use std::fmt::Write;

use smelt::plans::Arg;

use super::figures::time;
use super::view::{Node, View};

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
    let input = |name: &str| quoted(&format!("input {name}"));
    for port in &program.inputs {
        writeln!(out, "  {} [shape = ellipse, label = {}];", input(&port.name), quoted(&port.name))?;
    }
    for node in &view.nodes {
        let label = [&node.launch.site, node.op, &node.kernel.name, &time(node.estimate.seconds)].map(quote);
        writeln!(out, "  {} [label = \"{}\"];", name(node), label.join("\\n"))?;
    }
    for run in view.nodes.chunk_by(|a, b| a.layer == b.layer) {
        if let Some(layer) = run[0].layer {
            let nodes: Vec<String> = run.iter().map(name).collect();
            let cluster = format!("cluster_{layer}_{}", run[0].step);
            writeln!(out, "  subgraph {cluster} {{ label = \"layer {layer}\"; {}; }}", nodes.join("; "))?;
        }
    }
    let mut writers: HashMap<Arg, String> =
        program.inputs.iter().map(|port| (Arg::Buffer(port.buffer), input(&port.name))).collect();
    for node in &view.nodes {
        for arg in &node.launch.inputs {
            let Some(writer) = writers.get(arg) else { continue };
            // most launches read the step's indices: were these edges like others, they would hide them
            let look = match program.inputs.iter().any(|port| *arg == Arg::Buffer(port.buffer)) {
                true => "style = dotted, color = gray, constraint = false".to_owned(),
                false => format!("label = {}", quoted(&handed(view, *arg))),
            };
            writeln!(out, "  {writer} -> {} [{look}];", name(node))?;
        }
        writers.extend(node.launch.outputs.iter().map(|arg| (*arg, name(node))));
    }
    for port in &program.outputs {
        let output = quoted(&format!("output {}", port.name));
        writeln!(out, "  {output} [shape = ellipse, label = {}];", quoted(&port.name))?;
        if let Some(writer) = writers.get(&Arg::Buffer(port.buffer)) {
            writeln!(out, "  {writer} -> {output};")?;
        }
    }
    writeln!(out, "}}")
}

/// The name of a node, which the number makes unique.
fn name(node: &Node<'_>) -> String {
    quoted(&format!("{} {} {}", node.step, node.op, node.launch.site))
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
