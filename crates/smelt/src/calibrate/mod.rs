//! A checkpoint and a text to a calibration: what the activations of the model are.
//!
//! The model runs layer by layer: one layer's program and weights are on the device at a time, and what goes from one
//! layer to the next is kept in a file, so that neither the size of the model nor that of the text asks for memory. A
//! stopped run goes on where it was.

mod activations;
mod hessian;
mod place;
mod run;
mod samples;
mod segments;
mod side;
mod state;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use frontend::Checkpoint;
use passes::calibration::{Calibration, ClipMethod};
use plan::input::{self, DATA_BYTES};
use serde::Serialize;

use crate::compile::{Progress, open};
use crate::{CompileOptions, Driver, Error, RunOptions, TargetChoice, WeightsChoice};
pub use activations::ActivationFile;
use place::Place;
use run::Runner;
pub use samples::Dataset;
use samples::Samples;
use side::Side;
use state::State;

/// How a model is calibrated.
#[derive(Clone, Debug)]
pub struct CalibrateOptions {
    /// The machine that runs the model.
    pub target: TargetChoice,
    /// Where weights come from.
    pub weights: WeightsChoice,
    /// Tensors of the checkpoint that are left out, as in [`CompileOptions::ignored_tensors`].
    pub ignored_tensors: Vec<String>,
    /// Samples of the text that are run, at most.
    pub samples: usize,
    /// Tokens of a sample, at most.
    pub max_len: u32,
    /// How clips are chosen by default; the file keeps it.
    pub method: ClipMethod,
    /// Tokens whose rows are kept of every tensor.
    pub rows: usize,
    /// Whether the mean of `x x^T` is kept of what linears read.
    pub hessian: bool,
    /// How long a run goes on until it writes down how far it is; it also does so behind each layer.
    pub save_every: Duration,
    /// How the model is run.
    pub run: RunOptions,
}

impl Default for CalibrateOptions {
    fn default() -> CalibrateOptions {
        CalibrateOptions {
            target: TargetChoice::Auto,
            weights: WeightsChoice::Checkpoint,
            ignored_tensors: Vec::new(),
            samples: 512,
            max_len: 512,
            method: ClipMethod::default(),
            rows: 256,
            hessian: false,
            save_every: Duration::from_secs(20),
            run: RunOptions::default(),
        }
    }
}

/// What a calibration did.
#[derive(Clone, Debug, Serialize)]
pub struct CalibrateReport {
    /// Version of these fields.
    pub schema_version: u32,
    /// The machine that ran the model.
    pub target: String,
    /// Samples of the text.
    pub samples: u64,
    /// Tokens in them.
    pub tokens: u64,
    /// Tensors looked at.
    pub tensors: usize,
    /// Layers that an earlier, stopped run had done.
    pub resumed_layers: usize,
    /// The file with rows, and Hessians where they were asked for.
    pub activations: PathBuf,
    /// How long it took, in seconds.
    pub seconds: f64,
}

/// The file beside a calibration that holds rows and Hessians: `calibration.json` has `calibration.safetensors`.
pub fn activations_path(calibration: &Path) -> PathBuf {
    calibration.with_extension("safetensors")
}

/// Fewer tokens than this are remarked on.
const FEW_TOKENS: u64 = 1024;

impl Driver {
    /// Runs the model in `dir` over a text and writes what its activations were to `out`, and a sample of them beside
    /// it. Where a run of the same model over the same text was stopped, goes on with it.
    pub fn calibrate(
        &self,
        dir: &Path,
        dataset: &Dataset,
        out: &Path,
        options: &CalibrateOptions,
        progress: &mut dyn Progress,
    ) -> Result<CalibrateReport, Error> {
        let start = Instant::now();
        if options.samples == 0 || options.max_len == 0 || options.rows == 0 {
            return Err(Error::Usage(
                "expected at least one sample of at least one token, and one kept row".to_owned(),
            ));
        }
        let _place = Place::take(out)?;
        progress.phase("read text");
        let CalibrateOptions { weights, ignored_tensors, .. } = options.clone();
        let open_as = CompileOptions { weights, ignored_tensors, ..CompileOptions::default() };
        let checkpoint = open(dir, &open_as, progress)?;
        let samples = Samples::of(dataset, &checkpoint, options)?;
        let target = self.target(&options.target, progress)?;
        let settings = run::settings(target, &checkpoint, options.max_len)?;
        let segments = segments::segments(&checkpoint.graph(&settings.import)?)?;
        let model = checkpoint.fingerprint();
        let side = Side::layout(&model, &segments, &samples, options);
        if options.hessian {
            let gib = side.bytes() as f64 / f64::from(1 << 30);
            progress.note(&format!("{} will take {gib:.2} GiB", activations_path(out).display()));
        }
        let job = samples.job(&model, target.name(), options);
        let fresh = Calibration::new(&model, options.max_len.into(), options.method);
        let mut state = State::open(out, &job, fresh, &side, progress)?;
        if samples.tokens() < FEW_TOKENS {
            let tokens = samples.tokens();
            progress.note(&format!("{tokens} tokens say little of what activations can be: some thousands say more"));
        }
        let resumed_layers = state.segment;
        if state.segment > 0 || state.samples > 0 {
            let (layers, samples) = (state.segment, state.samples);
            progress.note(&format!("going on behind {layers} layers, and {samples} samples of the next"));
        }
        let executor = self.executor(target.name(), options.run)?;
        let runner = Runner {
            // layers are alike: their kernels are compiled once
            driver: self.with_unit_cache(&state.folder().join("units")),
            checkpoint: &checkpoint,
            settings,
            segments: &segments,
            samples: &samples,
            side: &side,
            options,
        };
        while state.segment < segments.len() {
            progress.phase(&format!("layer {} of {}", state.segment + 1, segments.len()));
            runner.run(executor.as_ref(), &mut state, progress).map_err(|error| state.explain(error))?;
        }
        checkpoint.check_unchanged().map_err(|error| state.explain(error.into()))?;
        let calibration = state.finish(samples.len() as u64, samples.tokens())?;
        Ok(CalibrateReport {
            schema_version: 1,
            target: target.name().to_owned(),
            samples: calibration.samples,
            tokens: calibration.tokens,
            tensors: calibration.tensors.len(),
            resumed_layers,
            activations: activations_path(out),
            seconds: start.elapsed().as_secs_f64(),
        })
    }
}

/// Reads a calibration.
pub fn read_calibration(path: &Path) -> Result<Calibration, Error> {
    let text = input::read_text(path, DATA_BYTES).map_err(|error| Error::Io { path: path.to_owned(), error })?;
    Calibration::parse(&text).map_err(|error| Error::BadInput(format!("{}: {error}", path.display())))
}

/// Merges calibrations of one model, and the files with their activations where all have one; returns whether they did.
pub fn merge_calibrations(files: &[PathBuf], out: &Path) -> Result<bool, Error> {
    let _place = Place::take(out)?;
    let read = files.iter().map(|path| read_calibration(path)).collect::<Result<Vec<_>, Error>>()?;
    check_distinct(files, &read)?;
    let weights: Vec<u64> = read.iter().map(|calibration| calibration.tokens).collect();
    let mut read = read.into_iter();
    let Some(mut merged) = read.next() else {
        return Err(Error::Usage("expected calibrations to merge".to_owned()));
    };
    for (path, other) in files.iter().skip(1).zip(read) {
        merged.merge(&other).map_err(|error| Error::BadInput(format!("{}: {error}", path.display())))?;
    }
    let sides: Vec<PathBuf> = files.iter().map(|path| activations_path(path)).collect();
    let complete = sides.iter().all(|path| path.is_file());
    if complete {
        side::merge(&sides, &weights, &activations_path(out))?;
    }
    state::write_whole(out, merged.print().as_bytes())?;
    Ok(complete)
}

/// Refuses files that saw the same, which would count twice. How clips are chosen is no difference.
fn check_distinct(files: &[PathBuf], read: &[Calibration]) -> Result<(), Error> {
    let same = |a: &Calibration, b: &Calibration| Calibration { method: b.method, ..a.clone() } == *b;
    for (index, (path, calibration)) in files.iter().zip(read).enumerate() {
        if let Some(first) = read[..index].iter().position(|other| same(other, calibration)) {
            let (first, second) = (files[first].display(), path.display());
            return Err(Error::Usage(format!(
                "{first} and {second} have seen the same samples, which would count twice: expected calibrations of \
                 different texts"
            )));
        }
    }
    Ok(())
}

/// Refuses a calibration of another model than a checkpoint.
pub fn check_calibration(calibration: &Calibration, checkpoint: &Checkpoint) -> Result<(), Error> {
    calibration.check_model(&checkpoint.fingerprint()).map_err(|error| Error::BadInput(error.to_string()))
}
