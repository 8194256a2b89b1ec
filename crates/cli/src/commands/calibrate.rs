//! `smelt calibrate`

use std::path::{Path, PathBuf};

use clap::{ArgGroup, Args};
use smelt::plans::input::{self, DATA_BYTES};
use smelt::{
    CalibrateOptions, ClipMethod, Dataset, Driver, Error, RunOptions, TargetChoice, WeightsChoice, activations_path,
    merge_calibrations,
};

use super::generate::plan_in;
use crate::args::{CacheArgs, IgnoreArgs, Weights, parse_count, parse_threads};
use crate::failure::Failure;
use crate::output::{bytes, check_place, print, print_json, reads, reads_calibration};
use crate::progress::Stderr;

/// Looks at a model's activations on a text: statistics from which scales of quantized formats come.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("source").args(["text", "dataset", "merge"]).required(true))]
pub struct Calibrate {
    /// The folder of a checkpoint.
    #[arg(value_name = "DIR", required_unless_present = "merge", conflicts_with = "merge")]
    model: Option<PathBuf>,
    /// A text, cut into samples of full length.
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,
    /// Samples as lines of JSON, {"text": "…"} or {"prompt": "…"}.
    #[arg(long, value_name = "FILE.jsonl")]
    dataset: Option<PathBuf>,
    /// Merges calibrations of one model instead of making one, and the files with activations beside them.
    #[arg(long, value_name = "CALIBRATION.json", num_args = 2..)]
    merge: Vec<PathBuf>,
    /// Where the calibration is written. A sample of the activations goes to the .safetensors file beside it.
    #[arg(short, long, value_name = "OUT.json")]
    output: PathBuf,
    /// Samples, at most.
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = parse_count::<usize>)]
    samples: usize,
    /// Tokens of a sample, at most.
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = parse_count::<u32>)]
    max_len: u32,
    /// Machine that runs the model: auto, cpu or sm_90a.
    #[arg(long, value_name = "TARGET", default_value = "auto")]
    target: String,
    /// How clips are chosen by default: minmax, percentile, percentile:99.9, entropy or mse. What the file holds serves
    /// every method.
    #[arg(long, value_name = "METHOD", default_value = "percentile")]
    method: ClipMethod,
    /// Tokens whose activations are kept.
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = parse_count::<usize>)]
    rows: usize,
    /// Keeps the mean of x x^T of what linears read, for GPTQ: channels x channels numbers for each.
    #[arg(long)]
    hessian: bool,
    /// Where weights come from. With dummy, they are seeded random values: to see time and memory of a shape.
    #[arg(long, value_enum, default_value = "checkpoint")]
    weights: Weights,
    #[command(flatten)]
    ignored: IgnoreArgs,
    /// Threads on a CPU [default: all].
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
        let model = plan_in(model);
        let dataset = self.dataset()?;
        self.check_places()?;
        let options = CalibrateOptions {
            target: match self.target.as_str() {
                "auto" => TargetChoice::Auto,
                name => TargetChoice::Named(name.to_owned()),
            },
            weights: match self.weights {
                Weights::Checkpoint => WeightsChoice::Checkpoint,
                Weights::Dummy => WeightsChoice::Dummy,
            },
            ignored_tensors: self.ignored.ignore_tensors.clone(),
            samples: self.samples,
            max_len: self.max_len,
            method: self.method,
            rows: self.rows,
            hessian: self.hessian,
            run: RunOptions { threads: self.threads, ..RunOptions::default() },
            ..CalibrateOptions::default()
        };
        let mut progress = Stderr::new(self.json);
        let driver = self.cache.driver(driver);
        let report = driver.calibrate(&model, &dataset, &self.output, &options, &mut progress);
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

    /// The calibration and the file beside it.
    fn check_places(&self) -> Result<(), Failure> {
        let beside = activations_path(&self.output);
        check_place(&self.output)?;
        // a name that ends like the other's is refused where the place is taken
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
