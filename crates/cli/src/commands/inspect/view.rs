//! A program as its readers need it: launches with op, layer and bound, and equal layers folded into one.

use std::collections::HashMap;
use std::ops::Range;

use smelt::plans::{Bound, Cost, Estimate, Kernel, Launch, Machine, Scalar, SymbolValues, full_step};
use smelt::{Plan, Program, Step};

use super::figures::time;
use crate::commands::profile_file::ProfileFile;
use crate::failure::Failure;

/// A program on a machine.
pub struct View<'a> {
    pub program: &'a Program,
    pub machine: Machine,
    /// The largest step, and the context.
    pub values: SymbolValues,
    /// Launches in order.
    pub nodes: Vec<Node<'a>>,
    /// Time by op, the longest first.
    pub ops: Vec<Share>,
    /// Where launches were measured: on what, and the step as a whole.
    pub measured: Option<String>,
}

/// What launches took, and their bound by what the device was measured to do.
#[derive(Clone, Copy, Debug, Default)]
pub struct Taken {
    pub seconds: f64,
    pub bound: f64,
}

impl std::iter::Sum for Taken {
    fn sum<I: Iterator<Item = Taken>>(all: I) -> Taken {
        all.fold(Taken::default(), |a, b| Taken { seconds: a.seconds + b.seconds, bound: a.bound + b.bound })
    }
}

/// A launch.
pub struct Node<'a> {
    pub step: usize,
    pub launch: &'a Launch,
    pub kernel: &'a Kernel,
    /// The op's name.
    pub op: &'a str,
    pub layer: Option<u32>,
    pub estimate: Estimate,
    pub measured: Option<Taken>,
}

/// Launches that belong together: those of a layer, or between two.
pub struct Section {
    /// Layers that look like this; none if the launches belong to no layer.
    pub layers: Vec<u32>,
    /// Nodes of the first of them.
    pub nodes: Range<usize>,
}

/// All launches of one kind.
pub struct Share {
    /// An op, or the part of a name after the layer: `layers.*.mlp.down`.
    pub name: String,
    pub launches: usize,
    pub cost: Cost,
    pub seconds: f64,
    /// What sets most of the time.
    pub bound: Bound,
    pub measured: Option<Taken>,
}

impl<'a> View<'a> {
    /// A program of a checked plan, over sequences with this many cached tokens.
    pub fn of(plan: &'a Plan, program: &'a Program, machine: Machine, context: u64) -> Result<View<'a>, Failure> {
        let values = full_step(program, context);
        let estimates = machine.estimates(plan, program, &values);
        let estimates =
            estimates.map_err(|error| Failure::bad_input(format!("program `{}`: {error}", program.name)))?;
        let nodes = program.steps.iter().zip(estimates).enumerate().map(|(step, (Step::Launch(launch), estimate))| {
            let kernel = &plan.kernels[launch.kernel as usize];
            let op = op_name(&launch.ir).unwrap_or(&kernel.name);
            Node { step, launch, kernel, op, layer: layer(&launch.site), estimate, measured: None }
        });
        let mut nodes: Vec<Node<'a>> = nodes.collect();
        absorb(&mut nodes);
        let ops = shares(&nodes, |node| node.op.to_owned());
        Ok(View { program, machine, values, ops, nodes, measured: None })
    }

    /// The same program with what its launches took, where these were measured.
    pub fn with(mut self, profile: &ProfileFile) -> View<'a> {
        let Some(step) = profile.step(&self.program.name) else { return self };
        for (node, launch) in self.nodes.iter_mut().zip(&step.launches) {
            node.measured = Some(Taken { seconds: launch.us / 1e6, bound: launch.bound_us / 1e6 });
        }
        let whole = if step.captured { "the captured step" } else { "the step as it runs" };
        self.measured = Some(format!(
            "Measured on {} with {:.0} cached tokens, each launch alone: {} in all, {} one after the other, {} for {whole}.",
            profile.device,
            step.context,
            time(step.launches_us / 1e6),
            time(step.apart_us / 1e6),
            time(step.step_us / 1e6)
        ));
        self.ops = shares(&self.nodes, |node| node.op.to_owned());
        self
    }

    /// What a launch took, the mean of those that are folded into it.
    pub fn means(&self, into: &[usize]) -> Vec<Option<Taken>> {
        let mut sums = vec![(Taken::default(), 0.0); self.nodes.len()];
        for (node, first) in self.nodes.iter().zip(into) {
            if let Some(taken) = node.measured {
                let (sum, count) = &mut sums[*first];
                *sum = [*sum, taken].into_iter().sum();
                *count += 1.0;
            }
        }
        let mean = |(sum, count): (Taken, f64)| {
            (count > 0.0).then(|| Taken { seconds: sum.seconds / count, bound: sum.bound / count })
        };
        sums.into_iter().map(mean).collect()
    }

    /// The bound of a whole step.
    pub fn seconds(&self) -> f64 {
        self.nodes.iter().map(|node| node.estimate.seconds).sum()
    }

    /// What limits the time, the largest share first, with that share.
    pub fn causes(&self) -> Vec<(Bound, f64)> {
        let causes = shares(&self.nodes, |node| node.estimate.bound.name().to_owned());
        causes.into_iter().map(|share| (share.bound, share.seconds)).collect()
    }

    /// Tokens of the step: new ones of a decode program, any of a mixed one.
    pub fn tokens(&self) -> u64 {
        self.program.symbols.iter().find(|decl| decl.symbol.name() == "T").map_or(1, |decl| decl.max)
    }

    /// Time of an op by what its launches compute, layers together; the longest first.
    pub fn parts(&self, op: &str) -> Vec<Share> {
        shares(self.nodes.iter().filter(|node| node.op == op), |node| without_layer(&node.launch.site))
    }

    /// The place of an op in the order of time, among the eight that matter.
    pub fn rank(&self, op: &str) -> usize {
        self.ops.iter().take(8).position(|share| share.name == op).unwrap_or(8)
    }

    /// The program by layer, equal layers folded into the first of them.
    pub fn sections(&self) -> Vec<Section> {
        self.folded().0
    }

    /// The same, and for each node the one that it is folded into: often itself.
    pub fn folded(&self) -> (Vec<Section>, Vec<usize>) {
        let mut sections: Vec<Section> = Vec::new();
        let mut into: Vec<usize> = (0..self.nodes.len()).collect();
        let mut known: HashMap<String, usize> = HashMap::new();
        let mut start = 0;
        for run in self.nodes.chunk_by(|a, b| a.layer == b.layer) {
            let nodes = start..start + run.len();
            start = nodes.end;
            let Some(layer) = run[0].layer else {
                sections.push(Section { layers: Vec::new(), nodes });
                continue;
            };
            match known.get(&run.iter().map(likeness).collect::<String>()) {
                Some(index) => {
                    sections[*index].layers.push(layer);
                    for (node, first) in nodes.zip(sections[*index].nodes.clone()) {
                        into[node] = first;
                    }
                }
                None => {
                    known.insert(run.iter().map(likeness).collect(), sections.len());
                    sections.push(Section { layers: vec![layer], nodes });
                }
            }
        }
        (sections, into)
    }
}

/// Assigns launches in the middle of a layer to that layer, whatever their names: the last layer gathers rows that the
/// previous one left.
/// one before it left.
fn absorb(nodes: &mut [Node<'_>]) {
    let runs: Vec<(Option<u32>, usize)> =
        nodes.chunk_by(|a, b| a.layer == b.layer).map(|run| (run[0].layer, run.len())).collect();
    let mut start = runs.first().map_or(0, |(_, len)| *len);
    for around in runs.windows(3) {
        let [before, within, after] = [0, 1, 2].map(|place| around[place]);
        let end = start + within.1;
        // of two layers that change places, the longer runs are where they are
        if before.0 == after.0 && before.0.is_some() && within.1 < before.1.min(after.1) {
            nodes[start..end].iter_mut().for_each(|node| node.layer = before.0);
        }
        start = end;
    }
}

/// Time of launches by kind, the longest first.
fn shares<'n, 'a: 'n>(nodes: impl IntoIterator<Item = &'n Node<'a>>, kind: impl Fn(&Node<'a>) -> String) -> Vec<Share> {
    let mut places: HashMap<String, usize> = HashMap::new();
    let mut groups: Vec<(String, Vec<&Node<'a>>)> = Vec::new();
    for node in nodes {
        let name = kind(node);
        let place = *places.entry(name.clone()).or_insert(groups.len());
        if place == groups.len() {
            groups.push((name, Vec::new()));
        }
        groups[place].1.push(node);
    }
    let seconds = |nodes: &[&Node<'_>], bound: Option<Bound>| -> f64 {
        let nodes = nodes.iter().filter(|node| bound.is_none_or(|bound| node.estimate.bound == bound));
        nodes.map(|node| node.estimate.seconds).sum()
    };
    let shares = groups.into_iter().map(|(name, nodes)| Share {
        name,
        launches: nodes.len(),
        cost: nodes.iter().map(|node| node.estimate.cost).sum(),
        seconds: seconds(&nodes, None),
        bound: most(|bound| seconds(&nodes, Some(bound))),
        measured: nodes
            .iter()
            .map(|node| node.measured)
            .collect::<Option<Vec<Taken>>>()
            .map(|all| all.into_iter().sum()),
    });
    let mut shares: Vec<Share> = shares.collect();
    shares.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    shares
}

/// The cause of the most time.
fn most(seconds: impl Fn(Bound) -> f64) -> Bound {
    let others = [Bound::Compute, Bound::Launch].into_iter();
    others.fold(Bound::Memory, |most, bound| if seconds(bound) > seconds(most) { bound } else { most })
}

impl Section {
    /// Number of layers that it stands for, or one for launches outside of layers.
    pub fn copies(&self) -> usize {
        self.layers.len().max(1)
    }

    /// The title.
    pub fn title(&self) -> String {
        match self.layers.len() {
            0 => "outside of layers".to_owned(),
            1 => format!("layer {}", self.layers[0]),
            _ => format!("layers {}, identical", ranges(&self.layers)),
        }
    }
}

/// `0–3, 5, 7–9`, at most eight of them.
pub fn ranges(numbers: &[u32]) -> String {
    let runs: Vec<&[u32]> = numbers.chunk_by(|a, b| a.checked_add(1) == Some(*b)).collect();
    let text = runs.iter().take(8).map(|run| match run {
        [first, .., last] => format!("{first}–{last}"),
        run => run[0].to_string(),
    });
    let text = text.collect::<Vec<_>>().join(", ");
    if runs.len() > 8 { format!("{text}, … ({} in all)", numbers.len()) } else { text }
}

/// What two launches of different layers must share to count as equal: everything except names, layer numbers and
/// memory offsets.
fn likeness(node: &Node<'_>) -> String {
    let Launch { kernel, maps, scalars, grid, work, ir, .. } = node.launch;
    format!("{kernel} {maps:?} {scalars:?} {grid} {work:?} {}\n", without_names(ir))
}

/// The op without value names and layer: `% = add %, % : f32[T, 64]`.
pub fn without_names(ir: &str) -> String {
    let mut out = String::with_capacity(ir.len());
    let mut rest = ir;
    while let Some(at) = rest.find(['%', 'l']) {
        let (before, found) = rest.split_at(at);
        out.push_str(before);
        let in_name = |c: char| c.is_alphanumeric() || matches!(c, '.' | '_');
        (out, rest) = match found.strip_prefix("layer = ") {
            Some(number) => (out + "layer = _", number.trim_start_matches(|c: char| c.is_ascii_digit())),
            None if found.starts_with('%') => (out + "%", found[1..].trim_start_matches(in_name)),
            None => (out + "l", &found[1..]),
        };
    }
    out + rest
}

/// A kernel with its configuration.
pub fn kernel_label(kernel: &Kernel) -> String {
    let params = kernel.params.iter().map(|param| match &param.value {
        Scalar::Int(value) => format!("{} = {value}", param.name),
        Scalar::Float(value) => format!("{} = {}", param.name, smelt::plans::float_text(*value)),
        Scalar::Text(value) => format!("{} = {value}", param.name),
    });
    format!("{} {{{}}}", kernel.name, params.collect::<Vec<_>>().join(", "))
}

/// The mnemonic of a printed op: `%y = add %a, %b : …`.
fn op_name(ir: &str) -> Option<&str> {
    ir.split_once(" = ")?.1.split(' ').next().filter(|name| !name.is_empty())
}

/// A name without its numbers: `model.layers.*.mlp.weight`.
pub fn without_layer(name: &str) -> String {
    let number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    name.split('.').map(|part| if number(part) { "*" } else { part }).collect::<Vec<_>>().join(".")
}

/// The layer in a name: a number between two dots, `layers.12.attn.q`.
fn layer(site: &str) -> Option<u32> {
    let parts: Vec<&str> = site.split('.').collect();
    let inner = parts.get(1..parts.len().saturating_sub(1))?;
    inner.iter().find_map(|part| part.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_the_layer() {
        for (site, number) in
            [("layers.12.attn.q", Some(12)), ("h.3.mlp.1", Some(3)), ("logits", None), ("x.1", None), ("", None)]
        {
            assert_eq!(layer(site), number, "{site}");
        }
    }

    #[test]
    fn equal_ops_of_two_layers_read_alike() {
        let of = |layer: u32| {
            format!(
                "%layers.{layer}.x, %c.{layer} = paged_attention %q.{layer} {{group = 0, layer = {layer}}} : f32[T, 8]"
            )
        };
        assert_eq!(without_names(&of(3)), "%, % = paged_attention % {group = 0, layer = _} : f32[T, 8]");
        assert_eq!(without_names(&of(3)), without_names(&of(12)));
        assert_eq!(op_name(&of(3)), Some("paged_attention"));
        assert_eq!(op_name("nonsense"), None);
    }

    #[test]
    fn numbers_are_listed_in_ranges() {
        assert_eq!(ranges(&[0, 1, 2, 5, 7, 8]), "0–2, 5, 7–8");
        let odd: Vec<u32> = (0..20).map(|index| 2 * index).collect();
        assert_eq!(ranges(&odd), "0, 2, 4, 6, 8, 10, 12, 14, … (20 in all)");
    }
}
