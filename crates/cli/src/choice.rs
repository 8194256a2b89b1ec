//! The choice of mixed precision as commands report it.

use std::collections::BTreeMap;

use serde::Serialize;
use smelt::{Format, Mixed};

/// A report, and the formats that were chosen before.
#[derive(Serialize)]
pub struct WithChoice<'a, T> {
    #[serde(flatten)]
    pub report: &'a T,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mixed: Option<Choice>,
}

/// A choice in figures, for `--json`.
#[derive(Serialize)]
pub struct Choice {
    bits: f64,
    perplexity: f64,
    reference_perplexity: f64,
    /// Speed-up of decode steps.
    speedup: f64,
    /// The machine whose roofline predicts it; `None` if products were measured.
    roofline: Option<&'static str>,
    /// The format of each linear layer, `none` if it is unquantized.
    linears: BTreeMap<String, &'static str>,
}

impl Choice {
    /// What was chosen.
    pub fn of(mixed: &Mixed) -> Choice {
        let chosen = mixed.groups.iter().zip(&mixed.chosen.formats);
        let chosen = chosen.flat_map(|(group, index)| {
            let format = group.formats[*index].format;
            group.linears.iter().map(move |linear| (linear, format))
        });
        let heads = mixed.heads.iter().map(|(head, format)| (head, *format));
        let name = |format: Option<Format>| format.map_or("none", Format::name);
        let linears = chosen.chain(heads).map(|(linear, format)| (linear.name.clone(), name(format)));
        Choice {
            bits: mixed.chosen.bits,
            perplexity: mixed.score.perplexity,
            reference_perplexity: mixed.reference.perplexity,
            speedup: mixed.chosen.speedup,
            roofline: mixed.roofline.map(|machine| machine.name),
            linears: linears.collect(),
        }
    }
}
