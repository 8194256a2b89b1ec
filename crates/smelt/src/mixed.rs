//! Chooses a number format for each linear: measures what each format of each group of linears does to the logits, and
//! picks what costs least for what it spoils.
//!
//! A group is the linears over the same activations. Its loss in a format is the mean KL divergence of the logits with
//! only that group quantized, from those of the reference; losses of groups add up, near enough to pick by them, and what
//! is picked is measured whole.

mod losses;

use std::path::{Path, PathBuf};

use passes::quantize::budget::{Offer, Pick, frontier, within_cost};
use passes::quantize::{Assignment, Format, LinearInfo, linears};
use plan::{Cost, Machine, ProgramKind, full_step};

pub use self::losses::LossCache;
use self::losses::Losses;
use crate::compile::open;
use crate::eval::{self, Passage, Rows, Score, Scoring, WindowOptions, Windows};
use crate::precision::Calibrated;
use crate::{
    CompileOptions, Driver, Error, Llm, LoadOptions, PrecisionMap, PrecisionOptions, Progress, Quiet, RunOptions,
    precision,
};

/// What bits are worth beside time, where a choice is for speed: shares of what numbers take.
const BITS_SHARE: f64 = 0.1;

/// What a choice must reach.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Goal {
    /// At most this many bits a weight, scales included, on average over the linears but for the head.
    Bits(f64),
    /// Perplexity at most this part above the reference's: 0.01 for one percent.
    PerplexityIncrease(f64),
    /// Decode steps at least so many times as fast, by the roofline.
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
    /// What the group takes of a decode step at the least.
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
    /// What the whole text costs the reference.
    pub reference: Score,
    /// What it costs the choice.
    pub score: Score,
}

impl Mixed {
    /// What was chosen, in a line.
    pub fn summary(&self) -> String {
        format!(
            "{:.2} bits a weight, perplexity {:.4} ({:+.2} %), decode steps {:.2} times as fast by the roofline",
            self.chosen.bits,
            self.score.perplexity,
            100.0 * (self.score.perplexity / self.reference.perplexity - 1.0),
            self.chosen.speedup
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
        search.check_goal(&groups)?;
        search.measure(&mut groups, progress)?;
        search.choose(groups, heads, progress)
    }
}

struct Search<'a> {
    driver: &'a Driver,
    dir: &'a Path,
    /// Those of the reference.
    options: CompileOptions,
    /// What else is asked for: of the head, of the KV cache, and what is known of activations.
    precision: PrecisionOptions,
    mixed: &'a MixedOptions,
    passage: Passage,
    windows: Windows,
    /// Logits of the start of the text.
    rows: Vec<Rows>,
    reference: Score,
    machine: Machine,
    /// A decode step of the reference at the least.
    step_seconds: f64,
    /// The same with the formats that the head and the KV cache are to have.
    base_seconds: f64,
    /// Bits of a weight that keeps its numbers.
    kept_bits: f64,
    losses: Losses,
}

impl<'a> Search<'a> {
    fn new(
        driver: &'a Driver,
        dir: &'a Path,
        options: &CompileOptions,
        mixed: &'a MixedOptions,
        progress: &mut dyn Progress,
    ) -> Result<Search<'a>, Error> {
        progress.phase("measure the reference");
        let precision = options.precision.clone();
        let options = CompileOptions { precision: PrecisionOptions::default(), ..options.clone() };
        let mut reference = load(driver, dir, &options, mixed)?;
        let passage = Passage::new(&reference, &mixed.text)?;
        let windows = WindowOptions::default().resolve(&reference, &passage)?;
        let score = eval::score(&mut reference, &passage, windows, &mut |_, _, _| {})?;
        let start = passage.start(mixed.tokens);
        let mut scoring = Scoring::new(&mut reference, &start, windows);
        let mut rows = Vec::new();
        while let Some(next) = scoring.next_rows()? {
            rows.push(next);
        }
        let kept_bits = 8.0 * options.dtype.unwrap_or(open(dir, &options)?.dtype()).bytes() as f64;
        let machine = Machine::of_target(&reference.plan().plan().target);
        let step_seconds = step_seconds(&reference, mixed.batch, machine);
        let base_seconds = step_seconds;
        let mut search = Search {
            driver,
            dir,
            options,
            precision,
            mixed,
            passage,
            windows,
            rows,
            reference: score,
            machine,
            step_seconds,
            base_seconds,
            kept_bits,
            losses: Losses::default(),
        };
        search.losses = Losses::open(mixed.losses.as_ref(), &search.decides()?);
        if search.precision.head.is_some() || search.precision.kv.is_some() {
            let base = search.load(&Assignment::default(), search.of_head_and_cache())?;
            search.base_seconds = self::step_seconds(&base, mixed.batch, machine);
        }
        Ok(search)
    }

    /// All that decides what a format does to the logits.
    fn decides(&self) -> Result<String, Error> {
        let CompileOptions { dtype, weights, disabled_passes, bisect_limit, rewrites, .. } = &self.options;
        let checkpoint = open(self.dir, &self.options)?;
        let calibration = Calibrated::open(&self.precision, &checkpoint)?.map(|calibrated| calibrated.inputs());
        let target = self.machine.name;
        let (model, start) = (checkpoint.fingerprint(), self.passage.start(self.mixed.tokens));
        let (windows, activations) = (self.windows, self.precision.activations);
        Ok(format!(
            "{model} {target} {dtype:?} {weights:?} {disabled_passes:?} {bisect_limit:?} {rewrites:?} {activations} \
             {calibration:?} {windows:?} {start:?}"
        ))
    }

    /// What is asked for beside the linears of layers.
    fn of_head_and_cache(&self) -> PrecisionOptions {
        PrecisionOptions { head: self.precision.head, kv: self.precision.kv, ..PrecisionOptions::default() }
    }

    /// Refuses a goal that no choice can reach, whatever it loses, before anything is measured.
    fn check_goal(&self, groups: &[Group]) -> Result<(), Error> {
        let least = |value: fn(&GroupFormat) -> f64| -> f64 {
            let formats = || self.mixed.formats.iter().copied().map(Some).chain([None]);
            let least =
                |group| formats().map(|format| value(&self.offer(group, format, 0.0))).fold(f64::INFINITY, f64::min);
            groups.iter().map(least).sum()
        };
        let formats = || self.mixed.formats.iter().map(|format| format.name()).collect::<Vec<_>>().join(", ");
        let problem = match self.mixed.goal {
            Goal::Bits(bits) => {
                let fewest = least(|offer| offer.bits) / weights(groups) as f64;
                (fewest > bits)
                    .then(|| format!("--target-bits {bits}: {} need at least {fewest:.2} bits a weight", formats()))
            }
            Goal::Speedup(speedup) => {
                let kept: f64 = groups.iter().map(|group| self.offer(group, None, 0.0).seconds).sum();
                let fastest = self.step_seconds / (self.base_seconds - kept + least(|offer| offer.seconds));
                (fastest < speedup).then(|| {
                    format!(
                        "--min-speedup {speedup}: by the roofline, decode steps of {} sequences get at most {fastest:.2} \
                         times as fast with {}, since all else stays as it is",
                        self.mixed.batch,
                        formats()
                    )
                })
            }
            Goal::PerplexityIncrease(_) => None,
        };
        problem.map_or(Ok(()), |problem| Err(Error::Usage(problem)))
    }

    /// The linears by their activations, and the heads.
    fn groups(&self) -> Result<(Vec<Group>, Vec<LinearInfo>), Error> {
        let checkpoint = open(self.dir, &self.options)?;
        let settings =
            crate::compile::resolve(self.driver.target(&self.options.target, &mut Quiet)?, &checkpoint, &self.options)?;
        let graph = checkpoint.graph(&settings.import)?;
        let mut groups: Vec<Group> = Vec::new();
        let (heads, linears): (Vec<LinearInfo>, Vec<LinearInfo>) =
            linears(&graph).into_iter().partition(|linear| linear.head);
        for linear in linears {
            match groups.iter_mut().find(|group| group.linears[0].input == linear.input) {
                Some(group) => group.linears.push(linear),
                None => groups.push(Group { linears: vec![linear], formats: Vec::new() }),
            }
        }
        if groups.is_empty() {
            return Err(Error::Unsupported("the model has no linears to choose formats for".to_owned()));
        }
        Ok((groups, heads))
    }

    fn measure(&mut self, groups: &mut [Group], progress: &mut dyn Progress) -> Result<(), Error> {
        let total = groups.len() * self.mixed.formats.len();
        let known = |group: &Group, format: &Format| self.losses.get(&group.linears[0].name, *format).is_some();
        let count = |group: &Group| self.mixed.formats.iter().filter(|format| known(group, format)).count();
        let known = match groups.iter().map(count).sum() {
            0 => String::new(),
            known => format!(", {known} of them known from an earlier search"),
        };
        progress.phase(&format!("measure {total} formats of groups{known}"));
        let mut done = 0;
        for group in groups {
            group.formats.push(self.offer(group, None, 0.0));
            for format in &self.mixed.formats {
                let first = &group.linears[0].name;
                let kl = match self.losses.get(first, *format) {
                    Some(kl) => kl,
                    None => {
                        let kl = self.divergence(&assignment(group.linears.iter(), *format))?;
                        self.losses.add(first, *format, kl, progress);
                        kl
                    }
                };
                group.formats.push(self.offer(group, Some(*format), kl));
                done += 1;
                progress.items(done, total as u64);
            }
        }
        Ok(())
    }

    /// A format of a group, and what it costs.
    fn offer(&self, group: &Group, format: Option<Format>, kl: f64) -> GroupFormat {
        let (mut bits, mut seconds) = (0.0, 0.0);
        for LinearInfo { outputs, inputs, .. } in &group.linears {
            let weights = (outputs * inputs) as f64;
            let each = format.map_or(self.kept_bits, |format| format.weight_bits(*inputs));
            // 8-bit products on both sides run at twice the rate
            let halved = if format.is_some_and(Format::narrow_activations) { 2 } else { 1 };
            let flops = 2 * u64::from(self.mixed.batch) * outputs * inputs / halved;
            let cost = Cost { flops, read: (weights * each / 8.0) as u64, written: 0 };
            seconds += self.machine.estimate(cost, true).seconds - self.machine.launch_seconds;
            bits += weights * each;
        }
        GroupFormat { format, kl, bits, seconds }
    }

    fn choose(
        &mut self,
        groups: Vec<Group>,
        heads: Vec<LinearInfo>,
        progress: &mut dyn Progress,
    ) -> Result<Mixed, Error> {
        let kept = |value: fn(&GroupFormat) -> f64| groups.iter().map(|group| value(&group.formats[0])).sum::<f64>();
        let (kept_bits, kept_seconds) = (kept(|format| format.bits), kept(|format| format.seconds));
        let cost = |format: &GroupFormat| match self.mixed.goal {
            Goal::Bits(_) => format.bits,
            Goal::Speedup(_) => format.seconds,
            // where steps are no faster for it, memory is still less
            Goal::PerplexityIncrease(_) => format.seconds / kept_seconds + BITS_SHARE * format.bits / kept_bits,
        };
        let offers =
            |group: &Group| group.formats.iter().map(|format| Offer { cost: cost(format), loss: format.kl }).collect();
        let picks = frontier(&groups.iter().map(offers).collect::<Vec<_>>());
        progress.phase("judge the choice");
        let (pick, score) = match self.mixed.goal {
            Goal::Bits(bits) => {
                // costs are rounded up: the cheapest of all may seem a little dearer than it is
                let pick = within_cost(&picks, bits * weights(&groups) as f64).unwrap_or(&picks[0]);
                (pick, self.score(&groups, pick)?)
            }
            Goal::Speedup(speedup) => {
                let budget = kept_seconds - self.base_seconds + self.step_seconds / speedup;
                let pick = within_cost(&picks, budget).unwrap_or(&picks[0]);
                (pick, self.score(&groups, pick)?)
            }
            Goal::PerplexityIncrease(part) => self.within_perplexity(&groups, &picks, part)?,
        };
        let uniform = self.mixed.formats.iter().enumerate();
        let uniform =
            uniform.map(|(index, format)| (*format, self.point(&groups, vec![index + 1; groups.len()]))).collect();
        let points = picks.iter().map(|pick| self.point(&groups, pick.offers.clone())).collect();
        let chosen = self.point(&groups, pick.offers.clone());
        let heads = heads.into_iter().map(|head| (head, self.precision.head)).collect();
        Ok(Mixed { frontier: points, uniform, chosen, reference: self.reference, score, groups, heads })
    }

    /// The cheapest pick whose measured perplexity is near enough to the reference: a search by halves, since what loses
    /// more by its parts loses more as a whole but for noise.
    fn within_perplexity<'p>(
        &mut self,
        groups: &[Group],
        picks: &'p [Pick],
        part: f64,
    ) -> Result<(&'p Pick, Score), Error> {
        let limit = self.reference.perplexity * (1.0 + part);
        let (mut low, mut high) = (0, picks.len() - 1);
        // the last pick keeps all numbers: what is lost is lost by the head and the cache
        let mut best = (&picks[high], self.score(groups, &picks[high])?);
        if best.1.perplexity > limit {
            return Err(Error::Usage(format!(
                "--max-perplexity-increase {}%: the formats of the head and the KV cache alone take the perplexity from \
                 {:.4} to {:.4}",
                100.0 * part,
                self.reference.perplexity,
                best.1.perplexity
            )));
        }
        while low < high {
            let middle = low + (high - low) / 2;
            let score = self.score(groups, &picks[middle])?;
            if score.perplexity <= limit {
                (best, high) = ((&picks[middle], score), middle);
            } else {
                low = middle + 1;
            }
        }
        Ok(best)
    }

    fn point(&self, groups: &[Group], formats: Vec<usize>) -> Point {
        let chosen = || groups.iter().zip(&formats).map(|(group, index)| &group.formats[*index]);
        let saved: f64 = groups.iter().map(|group| group.formats[0].seconds).sum::<f64>()
            - chosen().map(|format| format.seconds).sum::<f64>();
        Point {
            kl: chosen().map(|format| format.kl).sum(),
            bits: chosen().map(|format| format.bits).sum::<f64>() / weights(groups) as f64,
            speedup: self.step_seconds / (self.base_seconds - saved),
            formats,
        }
    }

    /// What the whole text costs a pick, with the formats of the head and of the KV cache.
    fn score(&self, groups: &[Group], pick: &Pick) -> Result<Score, Error> {
        let mut llm = self.load(&picked(groups, &pick.offers), self.of_head_and_cache())?;
        eval::score(&mut llm, &self.passage, self.windows, &mut |_, _, _| {})
    }

    /// How far the logits move from the reference's.
    fn divergence(&self, assignment: &Assignment) -> Result<f64, Error> {
        let mut llm = self.load(assignment, PrecisionOptions::default())?;
        let start = self.passage.start(self.mixed.tokens);
        let mut scoring = Scoring::new(&mut llm, &start, self.windows);
        let (mut sum, mut count) = (0.0, 0);
        for expected in &self.rows {
            let found = scoring.next_rows()?.filter(|found| found.targets == expected.targets);
            let found = found.ok_or_else(|| Error::Unsupported("the plan takes the text in other steps".to_owned()))?;
            sum += eval::divergence(expected, &found);
            count += expected.targets.len();
        }
        Ok(sum / f64::from(count as u32))
    }

    fn load(&self, assignment: &Assignment, other: PrecisionOptions) -> Result<Llm, Error> {
        let lines = assignment.formats.iter().map(|(name, format)| format!("{name} {format}\n"));
        let map = PrecisionMap { path: PathBuf::from("precision"), text: lines.collect() };
        let PrecisionOptions { activations, calibration, .. } = self.precision.clone();
        let precision = PrecisionOptions { map: Some(map), activations, calibration, ..other };
        load(self.driver, self.dir, &CompileOptions { precision, ..self.options.clone() }, self.mixed)
    }
}

fn assignment<'a>(linears: impl Iterator<Item = &'a LinearInfo>, format: Format) -> Assignment {
    let formats = linears.map(|linear| (linear.name.clone(), format)).collect();
    Assignment { formats, ..Assignment::default() }
}

/// The formats that groups have by these indices.
fn picked(groups: &[Group], formats: &[usize]) -> Assignment {
    let mut picked = Assignment::default();
    for (group, index) in groups.iter().zip(formats) {
        if let Some(format) = group.formats[*index].format {
            picked.formats.extend(assignment(group.linears.iter(), format).formats);
        }
    }
    picked
}

fn load(driver: &Driver, dir: &Path, options: &CompileOptions, mixed: &MixedOptions) -> Result<Llm, Error> {
    let compile = CompileOptions {
        max_batch_size: Some(options.max_batch_size.unwrap_or(1).max(mixed.batch)),
        ..WindowOptions::default().compile_options(options.clone())
    };
    Llm::load_with(driver, dir, &LoadOptions { compile, cache: None, run: mixed.run }, &mut Quiet)
}

/// A decode step of so many sequences at the least, over contexts of 512 tokens.
fn step_seconds(llm: &Llm, batch: u32, machine: Machine) -> f64 {
    let plan = llm.plan().plan();
    let sequences =
        |program: &&plan::Program| plan::upper_bounds(&program.symbols).values().copied().max().unwrap_or(0);
    let decode = plan.programs.iter().filter(|program| program.kind == ProgramKind::Decode);
    let program = decode.filter(|program| sequences(program) >= u64::from(batch)).min_by_key(sequences);
    let estimates = program.and_then(|program| machine.estimates(plan, program, &full_step(program, 512)).ok());
    estimates.unwrap_or_default().iter().map(|estimate| estimate.seconds).sum()
}

/// Weights of all groups.
fn weights(groups: &[Group]) -> u64 {
    groups.iter().flat_map(|group| &group.linears).map(|linear| linear.outputs * linear.inputs).sum()
}
