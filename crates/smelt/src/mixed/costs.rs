//! What formats cost: bits, and time of a decode step.

use passes::quantize::{Assignment, Format, LinearInfo};
use plan::{Arithmetic, Cost, Machine, ProgramKind, full_step};

use super::plans::{Model, Plans};
use super::product_times::ProductTimes;
use super::{Goal, Group, GroupFormat, MixedOptions, Point, by};
use crate::{Error, Llm, Progress};

/// Costs of formats, for decode steps of some batch size.
pub(super) struct Costs {
    batch: u32,
    machine: Machine,
    /// Lower bound on the time of a decode step of the reference.
    pub step_seconds: f64,
    /// The same with the requested formats of lm_head and the KV cache.
    pub base_seconds: f64,
    /// Bits of an unquantized weight.
    kept_bits: f64,
    /// Measured times of products; `None` if the roofline is used.
    times: Option<ProductTimes>,
}

impl Costs {
    /// By the roofline of a machine.
    pub fn new(plans: &Plans<'_>, reference: &Llm, mixed: &MixedOptions) -> Result<Costs, Error> {
        let machine = mixed.machine.unwrap_or_else(|| Machine::of_target(&reference.plan().plan().target));
        let seconds = |llm: &Llm| step_seconds(llm, mixed.batch, machine);
        let step_seconds = seconds(reference);
        let base_seconds = match plans.beyond_linears() {
            true => seconds(&plans.whole(&Assignment::default())?),
            false => step_seconds,
        };
        let kept_bits = 8.0 * plans.options.dtype.unwrap_or(plans.source.checkpoint.dtype()).bytes() as f64;
        Ok(Costs { batch: mixed.batch, machine, step_seconds, base_seconds, kept_bits, times: None })
    }

    /// The machine whose roofline predicts times, if products are not measured.
    pub fn roofline(&self) -> Option<Machine> {
        Some(self.machine).filter(|_| self.times.is_none())
    }

    /// Measures products, if their time matters and there is a timing cache. Falls back to the roofline if that fails.
    pub fn measure_products(
        &mut self,
        plans: &Plans<'_>,
        model: &Model,
        mixed: &MixedOptions,
        progress: &mut dyn Progress,
    ) {
        if matches!(mixed.goal, Goal::Bits(_)) || mixed.machine.is_some() || plans.options.timing.is_none() {
            return;
        }
        match product_times(plans, model, mixed, progress) {
            Ok(times) => {
                let kept =
                    |costs: &Costs| model.groups.iter().map(|group| costs.offer(group, None, 0.0).seconds).sum::<f64>();
                let bound = kept(self);
                self.times = Some(times);
                let slower = kept(self) - bound;
                self.step_seconds += slower;
                self.base_seconds += slower;
            }
            Err(error) => progress.note(&format!("falling back to the roofline model: {error}")),
        }
    }

    /// Refuses a goal that no choice can reach at any loss, before anything is measured.
    pub fn check_goal(&self, groups: &[Group], mixed: &MixedOptions) -> Result<(), Error> {
        let least = |value: fn(&GroupFormat) -> f64| -> f64 {
            let formats = || mixed.formats.iter().copied().map(Some).chain([None]);
            let least =
                |group| formats().map(|format| value(&self.offer(group, format, 0.0))).fold(f64::INFINITY, f64::min);
            groups.iter().map(least).sum()
        };
        let formats = || mixed.formats.iter().map(|format| format.name()).collect::<Vec<_>>().join(", ");
        let problem = match mixed.goal {
            Goal::Bits(bits) => {
                let fewest = least(|offer| offer.bits) / weights(groups) as f64;
                (fewest > bits)
                    .then(|| format!("`Goal::Bits` {bits}: {} need at least {fewest:.2} bits per weight", formats()))
            }
            Goal::Speedup(speedup) => {
                let kept: f64 = groups.iter().map(|group| self.offer(group, None, 0.0).seconds).sum();
                let fastest = self.step_seconds / (self.base_seconds - kept + least(|offer| offer.seconds));
                (fastest < speedup).then(|| {
                    format!(
                        "`Goal::Speedup` {speedup}: the decode speed-up of {} sequences is at most {fastest:.2} with \
                         {} {}, since the rest of the step is unchanged",
                        mixed.batch,
                        formats(),
                        by(self.roofline())
                    )
                })
            }
            Goal::PerplexityIncrease(_) => None,
        };
        problem.map_or(Ok(()), |problem| Err(Error::Usage(problem)))
    }

    /// A format of a group, and its cost.
    pub fn offer(&self, group: &Group, format: Option<Format>, kl: f64) -> GroupFormat {
        let (mut bits, mut seconds) = (0.0, 0.0);
        for LinearInfo { outputs, inputs, .. } in &group.linears {
            let weights = (outputs * inputs) as f64;
            let each = format.map_or(self.kept_bits, |format| format.weight_bits(*inputs));
            // 8-bit products on both sides run at twice the rate
            let halved = if format.is_some_and(Format::narrow_activations) { 2 } else { 1 };
            let flops = 2 * u64::from(self.batch) * outputs * inputs / halved;
            let cost = Cost { flops, read: (weights * each / 8.0) as u64, written: 0 };
            seconds += self.machine.estimate(cost, Arithmetic::Matrices).seconds - self.machine.launch_seconds;
            bits += weights * each;
        }
        let (outputs, inputs) = sizes(group);
        let seconds = self.times.as_ref().and_then(|times| times.get(outputs, inputs, format)).unwrap_or(seconds);
        GroupFormat { format, kl, bits, seconds }
    }

    /// The costs of a choice.
    pub fn point(&self, groups: &[Group], formats: Vec<usize>) -> Point {
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
}

/// Times of all formats of the groups' products.
fn product_times(
    plans: &Plans<'_>,
    model: &Model,
    mixed: &MixedOptions,
    progress: &mut dyn Progress,
) -> Result<ProductTimes, Error> {
    let target = plans.driver.chosen_target(&plans.options.target)?.target;
    let mut times = ProductTimes::new(plans.driver, target, model.types, mixed.run, plans.options.timing.as_ref())?;
    progress.phase("timing products");
    let formats: Vec<Option<Format>> = mixed.formats.iter().copied().map(Some).chain([None]).collect();
    let total = (model.groups.len() * formats.len()) as u64;
    for (index, group) in model.groups.iter().enumerate() {
        for (place, format) in formats.iter().enumerate() {
            let (outputs, inputs) = sizes(group);
            times.measure(u64::from(mixed.batch), outputs, inputs, *format)?;
            progress.items((index * formats.len() + place) as u64 + 1, total);
        }
    }
    Ok(times)
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
pub(super) fn weights(groups: &[Group]) -> u64 {
    groups.iter().flat_map(|group| &group.linears).map(|linear| linear.outputs * linear.inputs).sum()
}
