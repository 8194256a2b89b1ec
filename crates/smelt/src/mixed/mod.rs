//! Mixed precision: measures the loss of each format on each group of linear layers, and chooses the formats with the
//! lowest cost for a given loss.
//!
//! A group is the linear layers with the same input. Its loss in a format is the mean KL divergence of the logits from
//! the reference with only that group quantized. Losses of groups are approximately additive: good enough to choose by,
//! and the choice is measured as a whole.

mod costs;
mod knapsack;
mod losses;
mod plans;
mod product_times;
mod search;
mod text;

use passes::quantize::{Assignment, Format, LinearInfo};
use plan::Machine;

use self::costs::Costs;
pub use self::losses::LossCache;
use self::losses::Losses;
use self::plans::{Model, Plans};
use self::search::Search;
use self::text::Text;
use crate::eval::Score;
use crate::{CompileOptions, Driver, Error, Progress, RunOptions, Source, precision};

/// The goal of a choice.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Goal {
    /// Upper bound on the average bits per weight, scales included, lm_head excluded.
    Bits(f64),
    /// Upper bound on the relative increase of perplexity over the reference: 0.01 for one percent.
    PerplexityIncrease(f64),
    /// Minimum decode speed-up.
    Speedup(f64),
}

/// Options of the search.
#[derive(Clone, Debug, PartialEq)]
pub struct MixedOptions {
    /// The goal.
    pub goal: Goal,
    /// Batch size to optimize decoding for.
    pub batch: u32,
    /// The text that losses are measured on.
    pub text: String,
    /// Tokens of it that each format of each group is measured on; the choice is measured on the whole text.
    pub tokens: usize,
    /// Formats to choose from.
    pub formats: Vec<Format>,
    /// The machine whose roofline predicts the time of products. If `None`, they are measured with a timing cache, or
    /// else the target's machine is used.
    pub machine: Option<Machine>,
    /// How plans are run.
    pub run: RunOptions,
    /// Keeps measurements from one search to the next.
    pub losses: Option<LossCache>,
}

/// A format of a group.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GroupFormat {
    /// The format; `None` if unquantized.
    pub format: Option<Format>,
    /// Mean KL divergence of the logits from the reference, in nats.
    pub kl: f64,
    /// Total bits of the group's weights.
    pub bits: f64,
    /// The group's time in a decode step: measured, or a lower bound.
    pub seconds: f64,
}

/// Linear layers that share a format.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// The linear layers.
    pub linears: Vec<LinearInfo>,
    /// The formats to choose from.
    pub formats: Vec<GroupFormat>,
}

/// A format for every group, and its cost.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// The index of each group's format.
    pub formats: Vec<usize>,
    /// Sum of the groups' losses.
    pub kl: f64,
    /// Average bits per weight.
    pub bits: f64,
    /// Decode speed-up over the reference.
    pub speedup: f64,
}

/// The choice, and its alternatives.
#[derive(Clone, Debug, PartialEq)]
pub struct Mixed {
    /// The groups.
    pub groups: Vec<Group>,
    /// Linear layers that are not part of the search: lm_head, with its format.
    pub heads: Vec<(LinearInfo, Option<Format>)>,
    /// The Pareto front, from the cheapest choice on.
    pub frontier: Vec<Point>,
    /// Each format for all groups.
    pub uniform: Vec<(Format, Point)>,
    /// The choice.
    pub chosen: Point,
    /// The machine of the roofline; `None` if products were measured.
    pub roofline: Option<Machine>,
    /// The reference's loss on the whole text.
    pub reference: Score,
    /// The choice's loss on the whole text.
    pub score: Score,
}

impl Mixed {
    /// The choice in one line.
    pub fn summary(&self) -> String {
        format!(
            "{:.2} bits per weight, perplexity {:.4} ({:+.2} %), decode speed-up {:.2} {}",
            self.chosen.bits,
            self.score.perplexity,
            100.0 * (self.score.perplexity / self.reference.perplexity - 1.0),
            self.chosen.speedup,
            by(self.roofline)
        )
    }

    /// The table of formats, with the reasons as comments.
    pub fn table(&self) -> String {
        let mut chosen = picked(&self.groups, &self.chosen.formats);
        let uniform = |(format, point): &(Format, Point)| format!("{format} {:.2}", point.bits);
        let uniform: Vec<String> = self.uniform.iter().map(uniform).collect();
        chosen.notes = vec![self.summary(), format!("bits per weight of uniform formats: {}", uniform.join(", "))];
        for (group, index) in self.groups.iter().zip(&self.chosen.formats) {
            let name = |measured: &GroupFormat| measured.format.map_or("none", Format::name);
            let others = group.formats.iter().enumerate().filter(|(other, _)| other != index);
            let others: Vec<String> = others.map(|(_, other)| format!("{} {:.2e}", name(other), other.kl)).collect();
            let reason = format!("kl {:.2e}; {}", group.formats[*index].kl, others.join(", "));
            chosen.reasons.extend(group.linears.iter().map(|linear| (linear.name.clone(), reason.clone())));
        }
        let mut linears: Vec<LinearInfo> = self.groups.iter().flat_map(|group| group.linears.clone()).collect();
        for (head, format) in &self.heads {
            chosen.formats.extend(format.map(|format| (head.name.clone(), format)));
            chosen.reasons.insert(head.name.clone(), "set by `precision.head`".to_owned());
            linears.push(head.clone());
        }
        chosen.table(&linears)
    }
}

/// The source of times.
fn by(roofline: Option<Machine>) -> String {
    match roofline {
        Some(machine) => format!("(roofline of {})", machine.name),
        None => "(measured products)".to_owned(),
    }
}

impl Driver {
    /// Chooses formats for the linear layers of a checkpoint.
    pub fn choose_precision(
        &self,
        source: &Source,
        options: &CompileOptions,
        mixed: &MixedOptions,
        progress: &mut dyn Progress,
    ) -> Result<Mixed, Error> {
        let uncalibrated = |format: &&Format| {
            options.precision.calibration.is_none() && format.needs_calibration(options.precision.activations)
        };
        if let Some(format) = mixed.formats.iter().find(uncalibrated) {
            return Err(precision::uncalibrated(format.name()));
        }
        progress.phase("measuring the reference");
        source.warn(options, progress);
        let plans = Plans::new(self, source, options, mixed);
        let mut reference = plans.reference()?;
        let text = Text::new(&mut reference, &mixed.text, mixed.tokens)?;
        let decisive = format!("{} {}", plans.decisive(&reference.plan().plan().target)?, text.decisive());
        let losses = Losses::open(mixed.losses.as_ref(), &decisive);
        let mut costs = Costs::new(&plans, &reference, mixed)?;
        drop(reference);
        let model = plans.model()?;
        costs.measure_products(&plans, &model, mixed, progress);
        costs.check_goal(&model.groups, mixed)?;
        let Model { mut groups, heads, .. } = model;
        let mut search = Search { options: mixed, plans, text, costs, losses };
        search.measure(&mut groups, progress)?;
        search.choose(groups, heads, progress)
    }
}

/// The formats of groups by index.
fn picked(groups: &[Group], formats: &[usize]) -> Assignment {
    let mut picked = Assignment::default();
    for (group, index) in groups.iter().zip(formats) {
        if let Some(format) = group.formats[*index].format {
            picked.formats.extend(group.linears.iter().map(|linear| (linear.name.clone(), format)));
        }
    }
    picked
}
