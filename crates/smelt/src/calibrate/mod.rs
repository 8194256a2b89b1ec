//! Calibration: activation statistics of a checkpoint on a text.
//!
//! The model runs layer by layer: one layer's program and weights are on the device at a time, and the activations
//! between layers are kept in a file, so that memory depends neither on the size of the model nor on that of the text.
//! A stopped run can be resumed.

mod activation_file;
mod activation_writer;
mod file;
mod format;
mod hessian;
mod layer_runner;
mod merge;
mod output_lock;
mod resume;
mod samples;
mod segments;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use passes::calibration::{Calibration, ClipMethod};
use serde::Serialize;

use crate::{Compilation, Driver, Error, Progress, Quiet, RunOptions, Source, TargetChoice};
pub use activation_file::ActivationFile;
use activation_writer::ActivationWriter;
pub use file::{activations_path, check_calibration, read_calibration};
use layer_runner::LayerRunner;
pub use merge::merge_calibrations;
use output_lock::OutputLock;
use resume::State;
pub use samples::Dataset;
use samples::Samples;

/// Options of a calibration.
#[derive(Clone, Debug)]
pub struct CalibrateOptions {
    /// The machine that runs the model.
    pub target: TargetChoice,
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

/// A path with a suffix added to its name.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// A note is printed for fewer tokens than this.
const FEW_TOKENS: u64 = 1024;

impl Driver {
    /// Runs a model over a text and writes its activation statistics to `out`, and sampled activations to
    /// the file next to it. Resumes a stopped run of the same model over the same text.
    pub fn calibrate(
        &self,
        source: &Source,
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
        let _lock = OutputLock::take(out)?;
        progress.phase("reading text");
        let samples = Samples::of(dataset, &source.checkpoint, options)?;
        let target = self.target(&options.target, progress)?.target;
        let compile = layer_runner::compile_options(target, options.max_len);
        source.warn(&compile, progress);
        let mut quiet = Quiet;
        let imported = Compilation::new(self, source, &compile, &mut quiet)?.import_unsampled()?;
        let segments = segments::segments(imported.graph())?;
        let model = source.checkpoint.fingerprint();
        let writer = ActivationWriter::of_run(&model, &segments, &samples, options);
        if options.hessian {
            let gib = writer.bytes() as f64 / f64::from(1 << 30);
            progress.note(&format!("{} will take {gib:.2} GiB", activations_path(out).display()));
        }
        let job = samples.job(&model, target.name(), options);
        let fresh = Calibration::new(&model, options.max_len.into(), options.method);
        let mut state = State::open(out, &job, fresh, &writer, progress)?;
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
        let runner = LayerRunner {
            // layers are alike: their kernels are compiled once
            driver: self.with_unit_cache(&state.folder().join("units")),
            source,
            compile,
            segments: &segments,
            samples: &samples,
            writer: &writer,
            options,
        };
        while state.segment < segments.len() {
            progress.phase(&format!("layer {} of {}", state.segment + 1, segments.len()));
            runner.run(executor.as_ref(), &mut state, progress).map_err(|error| state.explain(error))?;
        }
        source.checkpoint.check_unchanged().map_err(|error| state.explain(error.into()))?;
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
