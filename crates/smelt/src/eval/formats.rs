//! Which of several number formats makes a plan foretell a text otherwise than its reference: each is compared alone.

use std::collections::BTreeSet;
use std::path::Path;

use passes::quantize::{Format, linears};
use serde::Serialize;

use super::{Passage, WindowOptions, compare};
use crate::compile::{open, resolve};
use crate::{CompileOptions, Driver, Error, Llm, LoadOptions, PrecisionMap, PrecisionOptions, Progress, precision};

/// What a format costs where nothing else is in codes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FormatError {
    /// The format.
    pub format: String,
    /// Linears that have it.
    pub linears: usize,
    /// `KL(reference || plan)` in nats, the mean over all positions.
    pub kl: f64,
    /// Share of positions at which both find the same token most likely.
    pub top1: f64,
}

/// Compares a checkpoint with its reference once for each format that the options give to linears, the worst first;
/// nothing where there are not several.
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
