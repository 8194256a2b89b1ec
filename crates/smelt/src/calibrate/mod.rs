//! Calibration: activation statistics of a checkpoint on a text.
//!
//! The model runs layer by layer: one layer's program and weights are on the device at a time, and the activations
//! between layers are kept in a file, so that memory depends neither on the size of the model nor on that of the text.
//! A stopped run can be resumed.

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

/// Options of a calibration.
#[derive(Clone, Debug)]
pub struct CalibrateOptions {
    /// The machine that runs the model.
    pub target: TargetChoice,
    /// Source of the weights.
    pub weights: WeightsChoice,
    /// Tensors of the checkpoint that are ignored, as in [`CompileOptions::ignored_tensors`].
    pub ignored_tensors: Vec<String>,
    /// Maximum number of samples.
    pub samples: usize,
    /// Maximum sample length in tokens.
    pub max_len: u32,
    /// Default clipping method; the file keeps it.
    pub method: ClipMethod,
    /// Number of tokens whose rows are kept of every tensor.
    pub rows: usize,
    /// Whether the mean of `x x^T` is kept of the inputs of linear layers.
    pub hessian: bool,
    /// Interval at which a run saves its progress; it also does so after each layer.
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

/// Report of a calibration.
#[derive(Clone, Debug, Serialize)]
pub struct CalibrateReport {
    /// Version of these fields.
    pub schema_version: u32,
    /// The machine that ran the model.
    pub target: String,
    /// Number of samples.
    pub samples: u64,
    /// Number of their tokens.
    pub tokens: u64,
    /// Number of observed tensors.
    pub tensors: usize,
    /// Layers that an earlier, stopped run had finished.
    pub resumed_layers: usize,
    /// The file with rows, and Hessians if requested.
    pub activations: PathBuf,
    /// Duration in seconds.
    pub seconds: f64,
}

/// The activations file of a calibration, with rows and Hessians: `calibration.safetensors` for `calibration.json`.
pub fn activations_path(calibration: &Path) -> PathBuf {
    calibration.with_extension("safetensors")
}

/// A note is printed for fewer tokens than this.
const FEW_TOKENS: u64 = 1024;

impl Driver {
    /// Runs the model in `dir` over a text and writes its activation statistics to `out`, and sampled activations to
    /// the file next to it. Resumes a stopped run of the same model over the same text.
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
        progress.phase("reading text");
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
            progress.note(&format!("{tokens} tokens are few for reliable statistics: expected some thousands"));
        }
        let resumed_layers = state.segment;
        if state.segment > 0 || state.samples > 0 {
            let (layers, samples) = (state.segment, state.samples);
            progress.note(&format!("resuming after {layers} layers, and {samples} samples of the next"));
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

/// Merges calibrations of one model, and their activations files if all have one; returns whether they did.
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

/// Refuses files over the same samples, which would count twice. The clipping method may differ.
fn check_distinct(files: &[PathBuf], read: &[Calibration]) -> Result<(), Error> {
    let same = |a: &Calibration, b: &Calibration| Calibration { method: b.method, ..a.clone() } == *b;
    for (index, (path, calibration)) in files.iter().zip(read).enumerate() {
        if let Some(first) = read[..index].iter().position(|other| same(other, calibration)) {
            let (first, second) = (files[first].display(), path.display());
            return Err(Error::Usage(format!(
                "{first} and {second} are of the same samples, which would count twice: expected calibrations of \
                 different texts"
            )));
        }
    }
    Ok(())
}

/// Refuses a calibration of a different model than a checkpoint's.
pub fn check_calibration(calibration: &Calibration, checkpoint: &Checkpoint) -> Result<(), Error> {
    calibration.check_model(&checkpoint.fingerprint()).map_err(|error| Error::BadInput(error.to_string()))
}
