//! Comparison of two plans of one model on a text: the divergence of their predictions, and of intermediate values.

use std::collections::BTreeMap;

use plan::{Plan, PortData};
use rayon::prelude::*;

use super::{Comparison, Passage, Rows, Score, Scoring, ValueError, Windows, log_sum_exp};
use crate::{Error, Llm};

/// Runs a passage through both plans, step by step. They must split it into the same steps.
pub fn compare(reference: &mut Llm, plan: &mut Llm, passage: &Passage, windows: Windows) -> Result<Comparison, Error> {
    let names = common_outputs(reference.plan().plan(), plan.plan().plan());
    let mut values: Vec<Sums> = names.iter().map(|_| Sums::default()).collect();
    let (mut sums, mut logits) = (Totals::default(), Sums::default());
    let mut left = Scoring::new(reference, passage, windows);
    let mut right = Scoring::new(plan, passage, windows);
    loop {
        let (a, b) = match (left.next_rows()?, right.next_rows()?) {
            (Some(a), Some(b)) if a.position == b.position && a.targets == b.targets => (a, b),
            (None, None) => break,
            _ => {
                return Err(Error::Usage(
                    "the plans have steps of different sizes: compile both with the same limits".to_owned(),
                ));
            }
        };
        for (name, value) in names.iter().zip(&mut values) {
            value.add(&left.output(name)?, &right.output(name)?);
        }
        logits.add_floats(&a.logits, &b.logits);
        sums.add(&a, &b).map_err(|error| {
            let mut found = names.iter().zip(&values).filter(|(_, value)| !value.is_finite());
            match (error, found.next()) {
                (Error::BadInput(reason), Some((name, _))) => {
                    Error::BadInput(format!("{reason}: `{name}` is the first value that is not finite"))
                }
                (error, _) => error,
            }
        })?;
    }
    let values = names.into_iter().zip(values).chain([(LOGITS.to_owned(), logits)]);
    Ok(sums.finish(values.map(|(name, sums)| sums.finish(name)).collect()))
}

/// Names of the outputs that all plans have.
pub(super) const LOGITS: &str = "logits";

/// Outputs, other than tokens and logits, of all programs of both plans.
fn common_outputs(reference: &Plan, plan: &Plan) -> Vec<String> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let programs = || reference.programs.iter().chain(&plan.programs);
    for port in programs().flat_map(|program| &program.outputs) {
        *counts.entry(&port.name).or_default() += 1;
    }
    let outputs = reference.programs.first().map_or(&[][..], |program| &program.outputs);
    let names = outputs.iter().map(|port| port.name.as_str());
    let more = names.filter(|name| ![LOGITS, "next_tokens"].contains(name) && counts[name] == programs().count());
    more.map(str::to_owned).collect()
}

/// Sums over positions.
#[derive(Default)]
struct Totals {
    reference: f64,
    plan: f64,
    kl: f64,
    same: usize,
    tokens: usize,
}

impl Totals {
    fn add(&mut self, a: &Rows, b: &Rows) -> Result<(), Error> {
        let vocab = a.logits.len() / a.targets.len();
        self.reference += a.nll()?.iter().sum::<f64>();
        self.plan += b.nll()?.iter().sum::<f64>();
        let rows = a.logits.par_chunks_exact(vocab).zip(b.logits.par_chunks_exact(vocab));
        let rows: Vec<(f64, bool)> = rows.map(|(a, b)| (divergence(a, b), best(a) == best(b))).collect();
        self.kl += rows.iter().map(|(kl, _)| kl).sum::<f64>();
        self.same += rows.iter().filter(|(_, same)| *same).count();
        self.tokens += rows.len();
        Ok(())
    }

    fn finish(self, values: Vec<ValueError>) -> Comparison {
        let tokens = self.tokens;
        let score = |sum: f64| Score::new(sum, tokens);
        let (kl, top1) = (self.kl / tokens as f64, self.same as f64 / tokens as f64);
        Comparison { reference: score(self.reference), plan: score(self.plan), kl, top1, values }
    }
}

/// `KL(a || b)` of the distributions of two rows of logits.
fn divergence(a: &[f32], b: &[f32]) -> f64 {
    let (sum_a, sum_b) = (log_sum_exp(a), log_sum_exp(b));
    let term = |(a, b): (&f32, &f32)| {
        let (a, b) = (f64::from(*a) - sum_a, f64::from(*b) - sum_b);
        // zero probability contributes nothing
        if a == f64::NEG_INFINITY { 0.0 } else { a.exp() * (a - b) }
    };
    a.iter().zip(b).map(term).sum()
}

/// The largest logit, the first of equals.
fn best(row: &[f32]) -> Option<usize> {
    (0..row.len()).rev().max_by(|a, b| row[*a].total_cmp(&row[*b]))
}

/// Sums over the elements of a value.
#[derive(Default)]
struct Sums {
    difference: f64,
    reference: f64,
    plan: f64,
    product: f64,
}

impl Sums {
    /// Values that are not floating-point have no distance.
    fn add(&mut self, a: &PortData, b: &PortData) {
        if let (PortData::F32(a), PortData::F32(b)) = (a, b) {
            self.add_floats(a, b);
        }
    }

    fn add_floats(&mut self, a: &[f32], b: &[f32]) {
        for (a, b) in a.iter().zip(b) {
            let (a, b) = (f64::from(*a), f64::from(*b));
            self.difference += (a - b) * (a - b);
            self.reference += a * a;
            self.plan += b * b;
            self.product += a * b;
        }
    }

    fn is_finite(&self) -> bool {
        self.reference.is_finite() && self.plan.is_finite()
    }

    fn finish(self, name: String) -> ValueError {
        // zeros equal zeros
        let ratio = |sum: f64, of: f64, none: f64| if of > 0.0 { sum / of } else { none };
        ValueError {
            name,
            error: ratio(self.difference, self.reference, self.difference).sqrt(),
            cosine: ratio(self.product, (self.reference * self.plan).sqrt(), 1.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_no_distance_from_itself_and_shifts_do_not_count() {
        let row = [1.0, -2.0, 0.5, f32::NEG_INFINITY];
        assert!(divergence(&row, &row.map(|logit| logit + 3.0)).abs() < 1e-12);
        // p = (1/2, 1/2), q = (1/4, 3/4)
        let expected = 0.5 * (0.5_f64 / 0.25).ln() + 0.5 * (0.5_f64 / 0.75).ln();
        assert!((divergence(&[0.0, 0.0], &[0.0, 3.0_f32.ln()]) - expected).abs() < 1e-7);
        assert_eq!(best(&[1.0, 4.0, 4.0]), Some(1));
    }

    #[test]
    fn values_have_a_relative_error_and_a_cosine() {
        let mut sums = Sums::default();
        sums.add(&PortData::F32(vec![3.0, 4.0]), &PortData::F32(vec![3.0, 3.0]));
        let found = sums.finish("x".to_owned());
        assert!((found.error - 0.2).abs() < 1e-12 && (found.cosine - 21.0 / (25.0 * 18.0_f64).sqrt()).abs() < 1e-12);
        assert_eq!(Sums::default().finish("x".to_owned()).error, 0.0);
    }
}
