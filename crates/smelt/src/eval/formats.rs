//! Comparison of several formats: each is applied alone and compared with the reference.

use std::collections::BTreeSet;
use std::path::Path;

use passes::quantize::{Format, linears};
use serde::Serialize;

use super::{Passage, WindowOptions, compare};
use crate::compile::{open, resolve};
use crate::{CompileOptions, Driver, Error, Llm, LoadOptions, PrecisionMap, PrecisionOptions, Progress, precision};

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
    dir: &Path,
    text: &str,
    (options, windows): (&CompileOptions, WindowOptions),
    progress: &mut dyn Progress,
) -> Result<Vec<FormatError>, Error> {
    let options = windows.compile_options(options.clone());
    let checkpoint = open(dir, &options, progress)?;
    let settings = resolve(driver.target(&options.target, progress)?, &checkpoint, &options)?;
    let assignment = precision::assignment(&linears(&checkpoint.graph(&settings.import)?), &options.precision)?;
    let formats: BTreeSet<Format> = assignment.formats.values().copied().collect();
    if formats.len() < 2 {
        return Ok(Vec::new());
    }
    let mut load = |compile: CompileOptions| {
        let options = LoadOptions { compile, ..LoadOptions::default() };
        Llm::load_with(driver, dir, &options, progress)
    };
    let mut reference = load(options.reference())?;
    let passage = Passage::new(&reference, text)?;
    let mut found = Vec::new();
    for format in formats {
        let own = || assignment.formats.iter().filter(|(_, other)| **other == format);
        let map = Some(PrecisionMap::of(own()));
        let precision = PrecisionOptions { linears: None, head: None, kv: None, map, ..options.precision.clone() };
        let mut plan = load(CompileOptions { precision, ..options.clone() })?;
        let windows = windows.resolve(&plan, &passage)?;
        let alone = compare(&mut reference, &mut plan, &passage, windows)?;
        let (kl, top1) = (alone.kl, alone.top1);
        found.push(FormatError { format: format.to_string(), linears: own().count(), kl, top1 });
    }
    found.sort_by(|a, b| b.kl.total_cmp(&a.kl));
    Ok(found)
}
