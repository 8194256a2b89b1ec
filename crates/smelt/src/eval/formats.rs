//! Comparison of several formats: each is applied alone and compared with the reference.

use passes::quantize::Format;
use serde::Serialize;
use std::collections::BTreeSet;

use super::{EvalRequest, Passage, compare};
use crate::{
    Compilation, CompileOptions, Driver, Error, Llm, LoadOptions, PrecisionMap, PrecisionOptions, Progress, Quiet,
    Source,
};

/// The loss of a format if nothing else is quantized.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FormatError {
    /// The format.
    pub format: String,
    /// Number of linear layers that have it.
    pub linears: usize,
    /// Mean `KL(reference || plan)` over all positions, in nats.
    pub kl: f64,
    /// Top-1 agreement with the reference.
    pub top1: f64,
}

/// Compares a checkpoint with its reference once per format in the options, the worst first; empty if there is only
/// one.
pub fn compare_formats(
    driver: &Driver,
    source: &Source,
    request: &EvalRequest<'_>,
    progress: &mut dyn Progress,
) -> Result<Vec<FormatError>, Error> {
    let options = request.compile_options();
    // silently: each plan's compilation reports the same
    let mut quiet = Quiet;
    let assignment = Compilation::new(driver, source, &options, &mut quiet)?.import()?.formats()?.assignment;
    let formats: BTreeSet<Format> = assignment.formats.values().copied().collect();
    if formats.len() < 2 {
        return Ok(Vec::new());
    }
    let mut load = |compile| Llm::compile(driver, source, &LoadOptions { compile, ..LoadOptions::default() }, progress);
    let mut reference = load(options.reference())?;
    let passage = Passage::new(&reference, request.text)?;
    let mut found = Vec::new();
    for format in formats {
        let own = || assignment.formats.iter().filter(|(_, other)| **other == format);
        let map = Some(PrecisionMap::of(own()));
        let precision = PrecisionOptions { linears: None, head: None, kv: None, map, ..options.precision.clone() };
        let mut plan = load(CompileOptions { precision, ..options.clone() })?;
        let windows = request.windows.resolve(&plan, &passage)?;
        let alone = compare(&mut reference, &mut plan, &passage, windows)?;
        let (kl, top1) = (alone.kl, alone.top1);
        found.push(FormatError { format: format.to_string(), linears: own().count(), kl, top1 });
    }
    found.sort_by(|a, b| b.kl.total_cmp(&a.kl));
    Ok(found)
}
