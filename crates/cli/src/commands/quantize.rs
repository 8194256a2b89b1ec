//! `smelt quantize`

use std::path::PathBuf;

use clap::Args;
use smelt::plans::claims;
use smelt::{ActivationScales, CompileOptions, Driver, Error, Format, PrecisionOptions, QuantizeReport};

use super::mixed::{MixedArgs, Requested};
use crate::args::{
    CacheArgs, IgnoreArgs, PrecisionChoice, calibration_help, code_names, format_names, parse_scales, precision_help,
    scales_help,
};
use crate::choice::{Choice, WithChoice};
use crate::failure::Failure;
use crate::inputs::{open, read_map};
use crate::model::checkpoint;
use crate::output::{bytes, check_place, print, print_json, reads, reads_calibration};
use crate::progress::Stderr;
use crate::repro::with_repro;

/// Quantizes a Hugging Face checkpoint into another, in compressed-tensors format for smelt, transformers and vLLM.
#[derive(Debug, Args)]
pub struct Quantize {
    /// Checkpoint directory: config.json, safetensors, tokenizer.json.
    dir: PathBuf,
    /// Directory to write, which must not exist.
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
    #[arg(id = "precision.linears", long = "precision", value_name = "FORMAT", hide_possible_values = true, value_parser = code_names(), help = precision_help(""))]
    precision: Option<PrecisionChoice>,
    /// Format of lm_head [default: unquantized].
    #[arg(id = "precision.head", long = "lm-head-precision", value_name = "FORMAT", hide_possible_values = true, value_parser = format_names())]
    lm_head_precision: Option<Format>,
    /// File that assigns a format to each linear layer, one `layers.*.mlp.down fp8` per line; overrides --precision.
    #[arg(id = "precision.map", long = "precision-map", value_name = "FILE")]
    precision_map: Option<PathBuf>,
    #[arg(long, value_name = "WHICH", default_value = "dynamic", value_parser = parse_scales, help = scales_help())]
    activation_scales: ActivationScales,
    #[arg(id = "precision.calibration", long = "calibration", value_name = "FILE.json", help = calibration_help(""))]
    calibration: Option<PathBuf>,
    #[command(flatten)]
    ignored: IgnoreArgs,
    #[command(flatten)]
    mixed: MixedArgs,
    #[command(flatten)]
    cache: CacheArgs,
    /// Prints the report as JSON.
    #[arg(long)]
    json: bool,
}

impl Quantize {
    /// Runs it.
    pub fn run(self, driver: &Driver) -> Result<(), Failure> {
        let driver = self.cache.driver(driver);
        let dir = checkpoint(&self.dir)?;
        self.mixed.text().into_iter().for_each(|text| reads(text));
        self.calibration.iter().for_each(|file| reads_calibration(file));
        let map = self.precision_map.as_deref().map(read_map).transpose()?;
        claims::output(&self.output).map_err(|error| Error::Io { path: self.output.clone(), error })?;
        self.mixed.outputs().try_for_each(|path| check_place(path))?;
        let linears = match self.precision {
            Some(PrecisionChoice::Codes(format)) => Some(format),
            _ => None,
        };
        let precision = PrecisionOptions {
            linears,
            head: self.lm_head_precision,
            map,
            activations: self.activation_scales,
            calibration: self.calibration.clone(),
            ..PrecisionOptions::default()
        };
        let ignored_tensors = self.ignored.ignore_tensors.clone();
        let options = CompileOptions { precision, ignored_tensors, ..CompileOptions::default() };
        // before minutes are spent on a choice
        let source = open(&dir, &options, self.json)?;
        driver.check_quantize(&source, &self.output)?;
        let requested = Requested { precision: self.precision, options };
        let (options, mixed) = self.mixed.options(&driver, &source, requested, &self.cache, self.json)?;
        let mut progress = Stderr::new(self.json);
        let report = driver.quantize(&source, &self.output, &options.precision, &mut progress);
        progress.finish();
        let report = report.map_err(|error| with_repro(error, None))?;
        match self.json {
            true => print_json(&WithChoice { report: &report, mixed: mixed.as_ref().map(Choice::of) }),
            false => print(&self.table(&report)),
        }
    }

    fn table(&self, report: &QuantizeReport) -> String {
        let rows = [
            ("checkpoint", self.output.display().to_string()),
            ("format", report.format.clone()),
            ("linears", format!("{} quantized, {} kept", report.quantized, report.kept)),
            ("weights", format!("{}, from {}", bytes(report.output_bytes), bytes(report.input_bytes))),
            ("total", format!("{:.2} s", report.total_ms / 1e3)),
        ];
        rows.into_iter().map(|(name, value)| format!("{name:<10} {value}\n")).collect()
    }
}
