//! `smelt inspect A.plan --diff B.plan`: the differences of two plans. Launches are compared in order, with layer
//! numbers removed from their names, so that a change of every layer shows once.

use std::collections::BTreeMap;

use serde::Serialize;
use similar::{Algorithm, DiffOp, capture_diff_slices};
use smelt::plans::Kernel;
use smelt::{Plan, PlanFile};

use super::figures::{number_of, time};
use super::view::{Node, View, kernel_label, ranges, without_layer, without_names};
use super::weights;
use crate::output::bytes;

/// Two plans, A and B.
#[derive(Serialize)]
pub struct Diff {
    schema_version: u32,
    header: Vec<Change>,
    config: Vec<Change>,
    /// Inputs by their hash.
    inputs: Vec<Change>,
    pub(super) weights: Lines,
    pub(super) kernels: Lines,
    /// Kernels of one name and configuration whose CUDA C differs.
    pub(super) kernels_with_other_source: Vec<String>,
    pub(super) programs: Vec<ProgramDiff>,
}

/// A fact that differs; `None` if a plan has nothing of that name.
#[derive(Serialize)]
pub(super) struct Change {
    pub name: String,
    pub a: Option<String>,
    pub b: Option<String>,
}

/// What A alone has, and what B has instead.
#[derive(Clone, Default, PartialEq, Eq, Serialize)]
pub(super) struct Lines {
    pub removed: Vec<String>,
    pub added: Vec<String>,
}

#[derive(Serialize)]
pub(super) struct ProgramDiff {
    name: String,
    a: Option<ProgramFacts>,
    b: Option<ProgramFacts>,
    pub launches: Vec<LaunchDiff>,
}

/// A place where the launches of a program differ, with all layers that differ alike.
#[derive(PartialEq, Eq, Serialize)]
pub(super) struct LaunchDiff {
    layers: Vec<u32>,
    #[serde(flatten)]
    pub lines: Lines,
}

#[derive(PartialEq, Serialize)]
struct ProgramFacts {
    launches: usize,
    arena_bytes: u64,
    predicted_us: f64,
}

/// A plan, and its programs on a machine.
pub struct Side<'a> {
    pub file: &'a PlanFile,
    pub views: Vec<View<'a>>,
}

impl Diff {
    /// What differs.
    pub fn of(a: &Side<'_>, b: &Side<'_>) -> Diff {
        let (plan_a, plan_b) = (a.file.plan(), b.file.plan());
        let weights = |plan: &Plan| {
            let kinds = weights::kinds(plan).into_iter();
            kinds.map(|kind| format!("{} × {}", kind.tensors, kind.name)).collect::<Vec<_>>()
        };
        let [kernels_a, kernels_b] = [plan_a, plan_b].map(|plan| by_label(&plan.kernels));
        let labels = |kernels: &BTreeMap<String, Vec<&str>>| kernels.keys().cloned().collect::<Vec<_>>();
        let other = |(label, sources): &(&String, &Vec<&str>)| kernels_b.get(*label).is_some_and(|b| b != *sources);
        let inputs = |plan: &Plan| {
            let hash = |hash: &[u8; 32]| hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
            plan.inputs.iter().map(|input| (input.name.clone(), hash(&input.hash))).collect::<Vec<_>>()
        };
        Diff {
            schema_version: 1,
            header: changes(header(a.file), header(b.file)),
            config: changes(plan_a.config.clone(), plan_b.config.clone()),
            inputs: changes(inputs(plan_a), inputs(plan_b)),
            weights: Lines::of(&weights(plan_a), &weights(plan_b)),
            kernels: Lines::of(&labels(&kernels_a), &labels(&kernels_b)),
            kernels_with_other_source: kernels_a.iter().filter(other).map(|(label, _)| label.clone()).collect(),
            programs: programs(&a.views, &b.views),
        }
    }

    /// The facts that differ, by their titles.
    pub(super) fn changes(&self) -> [(&'static str, &[Change]); 3] {
        [("header", &self.header), ("config", &self.config), ("made from", &self.inputs)]
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut out = String::new();
        for (title, changes) in self.changes() {
            if !changes.is_empty() {
                out += &format!("{title}\n");
                out.extend(changes.iter().map(Change::text));
            }
        }
        for (title, lines) in [("weights", &self.weights), ("kernels", &self.kernels)] {
            if *lines != Lines::default() {
                out += &format!("{title}\n{}", lines.text());
            }
        }
        if !self.kernels_with_other_source.is_empty() {
            out += "kernels with different source\n";
            out.extend(self.kernels_with_other_source.iter().map(|label| format!("  {label}\n")));
        }
        for (index, program) in self.programs.iter().enumerate() {
            out += &program.headline();
            let like = self.programs[..index].iter().find(|other| other.launches == program.launches);
            match like.filter(|_| !program.launches.is_empty()) {
                Some(other) => out += &format!("  launches differ as in {}\n", other.name),
                None => out.extend(program.launches.iter().map(LaunchDiff::text)),
            }
        }
        if out.is_empty() {
            "the plans do not differ, except perhaps in the values of weights\n".to_owned()
        } else {
            out
        }
    }
}

impl Change {
    fn text(&self) -> String {
        let side = |value: &Option<String>| value.clone().unwrap_or_else(|| "nothing".to_owned());
        format!("  {}: {} → {}\n", self.name, side(&self.a), side(&self.b))
    }
}

impl Lines {
    fn of(a: &[String], b: &[String]) -> Lines {
        let only = |these: &[String], those: &[String]| {
            these.iter().filter(|line| !those.contains(line)).cloned().collect::<Vec<_>>()
        };
        Lines { removed: only(a, b), added: only(b, a) }
    }

    fn text(&self) -> String {
        let removed = self.removed.iter().map(|line| format!("- {line}\n"));
        removed.chain(self.added.iter().map(|line| format!("+ {line}\n"))).collect()
    }
}

impl LaunchDiff {
    /// Where it is.
    pub fn place(&self) -> String {
        match self.layers.len() {
            0 => "outside of layers".to_owned(),
            1 => format!("layer {}", self.layers[0]),
            _ => format!("layers {}", ranges(&self.layers)),
        }
    }

    fn text(&self) -> String {
        format!("  {}\n{}", self.place(), self.lines.text())
    }
}

impl ProgramDiff {
    /// Its figures in both plans, on a line.
    pub fn headline(&self) -> String {
        let figures = |figure: fn(&ProgramFacts) -> String| match (&self.a, &self.b) {
            (Some(a), Some(b)) if figure(a) == figure(b) => figure(a),
            (a, b) => [a, b].map(|facts| facts.as_ref().map_or_else(|| "nothing".to_owned(), figure)).join(" → "),
        };
        format!(
            "program {}: {}, {}, {}\n",
            self.name,
            figures(|facts| number_of(facts.launches as u64, "launch|es")),
            figures(|facts| format!("arena {}", bytes(facts.arena_bytes))),
            figures(|facts| format!("at least {}", time(facts.predicted_us / 1e6)))
        )
    }
}

/// The figures of a plan by name.
fn header(file: &PlanFile) -> Vec<(String, String)> {
    let plan = file.plan();
    let (model, limits) = (&plan.model, &plan.limits);
    let weights: u64 = plan.weights.iter().filter_map(|weight| weight.bytes()).sum();
    let mut facts = vec![
        ("target", plan.target.clone()),
        ("architecture", model.architecture.clone()),
        ("parameters", model.parameters.to_string()),
        ("vocab_size", model.vocab_size.to_string()),
        ("eos", format!("{:?}", model.eos)),
        ("max_batch_size", limits.max_batch_size.to_string()),
        ("max_input_len", limits.max_input_len.to_string()),
        ("max_seq_len", limits.max_seq_len.to_string()),
        ("max_num_tokens", limits.max_num_tokens.to_string()),
        ("max_logit_rows", limits.max_logit_rows.to_string()),
        ("file", bytes(file.bytes())),
        ("weights", format!("{} tensors, {}", plan.weights.len(), bytes(weights))),
    ];
    facts.extend(plan.kv.iter().map(|group| {
        let shape = format!("{} layers × {} heads × {}", group.layers, group.kv_heads, group.head_dim);
        let pool = format!("{} blocks of {} tokens, {}", group.blocks, group.block_tokens, bytes(group.pool_bytes()));
        ("KV cache", format!("{} {shape}, {pool}", group.dtype))
    }));
    facts.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// Names whose values differ, in the order of A, then of B.
fn changes(a: Vec<(String, String)>, b: Vec<(String, String)>) -> Vec<Change> {
    let values = |list: &[(String, String)], name: &str| {
        let values: Vec<&str> =
            list.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_str()).collect();
        (!values.is_empty()).then(|| values.join("; "))
    };
    let mut names: Vec<&String> = Vec::new();
    for (name, _) in a.iter().chain(&b) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let change = |name: &String| Change { name: name.clone(), a: values(&a, name), b: values(&b, name) };
    names.into_iter().map(change).filter(|change| change.a != change.b).collect()
}

/// The programs of both, where they differ.
fn programs(a: &[View<'_>], b: &[View<'_>]) -> Vec<ProgramDiff> {
    let mut names: Vec<&str> = a.iter().map(|view| view.program.name.as_str()).collect();
    names.extend(
        b.iter().map(|view| view.program.name.as_str()).filter(|name| !names.contains(name)).collect::<Vec<_>>(),
    );
    let diffs = names.into_iter().map(|name| {
        let [a, b] = [a, b].map(|views| views.iter().find(|view| view.program.name == name));
        let facts = |view: &View<'_>| ProgramFacts {
            launches: view.nodes.len(),
            arena_bytes: view.program.arena_bytes,
            predicted_us: view.seconds() * 1e6,
        };
        let launches = match (a, b) {
            (Some(a), Some(b)) => launches(&a.nodes, &b.nodes),
            _ => Vec::new(),
        };
        ProgramDiff { name: name.to_owned(), a: a.map(facts), b: b.map(facts), launches }
    });
    diffs.filter(|diff| diff.a != diff.b || !diff.launches.is_empty()).collect()
}

/// Kernels by name and configuration, with their sources.
fn by_label(kernels: &[Kernel]) -> BTreeMap<String, Vec<&str>> {
    let mut known: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for kernel in kernels {
        let source = kernel.code.as_ref().map_or("", |code| code.source.as_str());
        known.entry(kernel_label(kernel)).or_default().push(source);
    }
    known
}

/// The places where two lists of launches differ, each within a layer; equal differences are merged.
fn launches(a: &[Node<'_>], b: &[Node<'_>]) -> Vec<LaunchDiff> {
    let [sites_a, sites_b] = [a, b].map(|nodes| nodes.iter().map(|node| &node.launch.site).collect::<Vec<_>>());
    let mut places = Places::default();
    for op in capture_diff_slices(Algorithm::Myers, &sites_a, &sites_b) {
        let (old, new) = (&a[op.old_range()], &b[op.new_range()]);
        if !matches!(op, DiffOp::Equal { .. }) {
            old.iter().for_each(|node| places.add(Some(node), None));
            new.iter().for_each(|node| places.add(None, Some(node)));
            continue;
        }
        for (old, new) in old.iter().zip(new) {
            if line(old) == line(new) { places.close() } else { places.add(Some(old), Some(new)) }
        }
    }
    places.close();
    places.found
}

/// Differences being grouped into places: neighbours of one layer belong together.
#[derive(Default)]
struct Places {
    layer: Option<u32>,
    lines: Lines,
    found: Vec<LaunchDiff>,
}

impl Places {
    fn add(&mut self, old: Option<&Node<'_>>, new: Option<&Node<'_>>) {
        let layer = old.or(new).and_then(|node| node.layer);
        if layer != self.layer {
            self.close();
        }
        self.layer = layer;
        self.lines.removed.extend(old.map(line));
        self.lines.added.extend(new.map(line));
    }

    fn close(&mut self) {
        let (layer, lines) = (self.layer.take(), std::mem::take(&mut self.lines));
        if lines == Lines::default() {
            return;
        }
        let alike = |known: &&mut LaunchDiff| known.lines == lines && known.layers.is_empty() == layer.is_none();
        match self.found.iter_mut().find(alike) {
            Some(known) => known.layers.extend(layer.filter(|layer| !known.layers.contains(layer))),
            None => self.found.push(LaunchDiff { layers: layer.into_iter().collect(), lines }),
        }
    }
}

/// A launch without the parts that differ between layers: `layers.*.attn.sum = add : f32[T, 64], by add {}`.
fn line(node: &Node<'_>) -> String {
    let op = without_names(&node.launch.ir);
    let op = op.split_once(" = ").map_or(op.as_str(), |(_, op)| op).replace("%, ", "").replace("% ", "");
    format!("{} = {op}, by {}", without_layer(&node.launch.site), kernel_label(node.kernel))
}
