//! The timing cache of a compilation: which timings are used, and measuring missing ones.

use std::path::Path;

use codegen::{Selected, Target, Timings};
use plan::Input;
use plan::input::Stamp;

use super::cache::TimingCache;
use crate::source::file_input;
use crate::{Driver, Error, Progress, RunOptions, TimingMode, TimingOptions};

/// Timings that are used, and the file that they came from.
pub(crate) struct Decided {
    pub timings: Timings,
    pub input: Input,
    /// The file's stamp, if it is only read.
    pub stamp: Option<Stamp>,
    /// Ops left to heuristics.
    pub warning: Option<String>,
}

impl Driver {
    /// The timings that a compilation uses.
    pub(crate) fn timings(
        &self,
        options: &TimingOptions,
        target: Target,
        selected: &Selected,
        progress: &mut dyn Progress,
    ) -> Result<Decided, Error> {
        let TimingOptions { file, mode, device } = options;
        let mode = mode.unwrap_or(if file.exists() { TimingMode::Read } else { TimingMode::Write });
        let stamp = if mode == TimingMode::Write { None } else { Stamp::of(file).ok() };
        let mut cache = match file.exists() || mode != TimingMode::Write {
            true => TimingCache::read(file)?,
            false => TimingCache::default(),
        };
        let device = match mode {
            TimingMode::Write if device.is_some() => {
                let reason = "--timing-device is for reading: only this machine's device can be measured";
                return Err(Error::Usage(reason.to_owned()));
            }
            TimingMode::Write => self.measure(file, &mut cache, target, selected, progress)?,
            TimingMode::Read | TimingMode::Require => device_to_read(&cache, options, target)?,
        };
        let timings = cache.of(target.name(), &device).clone();
        let missing = selected.untimed(&timings);
        let advice = "--timing-cache-mode write measures them";
        if mode == TimingMode::Require && !missing.is_empty() {
            let ops: String = missing.iter().map(|untimed| format!("\n  {}", untimed.op())).collect();
            let file = file.display();
            return Err(Error::BadInput(format!("{file} has no timings of these ops ({advice}):{ops}")));
        }
        let warning = (!missing.is_empty()).then(|| {
            format!("{} has no timings of {} ops, heuristics are used ({advice})", file.display(), missing.len())
        });
        // of the canonical text, independent of whitespace
        let input = file_input(file, cache.print().as_bytes());
        Ok(Decided { timings, input, stamp, warning })
    }

    /// Measures missing timings on this machine's device, and returns its name. The file is written after each op, so
    /// that little is lost on an interruption.
    fn measure(
        &self,
        file: &Path,
        cache: &mut TimingCache,
        target: Target,
        selected: &Selected,
        progress: &mut dyn Progress,
    ) -> Result<String, Error> {
        let executor = self.executor(target.name(), RunOptions::default())?;
        let device = executor.device();
        let missing = selected.untimed(cache.of(target.name(), &device));
        if missing.is_empty() {
            return Ok(device);
        }
        let compiler = target.is_gpu().then(|| self.compiler()).transpose()?;
        for (index, untimed) in (1..).zip(&missing) {
            progress.phase(&format!("timing kernels, op {index} of {}", missing.len()));
            let outcomes = untimed.measure(selected.catalog(), executor.as_ref(), compiler.as_ref())?;
            cache.of(target.name(), &device).record(untimed.op(), outcomes);
            cache.write(file)?;
        }
        Ok(device)
    }
}

/// The entries of a timing cache: of this machine's device if it is to be measured, or else of the device that a
/// compilation reads.
pub(crate) fn known(options: Option<&TimingOptions>, target: Target, here: &str) -> Result<Timings, Error> {
    let Some(options) = options.filter(|options| options.file.exists()) else { return Ok(Timings::default()) };
    let mut cache = TimingCache::read(&options.file)?;
    let device = match options.mode {
        Some(TimingMode::Write) => here.to_owned(),
        _ => device_to_read(&cache, options, target)?,
    };
    Ok(cache.of(target.name(), &device).clone())
}

/// The device that was named, or the only one. This machine's device is irrelevant: the same files give the same plan
/// everywhere.
fn device_to_read(cache: &TimingCache, options: &TimingOptions, target: Target) -> Result<String, Error> {
    let (file, devices) = (options.file.display(), cache.devices(target.name()));
    match (&options.device, &devices[..]) {
        (Some(wanted), _) if devices.contains(&wanted.as_str()) => Ok(wanted.clone()),
        (Some(wanted), _) => Err(Error::Usage(format!(
            "{file} has no timings of device `{wanted}` for {target}, found: {}",
            list(&devices)
        ))),
        (None, []) => Ok(String::new()),
        (None, [only]) => Ok((*only).to_owned()),
        (None, _) => Err(Error::Usage(format!(
            "{file} has timings of several devices for {target}, name one with --timing-device: {}",
            list(&devices)
        ))),
    }
}

fn list(devices: &[&str]) -> String {
    let quoted: Vec<String> = devices.iter().map(|name| format!("`{name}`")).collect();
    if quoted.is_empty() { "none".to_owned() } else { quoted.join(", ") }
}
