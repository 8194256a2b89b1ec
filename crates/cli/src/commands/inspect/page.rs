//! `smelt inspect --html`: a plan as one self-contained page. It opens with where the time goes.

use smelt::Plan;
use smelt::plans::{Arg, Dim, Kernel, ProgramKind, Weight};

use super::arena;
use super::figures::{count, number_of, percent, quantity, time};
use super::html::{Html, colour_class, document};
use super::precision::Precision;
use super::source::Sources;
use super::view::{Node, Section, Share, Taken, View, kernel_label};
use super::weights::{self, typed};
use crate::output::bytes;

/// A plan on a machine: what the page is about.
pub struct Subject<'a> {
    pub plan: &'a Plan,
    /// What the user calls it.
    pub name: String,
    /// Programs to show, the first one opened.
    pub views: Vec<View<'a>>,
    pub context: u32,
}

/// The page.
pub fn page(subject: &Subject<'_>) -> String {
    let plan = subject.plan;
    let configured = |key: &str| plan.config.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str());
    // a plan of one format names it; of one with several, a file in the plan has each layer's
    let mixed = || Precision::of(plan).map(|_| "mixed precision");
    let format = configured("precision").or_else(mixed).or_else(|| configured("dtype")).unwrap_or("unknown dtype");
    let title = format!("{}: {}, {format}, on {}", subject.name, plan.model.architecture, plan.target);
    document(&title, &subtitle(subject), |html| {
        for (index, view) in subject.views.iter().enumerate() {
            program(html, subject, view, index == 0);
        }
        memory(html, plan);
        kernels(html, subject);
        precision(html, plan);
        provenance(html, plan);
    })
}

fn subtitle(subject: &Subject<'_>) -> String {
    let limits = &subject.plan.limits;
    format!(
        "{} parameters · at most {} of {}, {} per step",
        count(subject.plan.model.parameters as f64),
        number_of(limits.max_batch_size.into(), "sequence"),
        number_of(limits.max_seq_len.into(), "token"),
        number_of(limits.max_num_tokens.into(), "token")
    )
}

/// One program: the headline, time by op, launches by layer, the arena.
fn program(html: &mut Html, subject: &Subject<'_>, view: &View<'_>, open: bool) {
    let seconds = view.seconds();
    let rate = count(view.tokens() as f64 / seconds);
    let attributes: &[(&str, &str)] =
        if open { &[("class", "program"), ("open", "")] } else { &[("class", "program")] };
    html.tag("details", attributes, |html| {
        html.tag("summary", &[], |html| {
            html.leaf("h2", "", &view.program.name).raw(" ");
            html.leaf("strong", "", &format!("at least {}", time(seconds))).raw(" ");
            html.leaf("span", "", &format!("at most {rate} tokens/s")).raw(" ");
            html.leaf("span", "", &number_of(view.nodes.len() as u64, "launch|es"));
        });
        html.leaf("p", "note", &assumptions(subject, view));
        if let Some(measured) = &view.measured {
            html.leaf("p", "note", measured);
        }
        time_by_op(html, view);
        layers(html, subject.plan, view);
        arena::chart(html, view);
    });
    html.raw("\n");
}

/// The assumptions of the figures, in one to three sentences.
fn assumptions(subject: &Subject<'_>, view: &View<'_>) -> String {
    let machine = &view.machine;
    let causes: Vec<String> = view
        .causes()
        .iter()
        .map(|(bound, seconds)| format!("{:.0} % {}", percent(*seconds, view.seconds()), bound.name()))
        .collect();
    let step = match view.program.kind {
        ProgramKind::Decode => format!("One new token for each sequence of a batch of {}", view.tokens()),
        ProgramKind::Mixed => format!("The largest step, {} tokens", view.tokens()),
    };
    format!(
        "{step}; attention over {} cached tokens. Bounds of the roofline of {}: {}, {} in 16-bit matrices, {} per launch. \
             Limited by: {}.",
        subject.context,
        machine.title,
        quantity(machine.bytes_per_second, "B/s"),
        quantity(machine.flops_per_second, "FLOP/s"),
        time(machine.launch_seconds),
        causes.join(", ")
    )
}

fn time_by_op(html: &mut Html, view: &View<'_>) {
    let (shares, total) = (&view.ops, view.seconds());
    let longest = shares.first().map_or(0.0, |share| share.seconds);
    html.leaf("h3", "", "Time by op");
    html.raw("<table class=\"ops\"><thead><tr><th>op<th>time<th>%<th class=\"chart\">");
    if view.measured.is_some() {
        html.raw("<th>measured<th>% of bound");
    }
    html.raw("<th>launches<th>bytes<th>FLOP<th>set by</tr></thead>\n<tbody>");
    for (index, share) in shares.iter().enumerate() {
        row(html, "op", index, share, total, longest);
        let parts = view.parts(&share.name);
        // one name for all launches, or too little time to take apart
        if parts.len() > 1 && percent(share.seconds, total) > 10.0 {
            parts.iter().for_each(|part| row(html, "part", index, part, total, longest));
        }
    }
    html.raw("</tbody></table>\n");
}

fn row(html: &mut Html, class: &'static str, colour: usize, share: &Share, total: f64, longest: f64) {
    html.tag("tr", &[("class", class)], |html| {
        html.leaf("th", "", &share.name).leaf("td", "", &time(share.seconds));
        html.leaf("td", "", &format!("{:.1}", percent(share.seconds, total))).raw("<td class=\"chart\">");
        bar(html, colour, percent(share.seconds, longest));
        if let Some(taken) = share.measured {
            html.leaf("td", "", &time(taken.seconds)).leaf("td", "", &of_bound(taken));
        }
        html.leaf("td", "", &share.launches.to_string()).leaf("td", "", &bytes(share.cost.bytes()));
        html.leaf("td", "", &count(share.cost.flops as f64)).leaf("td", "", share.bound.name());
    });
    html.raw("\n");
}

/// How much of what was taken is the bound: 100 of a launch that does what the device can.
fn of_bound(taken: Taken) -> String {
    format!("{:.0}", percent(taken.bound, taken.seconds))
}

fn bar(html: &mut Html, colour: usize, percent: f64) {
    let class = format!("bar {}", colour_class(colour));
    html.tag("span", &[("class", &class), ("style", &format!("width:{percent:.2}%"))], |_| {});
}

fn layers(html: &mut Html, plan: &Plan, view: &View<'_>) {
    html.leaf("h3", "", "Launches by layer").raw("\n");
    let longest = view.nodes.iter().map(|node| node.estimate.seconds).fold(0.0, f64::max);
    let (sections, into) = view.folded();
    let means = view.means(&into);
    for section in sections {
        let nodes = &view.nodes[section.nodes.clone()];
        let seconds = nodes.iter().map(|node| node.estimate.seconds).sum::<f64>() * section.copies() as f64;
        let measured = means[section.nodes.clone()].iter().copied().collect::<Option<Vec<Taken>>>();
        html.raw(if measured.is_some() {
            "<section class=\"layer measured\"><h4>"
        } else {
            "<section class=\"layer\"><h4>"
        });
        html.leaf("span", "", &section.title());
        let share = percent(seconds, view.seconds());
        let mut figure = section_figure(&section, nodes.len(), seconds, share);
        if let Some(taken) = measured {
            let taken = taken.into_iter().sum::<Taken>().seconds * section.copies() as f64;
            figure += &format!(", measured {}", time(taken));
        }
        html.leaf("span", "figure", &figure).raw("</h4>\n");
        let means = &means[section.nodes.clone()];
        nodes.iter().zip(means).for_each(|(node, mean)| self::node(html, plan, view, (node, *mean), longest));
        html.raw("</section>\n");
    }
}

fn section_figure(section: &Section, launches: usize, seconds: f64, share: f64) -> String {
    let copies = match section.copies() {
        1 => String::new(),
        copies => format!("{copies} × {} = ", time(seconds / copies as f64)),
    };
    format!("{}, {copies}{}, {share:.1} %", number_of(launches as u64, "launch|es"), time(seconds))
}

fn node(html: &mut Html, plan: &Plan, view: &View<'_>, (node, mean): (&Node<'_>, Option<Taken>), longest: f64) {
    let estimate = node.estimate;
    html.raw("<details class=\"node\"><summary>");
    html.leaf("b", "", node.op).leaf("span", "site", &node.launch.site).leaf("span", "site", &node.kernel.name);
    html.leaf("span", "number", &bytes(estimate.cost.bytes())).leaf("span", "number", &time(estimate.seconds));
    if let Some(taken) = mean {
        html.leaf("span", "number", &time(taken.seconds));
    }
    html.raw("<span class=\"chart\">");
    bar(html, view.rank(node.op), percent(estimate.seconds, longest));
    html.raw("</span>").leaf("span", "", estimate.bound.name()).raw("</summary>\n");
    html.leaf("pre", "", &node.launch.ir).raw("\n<div class=\"columns\">");
    let list = |args: &[Arg]| args.iter().map(|arg| argument(plan, view, *arg)).collect::<Vec<_>>().join("\n");
    html.raw("<dl><dt>kernel<dd>");
    let target = format!("#k{}", node.launch.kernel);
    html.with("a", &[("href", &target)], &kernel_name(node.launch.kernel, node.kernel));
    html.raw("<dt>grid").leaf("dd", "", &with_value(view, &node.launch.grid, "block"));
    if let Some(code) = &node.kernel.code {
        html.raw("<dt>block").leaf(
            "dd",
            "",
            &format!("{} threads, {} shared", code.threads, bytes(code.shared_bytes.into())),
        );
    }
    html.raw("<dt>reads").leaf("dd", "", &list(&node.launch.inputs));
    html.raw("<dt>writes").leaf("dd", "", &list(&node.launch.outputs)).raw("</dl>");
    costs(html, view, node, mean);
    html.raw("</div></details>\n");
}

/// The cost of a launch against the roofline.
fn costs(html: &mut Html, view: &View<'_>, node: &Node<'_>, mean: Option<Taken>) {
    let (machine, cost, work) = (&view.machine, node.estimate.cost, &node.launch.work);
    let memory = cost.bytes() as f64 / machine.bytes_per_second;
    let arithmetic = match cost.bytes() {
        0 => "no bytes".to_owned(),
        moved => count(cost.flops as f64 / moved as f64),
    };
    let symbolic = |dim: &Dim, value: String| match dim.as_const() {
        Some(_) => value,
        None => format!("{value} = {dim}"),
    };
    let mut rows = vec![
        ("read", symbolic(&work.read, bytes(cost.read))),
        ("written", symbolic(&work.written, bytes(cost.written))),
        ("arithmetic", symbolic(&work.flops, quantity(cost.flops as f64, "FLOP"))),
        ("FLOP per byte", arithmetic),
        ("memory alone", time(memory)),
        ("bound", format!("{}, set by {}", time(node.estimate.seconds), node.estimate.bound.name())),
    ];
    if let Some(taken) = mean {
        let by_device = format!("{} % of it by what the device was measured to do", of_bound(taken));
        rows.push(("measured", format!("{}, {by_device}", time(taken.seconds))));
    }
    html.definitions(&rows);
}

fn with_value(view: &View<'_>, dim: &Dim, unit: &str) -> String {
    match (dim.as_const(), dim.eval(&view.values)) {
        (None, Ok(value)) => format!("{} = {dim}", number_of(value, unit)),
        (Some(value), _) => number_of(value, unit),
        _ => format!("{dim} {unit}s"),
    }
}

/// What a launch reads or writes, with its type.
fn argument(plan: &Plan, view: &View<'_>, arg: Arg) -> String {
    // indices of a checked plan
    match arg {
        Arg::Buffer(index) => {
            let buffer = &view.program.buffers[index as usize];
            let shape: Vec<String> = buffer.shape.iter().map(ToString::to_string).collect();
            format!("{} : {}[{}]", buffer.name, buffer.dtype, shape.join(", "))
        }
        Arg::Weight(index) => typed(&plan.weights[index as usize]),
        Arg::Kv { group, layer } => format!("KV cache {group}, layer {layer} : {}", plan.kv[group as usize].dtype),
    }
}

/// Device memory: weights, the KV cache, the largest arena.
fn memory(html: &mut Html, plan: &Plan) {
    let weights: u64 = plan.weights.iter().filter_map(Weight::bytes).sum();
    let kv: u64 = plan.kv.iter().map(|group| group.pool_bytes()).sum();
    let arena = plan.programs.iter().map(|program| program.arena_bytes).max().unwrap_or(0);
    let total = weights.saturating_add(kv).saturating_add(arena);
    html.raw("<section id=\"memory\">").leaf("h2", "", &format!("Memory: {}", bytes(total))).raw("<p class=\"stack\">");
    for (index, part) in [weights, kv, arena].into_iter().enumerate() {
        bar(html, index, percent(part as f64, total as f64));
    }
    html.raw("</p>\n<table class=\"ops\"><tbody>");
    let pools = plan.kv.iter().map(|group| {
        format!(
            "{} {} × {} × {}, {} of {} tokens",
            group.dtype,
            number_of(group.layers.into(), "layer"),
            number_of(group.kv_heads.into(), "head"),
            group.head_dim,
            number_of(group.blocks.into(), "block"),
            group.block_tokens
        )
    });
    let largest = plan.programs.iter().max_by_key(|program| program.arena_bytes);
    let rows = [
        ("weights", weights, number_of(plan.weights.len() as u64, "tensor")),
        ("KV cache", kv, pools.collect::<Vec<_>>().join("; ")),
        ("arena", arena, largest.map_or_else(String::new, |program| format!("of {}, the largest", program.name))),
    ];
    for (index, (name, size, what)) in rows.into_iter().enumerate() {
        html.raw("<tr><th>").tag("span", &[("class", &format!("key {}", colour_class(index)))], |_| {}).text(name);
        html.leaf("td", "", &bytes(size)).leaf("td", "words", &what).raw("</tr>\n");
    }
    html.raw("</tbody></table>\n<details><summary>Weights by kind</summary><table class=\"ops\">");
    html.raw("<thead><tr><th>weight<th>tensors<th>bytes</tr></thead><tbody>");
    for kind in weights::kinds(plan) {
        html.raw("<tr>").leaf("th", "code", &kind.name).leaf("td", "", &kind.tensors.to_string());
        html.leaf("td", "", &bytes(kind.bytes)).raw("</tr>\n");
    }
    html.raw("</tbody></table></details></section>\n");
}

fn kernels(html: &mut Html, subject: &Subject<'_>) {
    let plan = subject.plan;
    let sources = Sources::of(&plan.kernels);
    html.raw("<section>").leaf("h2", "", &format!("Kernels: {}", plan.kernels.len())).raw("\n");
    for (index, kernel) in plan.kernels.iter().enumerate() {
        html.raw("<details class=\"kernel\"><summary>").leaf("code", "", &kernel_name(index as u32, kernel));
        html.raw("</summary>");
        html.tag("div", &[("id", &format!("k{index}"))], |html| {
            html.leaf("p", "note", &uses(subject, index as u32));
            let Some(code) = &kernel.code else {
                html.raw("<p class=\"note\">Code of the executor: the plan only names it.</p>");
                return;
            };
            let facts = (code.threads, bytes(code.shared_bytes.into()), bytes(code.cubin.len() as u64));
            html.leaf(
                "p",
                "note",
                &format!("{} threads per block, {} dynamic shared memory, cubin of {}", facts.0, facts.1, facts.2),
            );
            let Some((unit, included)) = sources.kernels[index].split_first() else { return };
            html.leaf("pre", "", &sources.files[*unit].1).raw("<p class=\"note\">includes");
            for file in included {
                html.raw(" ");
                let name = sources.files[*file].0;
                html.with("a", &[("href", &format!("#f{file}"))], name);
            }
            html.raw("</p>");
        });
        html.raw("</details>\n");
    }
    let units: Vec<usize> = sources.kernels.iter().filter_map(|files| files.first().copied()).collect();
    let mut files: Vec<usize> = (0..sources.files.len()).filter(|file| !units.contains(file)).collect();
    files.sort_by_key(|file| sources.files[*file].0);
    if !files.is_empty() {
        html.leaf("h3", "", "Files that kernels include").raw("\n");
    }
    for file in files {
        let (name, text) = &sources.files[file];
        html.raw("<details class=\"kernel\"><summary>").leaf("code", "", name).raw("</summary>");
        html.with("pre", &[("id", &format!("f{file}"))], text);
        html.raw("</details>\n");
    }
    html.raw("</section>\n");
}

fn kernel_name(index: u32, kernel: &Kernel) -> String {
    format!("k{index} {}", kernel_label(kernel))
}

/// Where a kernel runs, and for how long.
fn uses(subject: &Subject<'_>, kernel: u32) -> String {
    let uses = subject.views.iter().filter_map(|view| {
        let nodes = view.nodes.iter().filter(|node| node.launch.kernel == kernel);
        let (launches, seconds) = nodes.fold((0, 0.0), |(n, sum), node| (n + 1, sum + node.estimate.seconds));
        let share = percent(seconds, view.seconds());
        let launches = (launches > 0).then(|| number_of(launches, "launch|es"))?;
        Some(format!("{}: {launches}, {}, {share:.1} %", view.program.name, time(seconds)))
    });
    let uses = uses.collect::<Vec<_>>();
    if uses.is_empty() { "No launch of these programs.".to_owned() } else { uses.join("; ") }
}

/// The format of each linear layer with its reason, if any is quantized.
fn precision(html: &mut Html, plan: &Plan) {
    if let Some(precision) = Precision::of(plan) {
        html.raw("<section>").leaf("h2", "", "Precision").leaf("p", "note", &precision.summary());
        html.raw("<details><summary>Each linear</summary>").leaf("pre", "", precision.table());
        html.raw("</details></section>\n");
    }
}

/// Configuration, inputs and files that the plan was made from.
fn provenance(html: &mut Html, plan: &Plan) {
    html.raw("<section>").leaf("h2", "", "Made from").raw("<div class=\"columns\">");
    let config: Vec<(&str, String)> = plan.config.iter().map(|(key, value)| (key.as_str(), value.clone())).collect();
    html.definitions(&config);
    let inputs = plan.inputs.iter().map(|input| {
        let hash: String = input.hash.iter().map(|byte| format!("{byte:02x}")).collect();
        (input.name.as_str(), format!("{}, BLAKE3 {hash}", bytes(input.bytes)))
    });
    let files = plan
        .files
        .iter()
        .map(|file| (file.name.as_str(), format!("{}, inside the plan", bytes(file.bytes.len() as u64))));
    html.definitions(&inputs.chain(files).collect::<Vec<_>>()).raw("</div></section>\n");
}
