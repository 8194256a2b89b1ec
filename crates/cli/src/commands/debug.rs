//! `smelt debug`

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde::Serialize;
use smelt::Driver;
use smelt::eval::{Comparison, EvalRequest, FormatError, LayerError, compare_formats, compare_layers};

use crate::args::{CacheArgs, CompileArgs, WindowArgs, parse_positive};
use crate::failure::Failure;
use crate::inputs::{open, read_text};
use crate::model::plan_or_checkpoint;
use crate::output::{print, print_json};
use crate::progress::Stderr;
use crate::repro::with_repro;

/// Finds why a plan computes wrong results.
#[derive(Debug, Subcommand)]
pub enum Debug {
    Precision(Precision),
}

impl Debug {
    pub fn run(self, driver: &Driver) -> Result<(), Failure> {
        match self {
            Debug::Precision(command) => command.run(driver),
        }
    }
}

/// Shows how far each layer deviates from the checkpoint's own precision.
///
/// Compiles the checkpoint twice, with the options and at its own precision, runs a text through both and compares the
/// residual stream after each half of a layer. If linear layers have several formats, each format is also compared
/// alone.
#[derive(Debug, Args)]
pub struct Precision {
    /// Checkpoint directory.
    dir: PathBuf,
    /// Text file, UTF-8; a few thousand words are enough.
    #[arg(long, value_name = "FILE")]
    text: PathBuf,
    /// Growth of the relative error, in percent, above which a layer is reported.
    #[arg(long, value_name = "PERCENT", default_value_t = 1.0, value_parser = parse_positive)]
    bound: f64,
    #[command(flatten)]
    windows: WindowArgs,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    cache: CacheArgs,
    #[command(flatten)]
    compile: CompileArgs,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report {
    schema_version: u32,
    kl: f64,
    top1: f64,
    layers: Vec<LayerError>,
    /// The first layer whose growth is above the bound.
    first_above: Option<String>,
    /// Each format alone, if there are several: the worst first.
    formats: Vec<FormatError>,
}

impl Precision {
    fn run(self, driver: &Driver) -> Result<(), Failure> {
        let dir = plan_or_checkpoint(&self.dir)?;
        let text = read_text("--text", &self.text)?;
        let (driver, options) = (self.cache.driver(driver), self.compile.options()?);
        if dir.is_file() {
            let reason = "expected a checkpoint directory: the plan and its reference are compiled from it";
            return Err(Failure::usage(format!("{}: {reason}", dir.display())));
        }
        let source = open(&dir, &options, self.json)?;
        let mut progress = Stderr::new(self.json);
        let request = EvalRequest { text: &text, options: &options, windows: self.windows.into() };
        let found = compare_layers(&driver, &source, &request, &mut progress).and_then(|found| {
            let formats = compare_formats(&driver, &source, &request, &mut progress)?;
            Ok((found, formats))
        });
        progress.finish();
        let (found, formats) = found.map_err(|error| with_repro(error, None))?;
        let layers = found.layers();
        let first_above = layers.iter().find(|layer| layer.growth * 100.0 > self.bound);
        let first_above = first_above.map(|layer| layer.layer.clone());
        if self.json {
            return print_json(&Report {
                schema_version: 1,
                kl: found.kl,
                top1: found.top1,
                layers,
                first_above,
                formats,
            });
        }
        let verdict = match first_above {
            Some(layer) => format!("first above {} %: {layer}", self.bound),
            None => format!("no layer adds more than {} %", self.bound),
        };
        let alone = |format: &FormatError| {
            let FormatError { format, linears, kl, top1 } = format;
            format!(
                "{format} alone, in {linears} linear layers: kl {kl:.6} nats, top-1 agreement {:.2} %\n",
                top1 * 100.0
            )
        };
        let formats: String = formats.iter().map(alone).collect();
        print(&format!("{}{formats}{verdict}\n", table(&found)))
    }
}

fn table(found: &Comparison) -> String {
    // of the sums that layers add to
    let what = "The residual stream after each layer, beside that of the unquantized model: its relative error, by how \
                much the layer\nadds to it, and the cosine of the angle between the two.\n";
    let head = format!("{what}{:<18} {:>10} {:>10} {:>12}\n", "after", "error %", "growth %", "cosine");
    let row = |layer: &LayerError| {
        let (error, growth) = (layer.error * 100.0, layer.growth * 100.0);
        format!("{:<18} {error:>10.4} {growth:>10.4} {:>12.8}\n", layer.layer, layer.cosine)
    };
    let rows = found.layers().iter().map(row).collect::<String>();
    let last = format!("logits: kl {:.6} nats, top-1 agreement {:.2} %\n", found.kl, found.top1 * 100.0);
    head + &rows + &last
}
