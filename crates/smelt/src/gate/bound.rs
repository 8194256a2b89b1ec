//! The bounds of a gate, as text: `perplexity<+1%,kl<0.02,top1>98%`.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

use crate::eval::Comparison;

/// Bounds that must all hold.
#[derive(Clone, Debug, PartialEq)]
pub struct Gate {
    bounds: Vec<Bound>,
}

/// A bound on a measured value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bound {
    /// `perplexity<N`
    Perplexity(f64),
    /// `perplexity<+N%`: relative to the reference.
    PerplexityIncrease(f64),
    /// `kl<N`: mean `KL(reference || plan)` in nats.
    Kl(f64),
    /// `top1>N%`: top-1 agreement with the reference.
    Top1(f64),
}

/// A bound, and the measured value.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Measured {
    /// The bound as given.
    pub bound: String,
    /// What was measured.
    pub measured: f64,
    /// What is allowed, in the same unit.
    pub allowed: f64,
    /// Whether the plan satisfies it.
    pub holds: bool,
}

const EXPECTED: &str = "expected perplexity<+N%, perplexity<N, kl<N or top1>N%, comma-separated";

impl FromStr for Gate {
    type Err = String;

    fn from_str(text: &str) -> Result<Gate, String> {
        let bounds = text.split(',').map(|part| part.trim().parse()).collect::<Result<_, _>>()?;
        Ok(Gate { bounds })
    }
}

impl FromStr for Bound {
    type Err = String;

    fn from_str(text: &str) -> Result<Bound, String> {
        let unknown = || format!("`{text}` is not a bound, {EXPECTED}");
        let at = text.find(['<', '>']).ok_or_else(unknown)?;
        let (figure, sign, value) = (text[..at].trim_end(), &text[at..at + 1], text[at + 1..].trim_start());
        let (value, percent) = match value.strip_suffix('%') {
            Some(value) => (value.trim_end(), true),
            None => (value, false),
        };
        let (value, increase) = match value.strip_prefix('+') {
            Some(value) => (value, true),
            None => (value, false),
        };
        let digits = value.starts_with(|c: char| c.is_ascii_digit() || c == '.');
        let value = value.parse::<f64>().ok().filter(|value| digits && value.is_finite()).ok_or_else(unknown)?;
        // a bound that no plan can satisfy is refused
        match (figure, sign, increase, percent) {
            ("perplexity", "<", true, true) => Ok(Bound::PerplexityIncrease(value / 100.0)),
            ("perplexity", "<", false, false) if value > 1.0 => Ok(Bound::Perplexity(value)),
            ("kl", "<", false, false) if value > 0.0 => Ok(Bound::Kl(value)),
            ("top1", ">", false, true) if value < 100.0 => Ok(Bound::Top1(value / 100.0)),
            _ => Err(unknown()),
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Bound::Perplexity(most) => write!(f, "perplexity<{most}"),
            Bound::PerplexityIncrease(share) => write!(f, "perplexity<+{}%", percent(*share)),
            Bound::Kl(most) => write!(f, "kl<{most}"),
            Bound::Top1(share) => write!(f, "top1>{}%", percent(*share)),
        }
    }
}

/// A percentage as it was written: without the rounding error of binary fractions.
fn percent(share: f64) -> f64 {
    (share * 1e11).round() / 1e9
}

impl Gate {
    /// The bounds, in the given order.
    pub fn bounds(&self) -> &[Bound] {
        &self.bounds
    }

    /// Compares them with measured values. NaN satisfies no bound.
    pub(super) fn measure(&self, found: &Comparison) -> Vec<Measured> {
        let measured = |bound: &Bound| {
            let (measured, allowed, above) = match *bound {
                Bound::Perplexity(most) => (found.plan.perplexity, most, false),
                Bound::PerplexityIncrease(share) => {
                    (found.plan.perplexity, found.reference.perplexity * (1.0 + share), false)
                }
                Bound::Kl(most) => (found.kl, most, false),
                Bound::Top1(share) => (found.top1, share, true),
            };
            let holds = if above { measured > allowed } else { measured < allowed };
            Measured { bound: bound.to_string(), measured, allowed, holds }
        };
        self.bounds.iter().map(measured).collect()
    }
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let holds = if self.holds { "holds" } else { "fails" };
        let [measured, allowed] = [self.measured, self.allowed].map(figure);
        write!(f, "{:<18} {holds}: measured {measured}, allowed {allowed}", self.bound)
    }
}

/// A figure with enough digits to tell it from its neighbours.
fn figure(value: f64) -> String {
    if value != 0.0 && value.abs() < 1e-3 { format!("{value:.3e}") } else { format!("{value:.5}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::Score;

    #[test]
    fn bounds_are_read_and_printed() {
        let gate: Gate = "perplexity<+1%, kl < 0.02,top1>98.5%,perplexity<7.7".parse().unwrap();
        let expected = [Bound::PerplexityIncrease(0.01), Bound::Kl(0.02), Bound::Top1(0.985), Bound::Perplexity(7.7)];
        assert_eq!(gate.bounds(), expected);
        let printed: Vec<String> = gate.bounds().iter().map(Bound::to_string).collect();
        assert_eq!(printed, ["perplexity<+1%", "kl<0.02", "top1>98.5%", "perplexity<7.7"]);
        for wrong in [
            "",
            "kl",
            "kl<",
            "kl<x",
            "kl<-1",
            "kl<nan",
            "kl<inf",
            "kl>1",
            "kl<1%",
            "kl<0",
            "perplexity<1",
            "top1>100%",
            "kl<+1",
            "top1>1",
            "top1>101%",
            "top1<1%",
            "perplexity<1%",
            "perplexity<+1",
            "loss<1",
            "kl<1,,kl<2",
        ] {
            let error = wrong.parse::<Gate>().unwrap_err();
            assert!(error.contains("expected perplexity<+N%"), "{wrong}: {error}");
        }
    }

    #[test]
    fn a_bound_is_not_reached_by_what_is_equal_or_no_number() {
        let score = |perplexity: f64| Score { perplexity, nll: perplexity.ln(), tokens: 9 };
        let found = |plan, kl| Comparison { reference: score(8.0), plan: score(plan), kl, top1: 0.5, values: vec![] };
        let holds = |text: &str, found: &Comparison| text.parse::<Gate>().unwrap().measure(found)[0].holds;
        assert!(holds("perplexity<+25%", &found(9.9, 0.0)) && !holds("perplexity<+25%", &found(10.0, 0.0)));
        assert!(holds("top1>49%", &found(8.0, 0.0)) && !holds("top1>50%", &found(8.0, 0.0)));
        assert!(!holds("kl<1", &found(8.0, f64::NAN)) && holds("kl<1", &found(8.0, -1e-18)));
    }
}
