//! `smelt calibrate`

use std::path::{Path, PathBuf};

use clap::{ArgGroup, Args};
use smelt::plans::input::{self, DATA_BYTES};
use smelt::{
    CalibrateOptions, ClipMethod, CompileOptions, Dataset, Driver, Error, RunOptions, WeightsChoice, activations_path,
    merge_calibrations,
};

use crate::args::{CacheArgs, IgnoreArgs, parse_count, parse_target, parse_threads, weights_choices};
use crate::failure::Failure;
use crate::inputs::open;
use crate::model::plan_or_checkpoint;
use crate::output::{bytes, check_place, print, print_json, reads, reads_calibration};
use crate::progress::Stderr;

/// Collects activation statistics on a text, from which quantization scales are chosen.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("source").args(["text", "dataset", "merge"]).required(true))]
pub struct Calibrate {
    /// Checkpoint directory.
    #[arg(value_name = "DIR", required_unless_present = "merge", conflicts_with = "merge")]
    model: Option<PathBuf>,
    /// Text file, cut into samples of full length.
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,
    /// JSON Lines file of samples, {"text": "…"} or {"prompt": "…"}.
    #[arg(long, value_name = "FILE.jsonl")]
    dataset: Option<PathBuf>,
    /// Merges calibrations of one model instead of making one, and the activations files next to them.
    #[arg(long, value_name = "CALIBRATION.json", num_args = 2..)]
    merge: Vec<PathBuf>,
    /// File to write the calibration to. Sampled activations go to the .safetensors file next to it.
    #[arg(short, long, value_name = "OUT.json")]
    output: PathBuf,
    /// Maximum number of samples.
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = parse_count::<usize>)]
    samples: usize,
    /// Maximum sample length in tokens.
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = parse_count::<u32>)]
    max_len: u32,
    /// Machine to run the model on: auto, cpu or sm_90a.
    #[arg(long, value_name = "TARGET", default_value = "auto")]
    target: String,
    /// Default clipping method: minmax, percentile, percentile:99.9, entropy or mse. The file holds what every method
    /// needs.
    #[arg(long, value_name = "METHOD", default_value = "percentile")]
    method: ClipMethod,
    /// Number of tokens whose activations are kept.
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = parse_count::<usize>)]
    rows: usize,
    /// Keeps the mean of x x^T of the linear layers' inputs, for GPTQ: channels x channels values per tensor.
    #[arg(long)]
    hessian: bool,
    /// Source of the weights. With dummy, they are seeded random values: for time and memory of a shape.
    #[arg(long, default_value = "checkpoint", value_parser = weights_choices())]
    weights: WeightsChoice,
    #[command(flatten)]
    ignored: IgnoreArgs,
    /// Number of CPU threads [default: all].
    #[arg(long, value_name = "N", value_parser = parse_threads)]
    threads: Option<usize>,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    cache: CacheArgs,
}

impl Calibrate {
    pub fn run(self, driver: &Driver) -> Result<(), Failure> {
        let Some(model) = &self.model else { return self.merge() };
        let model = plan_or_checkpoint(model)?;
        let dataset = self.dataset()?;
        self.check_places()?;
        let options = CalibrateOptions {
            target: parse_target(&self.target)?,
            samples: self.samples,
            max_len: self.max_len,
            method: self.method,
            rows: self.rows,
            hessian: self.hessian,
            run: RunOptions { threads: self.threads, ..RunOptions::default() },
            ..CalibrateOptions::default()
        };
        let (weights, ignored_tensors) = (self.weights, self.ignored.ignore_tensors.clone());
        let source =
            open(&model, &CompileOptions { weights, ignored_tensors, ..CompileOptions::default() }, self.json)?;
        let mut progress = Stderr::new(self.json);
        let driver = self.cache.driver(driver);
        let report = driver.calibrate(&source, &dataset, &self.output, &options, &mut progress);
        progress.finish();
        let report = report?;
        if self.json {
            return print_json(&report);
        }
        let sizes = [&self.output, &report.activations].map(|path| (path.display(), size(path)));
        let [(calibration, small), (activations, large)] = &sizes;
        print(&format!(
            "{calibration} ({}): {} tensors over {} samples, {} tokens, on {} in {:.1} s\n{activations} ({})\n",
            bytes(*small),
            report.tensors,
            report.samples,
            report.tokens,
            report.target,
            report.seconds,
            bytes(*large),
        ))
    }

    /// The calibration and the activations file.
    fn check_places(&self) -> Result<(), Failure> {
        let beside = activations_path(&self.output);
        check_place(&self.output)?;
        // equal suffixes are refused where the output is claimed
        if beside != self.output { check_place(&beside) } else { Ok(()) }
    }

    fn merge(&self) -> Result<(), Failure> {
        self.merge.iter().for_each(|file| reads_calibration(file));
        self.check_places()?;
        let with_activations = merge_calibrations(&self.merge, &self.output)?;
        let out = self.output.display();
        print(&match with_activations {
            true => format!("{out}\n{}\n", activations_path(&self.output).display()),
            false => format!("{out} (without activations: not all have a .safetensors file)\n"),
        })
    }

    fn dataset(&self) -> Result<Dataset, Failure> {
        let (path, lines) = match (&self.text, &self.dataset) {
            (Some(path), _) => (path, false),
            (None, Some(path)) => (path, true),
            (None, None) => return Err(Failure::usage("expected --text FILE or --dataset FILE.jsonl")),
        };
        reads(path);
        let text = input::read_text_or_pipe(path, DATA_BYTES);
        let text = text.map_err(|error| Error::Io { path: path.clone(), error })?;
        Ok(Dataset { path: path.clone(), text, lines })
    }
}

fn size(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |metadata| metadata.len())
}
