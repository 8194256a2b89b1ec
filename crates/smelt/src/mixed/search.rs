//! The search: measures groups and formats, and chooses one per group.

use std::path::Path;

use codegen::Target;
use frontend::ImportOptions;
use passes::quantize::budget::{Offer, Pick, frontier, within_cost};
use passes::quantize::{Assignment, Format, LinearInfo, linears};
use plan::{Arithmetic, Cost, Machine, ProgramKind, full_step};

use super::losses::Losses;
use super::times::Times;
use super::{Goal, Group, GroupFormat, Mixed, MixedOptions, Point, by, picked};
use crate::compile::open;
use crate::eval::{self, Passage, Rows, Score, Scoring, WindowOptions, Windows};
use crate::precision::Calibrated;
use crate::{CompileOptions, Driver, Error, Llm, LoadOptions, PrecisionMap, PrecisionOptions, Progress, Quiet};

/// Weight of bits beside time when optimizing for speed, relative to the unquantized model.
const BITS_SHARE: f64 = 0.1;

/// A search for formats.
pub(super) struct Search<'a> {
    driver: &'a Driver,
    dir: &'a Path,
    /// Those of the reference.
    options: CompileOptions,
    /// Other options: formats of lm_head and the KV cache, and the calibration.
    precision: PrecisionOptions,
    mixed: &'a MixedOptions,
    passage: Passage,
    windows: Windows,
    /// Logits of the start of the text.
    rows: Vec<Rows>,
    reference: Score,
    machine: Machine,
    /// Lower bound on the time of a decode step of the reference.
    step_seconds: f64,
    /// The same with the requested formats of lm_head and the KV cache.
    base_seconds: f64,
    /// Bits of an unquantized weight.
    kept_bits: f64,
    losses: Losses,
    /// Measured times of products; `None` if the roofline is used.
    times: Option<Times>,
}

impl<'a> Search<'a> {
    pub fn new(
        driver: &'a Driver,
        dir: &'a Path,
        options: &CompileOptions,
        mixed: &'a MixedOptions,
        progress: &mut dyn Progress,
    ) -> Result<Search<'a>, Error> {
        progress.phase("measuring the reference");
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
        let kept_bits = 8.0 * options.dtype.unwrap_or(open(dir, &options, progress)?.dtype()).bytes() as f64;
        let target = reference.plan().plan().target.clone();
        let machine = mixed.machine.unwrap_or_else(|| Machine::of_target(&target));
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
            times: None,
        };
        search.losses = Losses::open(mixed.losses.as_ref(), &search.decides(&target)?);
        if search.precision.head.is_some() || search.precision.kv.is_some() {
            let base = search.load(&Assignment::default(), search.of_head_and_cache())?;
            search.base_seconds = self::step_seconds(&base, mixed.batch, machine);
        }
        Ok(search)
    }

    /// Everything that decides the effect of a format on the logits.
    fn decides(&self, target: &str) -> Result<String, Error> {
        let CompileOptions { dtype, weights, ignored_tensors, disabled_passes, bisect_limit, rewrites, .. } =
            &self.options;
        let checkpoint = open(self.dir, &self.options, &mut Quiet)?;
        let calibration = Calibrated::open(&self.precision, &checkpoint)?.map(|calibrated| calibrated.inputs());
        let (model, start) = (checkpoint.fingerprint(), self.passage.start(self.mixed.tokens));
        let (windows, activations) = (self.windows, self.precision.activations);
        Ok(format!(
            "{model} {target} {dtype:?} {weights:?} {ignored_tensors:?} {disabled_passes:?} {bisect_limit:?} {rewrites:?} \
             {activations} {calibration:?} {windows:?} {start:?}"
        ))
    }

    /// Options other than the formats of linear layers.
    fn of_head_and_cache(&self) -> PrecisionOptions {
        PrecisionOptions { head: self.precision.head, kv: self.precision.kv, ..PrecisionOptions::default() }
    }

    /// The machine whose roofline predicts times, if products are not measured.
    fn roofline(&self) -> Option<Machine> {
        Some(self.machine).filter(|_| self.times.is_none())
    }

    /// Measures products, if their time matters and there is a timing cache. Falls back to the roofline if that fails.
    pub fn time(&mut self, groups: &[Group], progress: &mut dyn Progress) {
        if matches!(self.mixed.goal, Goal::Bits(_)) || self.mixed.machine.is_some() || self.options.timing.is_none() {
            return;
        }
        match self.measured(groups, progress) {
            Ok(times) => {
                let kept = |search: &Search<'_>| -> f64 {
                    groups.iter().map(|group| search.offer(group, None, 0.0).seconds).sum()
                };
                let bound = kept(self);
                self.times = Some(times);
                let slower = kept(self) - bound;
                self.step_seconds += slower;
                self.base_seconds += slower;
            }
            Err(error) => progress.note(&format!("falling back to the roofline model: {error}")),
        }
    }

    fn measured(&self, groups: &[Group], progress: &mut dyn Progress) -> Result<Times, Error> {
        let (target, import) = self.import()?;
        let mut times = Times::new(self.driver, (target, &import), self.mixed.run, self.options.timing.as_ref())?;
        progress.phase("timing products");
        let formats: Vec<Option<Format>> = self.mixed.formats.iter().copied().map(Some).chain([None]).collect();
        let total = (groups.len() * formats.len()) as u64;
        for (index, group) in groups.iter().enumerate() {
            for (place, format) in formats.iter().enumerate() {
                let (outputs, inputs) = sizes(group);
                times.measure(u64::from(self.mixed.batch), outputs, inputs, *format)?;
                progress.items((index * formats.len() + place) as u64 + 1, total);
            }
        }
        Ok(times)
    }

    fn import(&self) -> Result<(Target, ImportOptions), Error> {
        let checkpoint = open(self.dir, &self.options, &mut Quiet)?;
        let target = self.driver.target(&self.options.target, &mut Quiet)?;
        Ok((target, crate::compile::resolve(target, &checkpoint, &self.options)?.import))
    }

    /// Refuses a goal that no choice can reach at any loss, before anything is measured.
    pub fn check_goal(&self, groups: &[Group]) -> Result<(), Error> {
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
                    .then(|| format!("--target-bits {bits}: {} need at least {fewest:.2} bits per weight", formats()))
            }
            Goal::Speedup(speedup) => {
                let kept: f64 = groups.iter().map(|group| self.offer(group, None, 0.0).seconds).sum();
                let fastest = self.step_seconds / (self.base_seconds - kept + least(|offer| offer.seconds));
                (fastest < speedup).then(|| {
                    format!(
                        "--min-speedup {speedup}: the decode speed-up of {} sequences is at most {fastest:.2} \
                         with \
                 {} ({}), since the rest of the step is unchanged",
                        self.mixed.batch,
                        formats(),
                        by(self.roofline())
                    )
                })
            }
            Goal::PerplexityIncrease(_) => None,
        };
        problem.map_or(Ok(()), |problem| Err(Error::Usage(problem)))
    }

    /// The linear layers by input, and lm_head.
    pub fn groups(&self) -> Result<(Vec<Group>, Vec<LinearInfo>), Error> {
        let graph = open(self.dir, &self.options, &mut Quiet)?.graph(&self.import()?.1)?;
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
            return Err(Error::Unsupported("the model has no linear layers to choose formats for".to_owned()));
        }
        Ok((groups, heads))
    }

    pub fn measure(&mut self, groups: &mut [Group], progress: &mut dyn Progress) -> Result<(), Error> {
        let total = groups.len() * self.mixed.formats.len();
        let known = |group: &Group, format: &Format| self.losses.get(&group.linears[0].name, *format).is_some();
        let count = |group: &Group| self.mixed.formats.iter().filter(|format| known(group, format)).count();
        let known = match groups.iter().map(count).sum() {
            0 => String::new(),
            known => format!(", {known} of them from an earlier search"),
        };
        progress.phase(&format!("measuring {total} formats of groups{known}"));
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

    /// A format of a group, and its cost.
    fn offer(&self, group: &Group, format: Option<Format>, kl: f64) -> GroupFormat {
        let (mut bits, mut seconds) = (0.0, 0.0);
        for LinearInfo { outputs, inputs, .. } in &group.linears {
            let weights = (outputs * inputs) as f64;
            let each = format.map_or(self.kept_bits, |format| format.weight_bits(*inputs));
            // 8-bit products on both sides run at twice the rate
            let halved = if format.is_some_and(Format::narrow_activations) { 2 } else { 1 };
            let flops = 2 * u64::from(self.mixed.batch) * outputs * inputs / halved;
            let cost = Cost { flops, read: (weights * each / 8.0) as u64, written: 0 };
            seconds += self.machine.estimate(cost, Arithmetic::Matrices).seconds - self.machine.launch_seconds;
            bits += weights * each;
        }
        let (outputs, inputs) = sizes(group);
        let seconds = self.times.as_ref().and_then(|times| times.get(outputs, inputs, format)).unwrap_or(seconds);
        GroupFormat { format, kl, bits, seconds }
    }

    pub fn choose(
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
            // even without a speed-up, it saves memory
            Goal::PerplexityIncrease(_) => format.seconds / kept_seconds + BITS_SHARE * format.bits / kept_bits,
        };
        let offers =
            |group: &Group| group.formats.iter().map(|format| Offer { cost: cost(format), loss: format.kl }).collect();
        let picks = frontier(&groups.iter().map(offers).collect::<Vec<_>>());
        progress.phase("measuring the choice");
        let (pick, score) = match self.mixed.goal {
            Goal::Bits(bits) => {
                // costs are rounded up: the cheapest may exceed the bound by rounding
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
        Ok(Mixed {
            frontier: points,
            uniform,
            chosen,
            reference: self.reference,
            score,
            groups,
            heads,
            roofline: self.roofline(),
        })
    }

    /// The cheapest choice whose measured perplexity is within the bound: a binary search, since a larger sum of losses
    /// means a larger total loss, up to noise.
    fn within_perplexity<'p>(
        &mut self,
        groups: &[Group],
        picks: &'p [Pick],
        part: f64,
    ) -> Result<(&'p Pick, Score), Error> {
        let limit = self.reference.perplexity * (1.0 + part);
        let (mut low, mut high) = (0, picks.len() - 1);
        // the last choice is unquantized: its loss is that of lm_head and the KV cache
        let mut best = (&picks[high], self.score(groups, &picks[high])?);
        if best.1.perplexity > limit {
            return Err(Error::Usage(format!(
                "--max-perplexity-increase {}%: the formats of lm_head and the KV cache alone raise the perplexity from \
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

    /// The loss of a choice on the whole text, with the formats of lm_head and the KV cache.
    fn score(&self, groups: &[Group], pick: &Pick) -> Result<Score, Error> {
        let mut llm = self.load(&picked(groups, &pick.offers), self.of_head_and_cache())?;
        eval::score(&mut llm, &self.passage, self.windows, &mut |_, _, _| {})
    }

    /// The divergence of the logits from the reference's.
    fn divergence(&self, assignment: &Assignment) -> Result<f64, Error> {
        let mut llm = self.load(assignment, PrecisionOptions::default())?;
        let start = self.passage.start(self.mixed.tokens);
        let mut scoring = Scoring::new(&mut llm, &start, self.windows);
        let (mut sum, mut count) = (0.0, 0);
        for expected in &self.rows {
            let found = scoring.next_rows()?.filter(|found| found.targets == expected.targets);
            let found =
                found.ok_or_else(|| Error::Unsupported("the plan splits the text into different steps".to_owned()))?;
            sum += eval::divergence(expected, &found);
            count += expected.targets.len();
        }
        Ok(sum / f64::from(count as u32))
    }

    fn load(&self, assignment: &Assignment, other: PrecisionOptions) -> Result<Llm, Error> {
        let map = PrecisionMap::of(&assignment.formats);
        let PrecisionOptions { activations, calibration, .. } = self.precision.clone();
        let precision = PrecisionOptions { map: Some(map), activations, calibration, ..other };
        load(self.driver, self.dir, &CompileOptions { precision, ..self.options.clone() }, self.mixed)
    }
}

fn assignment<'a>(linears: impl Iterator<Item = &'a LinearInfo>, format: Format) -> Assignment {
    let formats = linears.map(|linear| (linear.name.clone(), format)).collect();
    Assignment { formats, ..Assignment::default() }
}

fn load(driver: &Driver, dir: &Path, options: &CompileOptions, mixed: &MixedOptions) -> Result<Llm, Error> {
    let compile = CompileOptions {
        max_batch_size: Some(options.max_batch_size.unwrap_or(1).max(mixed.batch)),
        ..WindowOptions::default().compile_options(options.clone())
    };
    Llm::load_with(driver, dir, &LoadOptions { compile, cache: None, run: mixed.run }, &mut Quiet)
}

/// Lower bound on the time of a decode step of this many sequences, over contexts of 512 tokens.
fn step_seconds(llm: &Llm, batch: u32, machine: Machine) -> f64 {
    let plan = llm.plan().plan();
    let sequences =
        |program: &&plan::Program| plan::upper_bounds(&program.symbols).values().copied().max().unwrap_or(0);
    let decode = plan.programs.iter().filter(|program| program.kind == ProgramKind::Decode);
    let program = decode.filter(|program| sequences(program) >= u64::from(batch)).min_by_key(sequences);
    let estimates = program.and_then(|program| machine.estimates(plan, program, &full_step(program, 512)).ok());
    estimates.unwrap_or_default().iter().map(|estimate| estimate.seconds).sum()
}

/// Outputs and inputs of the single product that a group is merged into.
fn sizes(group: &Group) -> (u64, u64) {
    let inputs = group.linears.first().map_or(0, |linear| linear.inputs);
    (group.linears.iter().map(|linear| linear.outputs).sum(), inputs)
}

/// Number of weights of all groups.
fn weights(groups: &[Group]) -> u64 {
    groups.iter().flat_map(|group| &group.linears).map(|linear| linear.outputs * linear.inputs).sum()
}
