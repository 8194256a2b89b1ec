//! Chooses a number format for each linear: measures what each format of each group of linears does to the logits, and
//! picks what costs least for what it spoils.
//!
//! A group is the linears over the same activations. Its loss in a format is the mean KL divergence of the logits with
//! only that group quantized, from those of the reference; losses of groups add up, near enough to pick by them, and what
//! is picked is measured whole.

mod losses;
mod search;
mod times;

use std::path::Path;

use passes::quantize::{Assignment, Format, LinearInfo};
use plan::Machine;

pub use self::losses::LossCache;
use self::search::Search;
use crate::eval::Score;
use crate::{CompileOptions, Driver, Error, Progress, RunOptions, precision};

/// What a choice must reach.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Goal {
    /// At most this many bits a weight, scales included, on average over the linears but for the head.
    Bits(f64),
    /// Perplexity at most this part above the reference's: 0.01 for one percent.
    PerplexityIncrease(f64),
    /// Decode steps at least so many times as fast.
    Speedup(f64),
}

/// How formats are chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct MixedOptions {
    /// What must be reached.
    pub goal: Goal,
    /// Sequences of the decode steps that are to be fast.
    pub batch: u32,
    /// The text that losses are measured on.
    pub text: String,
    /// Tokens of it that each format of each group is measured on; the whole text judges what is picked.
    pub tokens: usize,
    /// Formats to choose from.
    pub formats: Vec<Format>,
    /// The machine whose roofline says what products take. Without one they are measured where there is a timing cache, and
    /// else it is that of the target.
    pub machine: Option<Machine>,
    /// How plans are run.
    pub run: RunOptions,
    /// Keeps what is measured from one search to the next.
    pub losses: Option<LossCache>,
}

/// A format of a group.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GroupFormat {
    /// The format; none where numbers stay.
    pub format: Option<Format>,
    /// Mean KL divergence of the logits from the reference, in nats.
    pub kl: f64,
    /// Bits of all weights of the group.
    pub bits: f64,
    /// What the group takes of a decode step: measured, or at the least.
    pub seconds: f64,
}

/// Linears that share a format.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// The linears.
    pub linears: Vec<LinearInfo>,
    /// The formats that it may have.
    pub formats: Vec<GroupFormat>,
}

/// A format for every group, and what that means.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// The index of each group's format.
    pub formats: Vec<usize>,
    /// Losses of the groups, added up.
    pub kl: f64,
    /// Bits of a weight.
    pub bits: f64,
    /// How many times as fast as the reference a decode step is.
    pub speedup: f64,
}

/// What was chosen, and from what.
#[derive(Clone, Debug, PartialEq)]
pub struct Mixed {
    /// The groups.
    pub groups: Vec<Group>,
    /// The linears that are not chosen for, since they are asked for by themselves: the head, with its format.
    pub heads: Vec<(LinearInfo, Option<Format>)>,
    /// The best choices from the cheapest on.
    pub frontier: Vec<Point>,
    /// Each format for all groups.
    pub uniform: Vec<(Format, Point)>,
    /// The choice.
    pub chosen: Point,
    /// The machine whose roofline times are of; none where products were measured.
    pub roofline: Option<Machine>,
    /// What the whole text costs the reference.
    pub reference: Score,
    /// What it costs the choice.
    pub score: Score,
}

impl Mixed {
    /// What was chosen, in a line.
    pub fn summary(&self) -> String {
        format!(
            "{:.2} bits a weight, perplexity {:.4} ({:+.2} %), decode steps {:.2} times as fast {}",
            self.chosen.bits,
            self.score.perplexity,
            100.0 * (self.score.perplexity / self.reference.perplexity - 1.0),
            self.chosen.speedup,
            by(self.roofline)
        )
    }

    /// The table of formats, with the reason of each as a comment.
    pub fn table(&self) -> String {
        let mut chosen = picked(&self.groups, &self.chosen.formats);
        let uniform = |(format, point): &(Format, Point)| format!("{format} {:.2}", point.bits);
        let uniform: Vec<String> = self.uniform.iter().map(uniform).collect();
        chosen.notes = vec![self.summary(), format!("bits of one format for all: {}", uniform.join(", "))];
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
            chosen.reasons.insert(head.name.clone(), "as --lm-head-precision says".to_owned());
            linears.push(head.clone());
        }
        chosen.table(&linears)
    }
}

/// Where times are from.
fn by(roofline: Option<Machine>) -> String {
    match roofline {
        Some(machine) => format!("by the roofline of {}", machine.name),
        None => "by measured products".to_owned(),
    }
}

impl Driver {
    /// Chooses formats for the linears of a checkpoint.
    pub fn choose_precision(
        &self,
        dir: &Path,
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
        let mut search = Search::new(self, dir, options, mixed, progress)?;
        let (mut groups, heads) = search.groups()?;
        search.time(&groups, progress);
        search.check_goal(&groups)?;
        search.measure(&mut groups, progress)?;
        search.choose(groups, heads, progress)
    }
}

/// The formats that groups have by these indices.
fn picked(groups: &[Group], formats: &[usize]) -> Assignment {
    let mut picked = Assignment::default();
    for (group, index) in groups.iter().zip(formats) {
        if let Some(format) = group.formats[*index].format {
            picked.formats.extend(group.linears.iter().map(|linear| (linear.name.clone(), format)));
        }
    }
    picked
}
