//! `smelt inspect --dot`: a program for Graphviz. Nodes are launches, edges are the values between them, and each layer
//! is a cluster, equal layers drawn once. Nodes precede the clusters and are labelled with what they compute, because
//! Netron ignores clusters and shows names.

use std::collections::{HashMap, HashSet};
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
    let (sections, into) = view.folded();
    let shown = sections.iter().flat_map(|section| &view.nodes[section.nodes.clone()]);
    for node in shown {
        let label = [&node.launch.site, node.op, &node.kernel.name, &time(node.estimate.seconds)].map(quote);
        writeln!(out, "  {} [label = \"{}\"];", name(node), label.join("\\n"))?;
    }
    for section in sections.iter().filter(|section| !section.layers.is_empty()) {
        let nodes = &view.nodes[section.nodes.clone()];
        let names: Vec<String> = nodes.iter().map(name).collect();
        let cluster = format!("cluster_{}_{}", section.layers[0], nodes[0].step);
        writeln!(out, "  subgraph {cluster} {{ label = {}; {}; }}", quoted(&section.title()), names.join("; "))?;
    }
    let mut writers: HashMap<Arg, (String, Option<usize>)> =
        program.inputs.iter().map(|port| (Arg::Buffer(port.buffer), (input(&port.name), None))).collect();
    let mut drawn: HashSet<String> = HashSet::new();
    for (node, place) in view.nodes.iter().zip(&into) {
        let shown = name(&view.nodes[*place]);
        for arg in &node.launch.inputs {
            let Some((writer, from)) = writers.get(arg) else { continue };
            // most launches read the step's indices: as solid edges they would hide the others
            let look = match from {
                None => "style = dotted, color = gray, constraint = false".to_owned(),
                // from one layer to the next that looks like it
                Some(from) if from >= place => {
                    format!("style = dashed, constraint = false, label = {}", quoted(&handed(view, *arg)))
                }
                Some(_) => format!("label = {}", quoted(&handed(view, *arg))),
            };
            let edge = format!("  {writer} -> {shown} [{look}];");
            if drawn.insert(edge.clone()) {
                writeln!(out, "{edge}")?;
            }
        }
        writers.extend(node.launch.outputs.iter().map(|arg| (*arg, (shown.clone(), Some(*place)))));
    }
    for port in &program.outputs {
        let output = quoted(&format!("output {}", port.name));
        writeln!(out, "  {output} [shape = ellipse, label = {}];", quoted(&port.name))?;
        if let Some((writer, _)) = writers.get(&Arg::Buffer(port.buffer)) {
            writeln!(out, "  {writer} -> {output};")?;
        }
    }
    writeln!(out, "}}")
}

/// The name of a node, made unique by the number.
fn name(node: &Node<'_>) -> String {
    quoted(&format!("{} {} {}", node.step, node.op, node.launch.site))
}

/// The value along an edge.
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

/// Text between quotes. Graphviz has no other escapes that matter.
fn quote(text: &str) -> String {
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    text.replace('\\', "\\\\").replace('"', "\\\"")
}
