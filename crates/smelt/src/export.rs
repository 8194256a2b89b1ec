//! Export of a quantized checkpoint: the same passes and recipes as `compile`, written as compressed-tensors.

mod file;
mod scheme;
mod tensors;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use codegen::Target;
use frontend::Checkpoint;
use ir::{DerivedWeights, Graph, Stage};
use passes::quantize::linears;
use passes::{PassManager, PassOptions, Silent};
use plan::input::{self, TOKENIZER_BYTES};
use plan::partial::PartialFolder;
use serde::Serialize;

use self::tensors::{Exported, Origins};
use crate::compile::{open, refuse_codes};
use crate::precision::{self, Calibrated};
use crate::settings::Settings;
use crate::{CompileOptions, Driver, Error, Progress, Quiet, TargetChoice};

/// Report of an export.
#[derive(Clone, Debug, Serialize)]
pub struct QuantizeReport {
    /// Version of this report's fields.
    pub schema_version: u32,
    /// Quantized linear layers.
    pub quantized: usize,
    /// Unquantized linear layers.
    pub kept: usize,
    /// `format` of the checkpoint.
    pub format: String,
    /// Bytes of the weights that were read.
    pub input_bytes: u64,
    /// Bytes of the weights that were written.
    pub output_bytes: u64,
    /// Warnings of the importer.
    pub warnings: Vec<String>,
    /// The whole quantization.
    pub total_ms: f64,
}

const CONFIG: &str = "config.json";
const WEIGHTS: &str = "model.safetensors";
/// Tokenizer files that a plan does not need, but other programs do.
const MORE_TEXT: [&str; 4] = ["tokenizer.model", "vocab.json", "merges.txt", "added_tokens.json"];

impl Driver {
    /// Refuses what [`Driver::quantize`] would refuse for any formats: an existing directory, a quantized checkpoint.
    pub fn check_quantize(&self, dir: &Path, out: &Path, options: &CompileOptions) -> Result<(), Error> {
        open_numbers(dir, out, options, &mut Quiet).map(drop)
    }

    /// Quantizes the checkpoint in `dir` to a new directory, which transformers reads with compressed-tensors. Only
    /// options that select tensors and formats are used.
    pub fn quantize(
        &self,
        dir: &Path,
        out: &Path,
        options: &CompileOptions,
        progress: &mut dyn Progress,
    ) -> Result<QuantizeReport, Error> {
        let start = Instant::now();
        progress.phase("reading checkpoint");
        let checkpoint = open_numbers(dir, out, options, progress)?;
        let options = &options.precision;
        let compile = CompileOptions {
            target: TargetChoice::Named(Target::Cpu.name().to_owned()),
            precision: options.clone(),
            ..CompileOptions::default()
        };
        let settings = Settings::resolve(Target::Cpu, &compile, checkpoint.config(), checkpoint.dtype(), None)?;
        let mut graph = checkpoint.graph(&settings.import)?;
        let origins = Origins::of(&graph);

        progress.phase("running passes");
        let assignment = precision::assignment(&linears(&graph), options)?;
        if assignment.formats.is_empty() {
            return Err(Error::Usage("nothing to quantize: expected --precision or --precision-map".to_owned()));
        }
        let calibrated = Calibrated::open(options, &checkpoint)?;
        let weights = DerivedWeights::over(&checkpoint);
        let context = Calibrated::context(calibrated.as_ref(), &weights);
        let passes = precision::passes(&graph, options, &checkpoint, calibrated.as_ref())?;
        let pipeline = precision::quantizing(self.pipeline().until(Stage::Canonical), passes);
        let manager = PassManager::new(PassOptions::default());
        let done = manager.run(&pipeline, &mut graph, &context, &mut Silent);
        done.map_err(|failure| self.pass_failed(failure))?;

        let exported = Exported::of(&graph, &origins, checkpoint.config().tie_word_embeddings, &weights)?;
        let config = config(&checkpoint, &exported)?;
        progress.phase("writing checkpoint");
        let folder = Unfinished::new(out)?;
        let output_bytes = exported.write(&folder.file(WEIGHTS), &weights, progress)?;
        write(&folder.file(CONFIG), &config)?;
        copy_texts(dir, &checkpoint, &folder)?;
        checkpoint.check_unchanged()?;
        calibrated.iter().try_for_each(Calibrated::check_unchanged)?;
        folder.finish(out)?;
        Ok(QuantizeReport {
            schema_version: 1,
            quantized: exported.schemes.quantized(),
            kept: exported.schemes.kept(),
            format: exported.schemes.format().to_owned(),
            input_bytes: read_bytes(&checkpoint),
            output_bytes,
            warnings: checkpoint.warnings().to_vec(),
            total_ms: start.elapsed().as_secs_f64() * 1e3,
        })
    }
}

/// The checkpoint in `dir`, which must be unquantized, to be written to a new directory.
fn open_numbers(
    dir: &Path,
    out: &Path,
    options: &CompileOptions,
    progress: &mut dyn Progress,
) -> Result<Checkpoint, Error> {
    if fs::symlink_metadata(out).is_ok() {
        return Err(Error::Usage(format!("{}: already exists, expected the name of a new directory", out.display())));
    }
    if !plan::partial::folder_of(out).is_dir() {
        let error = std::io::Error::new(std::io::ErrorKind::NotFound, "its parent directory does not exist");
        return Err(Error::Io { path: out.to_owned(), error });
    }
    let ignored_tensors = options.ignored_tensors.clone();
    let checkpoint = open(dir, &CompileOptions { ignored_tensors, ..CompileOptions::default() }, progress)?;
    refuse_codes(dir, &checkpoint, "expected weights of f32, f16 or bf16")?;
    Ok(checkpoint)
}

/// `config.json` with a description of the quantized weights.
fn config(checkpoint: &Checkpoint, exported: &Exported) -> Result<Vec<u8>, Error> {
    let bad = |error: serde_json::Error| Error::BadInput(format!("{CONFIG}: {error}"));
    let mut config = checkpoint.config_json();
    // values that JSON cannot express had no effect, and are dropped
    config.retain(|_, value| !["Infinity", "-Infinity", "NaN"].iter().any(|word| *value == **word));
    // two matrices are written: a key that ties them, or a default, would be wrong
    if exported.untied || !checkpoint.config().tie_word_embeddings {
        config.insert("tie_word_embeddings".to_owned(), false.into());
    }
    config.insert("quantization_config".to_owned(), exported.schemes.config());
    let mut text = serde_json::to_vec_pretty(&config).map_err(bad)?;
    text.push(b'\n');
    Ok(text)
}

fn copy_texts(dir: &Path, checkpoint: &Checkpoint, folder: &Unfinished) -> Result<(), Error> {
    for file in checkpoint.files() {
        write(&folder.file(&file.name), &file.bytes)?;
    }
    for name in MORE_TEXT {
        let from = dir.join(name);
        if from.is_file() {
            let bytes = input::read(&from, TOKENIZER_BYTES).map_err(|error| Error::Io { path: from, error })?;
            write(&folder.file(name), &bytes)?;
        }
    }
    Ok(())
}

fn read_bytes(checkpoint: &Checkpoint) -> u64 {
    let files = checkpoint.inputs().into_iter();
    files.filter(|file| file.name.ends_with(".safetensors")).map(|file| file.bytes).sum()
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    fs::write(path, bytes).map_err(|error| Error::Io { path: path.to_owned(), error })
}

/// A temporary directory, which is renamed when it is complete, and removed otherwise.
struct Unfinished {
    /// Only its owner may enter it; the directory inside has default permissions.
    shelter: PartialFolder,
    folder: PathBuf,
}

impl Unfinished {
    fn new(out: &Path) -> Result<Unfinished, Error> {
        let io = |error| Error::Io { path: out.to_owned(), error };
        let shelter = PartialFolder::create_in(plan::partial::folder_of(out)).map_err(io)?;
        let folder = shelter.path().join("checkpoint");
        fs::create_dir(&folder).map_err(io)?;
        Ok(Unfinished { shelter, folder })
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn finish(self, out: &Path) -> Result<(), Error> {
        let io = |error| Error::Io { path: out.to_owned(), error };
        fs::rename(&self.folder, out).map_err(io)?;
        self.shelter.close().map_err(io)
    }
}

/// Names of results, which identify ops before and after passes.
fn result_name(graph: &Graph, id: ir::OpId) -> &str {
    graph.value_name(graph.result(id))
}
