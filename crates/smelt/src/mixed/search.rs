//! The search: measures formats of groups, and chooses one per group.

use passes::quantize::{Assignment, Format, LinearInfo};

use super::costs::{Costs, weights};
use super::knapsack::{Offer, Pick, frontier, within_cost};
use super::losses::Losses;
use super::plans::Plans;
use super::text::Text;
use super::{Goal, Group, GroupFormat, Mixed, MixedOptions, picked};
use crate::eval::Score;
use crate::{Error, Progress};

/// Weight of bits beside time when optimizing for speed, relative to the unquantized model.
const BITS_SHARE: f64 = 0.1;

/// A search for formats.
pub(super) struct Search<'a> {
    pub options: &'a MixedOptions,
    pub plans: Plans<'a>,
    pub text: Text,
    pub costs: Costs,
    pub losses: Losses,
}

impl Search<'_> {
    /// Measures each format of each group.
    pub fn measure(&mut self, groups: &mut [Group], progress: &mut dyn Progress) -> Result<(), Error> {
        let total = groups.len() * self.options.formats.len();
        let known = |group: &Group, format: &Format| self.losses.get(&group.linears[0].name, *format).is_some();
        let count = |group: &Group| self.options.formats.iter().filter(|format| known(group, format)).count();
        let known = match groups.iter().map(count).sum() {
            0 => String::new(),
            known => format!(", {known} of them from an earlier search"),
        };
        progress.phase(&format!("measuring {total} formats of groups{known}"));
        let mut done = 0;
        for group in groups {
            group.formats.push(self.costs.offer(group, None, 0.0));
            for format in &self.options.formats {
                let first = &group.linears[0].name;
                let kl = match self.losses.get(first, *format) {
                    Some(kl) => kl,
                    None => {
                        let kl =
                            self.text.divergence(self.plans.of_linears(&assignment(group.linears.iter(), *format))?)?;
                        self.losses.add(first, *format, kl, progress);
                        kl
                    }
                };
                group.formats.push(self.costs.offer(group, Some(*format), kl));
                done += 1;
                progress.items(done, total as u64);
            }
        }
        Ok(())
    }

    /// Chooses a format per group, and measures the choice.
    pub fn choose(
        &self,
        groups: Vec<Group>,
        heads: Vec<LinearInfo>,
        progress: &mut dyn Progress,
    ) -> Result<Mixed, Error> {
        let kept = |value: fn(&GroupFormat) -> f64| groups.iter().map(|group| value(&group.formats[0])).sum::<f64>();
        let (kept_bits, kept_seconds) = (kept(|format| format.bits), kept(|format| format.seconds));
        let cost = |format: &GroupFormat| match self.options.goal {
            Goal::Bits(_) => format.bits,
            Goal::Speedup(_) => format.seconds,
            // even without a speed-up, it saves memory
            Goal::PerplexityIncrease(_) => format.seconds / kept_seconds + BITS_SHARE * format.bits / kept_bits,
        };
        let offers =
            |group: &Group| group.formats.iter().map(|format| Offer { cost: cost(format), loss: format.kl }).collect();
        let picks = frontier(&groups.iter().map(offers).collect::<Vec<_>>());
        progress.phase("measuring the choice");
        let (pick, score) = match self.options.goal {
            Goal::Bits(bits) => {
                // costs are rounded up: the cheapest may exceed the bound by rounding
                let pick = within_cost(&picks, bits * weights(&groups) as f64).unwrap_or(&picks[0]);
                (pick, self.score(&groups, pick)?)
            }
            Goal::Speedup(speedup) => {
                let budget = kept_seconds - self.costs.base_seconds + self.costs.step_seconds / speedup;
                let pick = within_cost(&picks, budget).unwrap_or(&picks[0]);
                (pick, self.score(&groups, pick)?)
            }
            Goal::PerplexityIncrease(part) => self.within_perplexity(&groups, &picks, part)?,
        };
        let uniform = self.options.formats.iter().enumerate();
        let uniform = uniform
            .map(|(index, format)| (*format, self.costs.point(&groups, vec![index + 1; groups.len()])))
            .collect();
        let points = picks.iter().map(|pick| self.costs.point(&groups, pick.offers.clone())).collect();
        let chosen = self.costs.point(&groups, pick.offers.clone());
        let heads = heads.into_iter().map(|head| (head, self.plans.precision.head)).collect();
        Ok(Mixed {
            frontier: points,
            uniform,
            chosen,
            reference: self.text.reference,
            score,
            groups,
            heads,
            roofline: self.costs.roofline(),
        })
    }

    /// The cheapest choice whose measured perplexity is within the bound: a binary search, since a larger sum of losses
    /// means a larger total loss, up to noise.
    fn within_perplexity<'p>(
        &self,
        groups: &[Group],
        picks: &'p [Pick],
        part: f64,
    ) -> Result<(&'p Pick, Score), Error> {
        let limit = self.text.reference.perplexity * (1.0 + part);
        let (mut low, mut high) = (0, picks.len() - 1);
        // the last choice is unquantized: its loss is that of lm_head and the KV cache
        let mut best = (&picks[high], self.score(groups, &picks[high])?);
        if best.1.perplexity > limit {
            return Err(Error::Usage(format!(
                "--max-perplexity-increase {}%: the formats of lm_head and the KV cache alone raise the perplexity from \
                 {:.4} to {:.4}",
                100.0 * part,
                self.text.reference.perplexity,
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

    /// The loss of a choice on the whole text, with the formats of lm_head and the KV cache.
    fn score(&self, groups: &[Group], pick: &Pick) -> Result<Score, Error> {
        self.text.score(self.plans.whole(&picked(groups, &pick.offers))?)
    }
}

fn assignment<'a>(linears: impl Iterator<Item = &'a LinearInfo>, format: Format) -> Assignment {
    let formats = linears.map(|linear| (linear.name.clone(), format)).collect();
    Assignment { formats, ..Assignment::default() }
}
