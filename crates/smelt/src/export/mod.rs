//! Export of a quantized checkpoint: the same passes and recipes as `compile`, written as compressed-tensors.

mod file;
mod scheme;
mod tensors;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use codegen::Target;
use frontend::Checkpoint;
use ir::{Graph, Stage};
use plan::input::{self, TOKENIZER_BYTES};
use plan::partial::PartialFolder;
use serde::Serialize;

use self::tensors::{Exported, Origins};
use crate::compilation::{Compilation, Job, Optimized};
use crate::{CompileOptions, Driver, Error, PrecisionOptions, Progress, Source, TargetChoice};

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
    pub fn check_quantize(&self, source: &Source, out: &Path) -> Result<(), Error> {
        if fs::symlink_metadata(out).is_ok() {
            let reason = "already exists, expected the name of a new directory";
            return Err(Error::Usage(format!("{}: {reason}", out.display())));
        }
        if !plan::partial::folder_of(out).is_dir() {
            let error = std::io::Error::new(std::io::ErrorKind::NotFound, "its parent directory does not exist");
            return Err(Error::Io { path: out.to_owned(), error });
        }
        source.refuse_quantized("expected weights of f32, f16 or bf16")
    }

    /// Quantizes a checkpoint to a new directory, which transformers reads with compressed-tensors.
    pub fn quantize(
        &self,
        source: &Source,
        out: &Path,
        precision: &PrecisionOptions,
        progress: &mut dyn Progress,
    ) -> Result<QuantizeReport, Error> {
        let start = Instant::now();
        self.check_quantize(source, out)?;
        let options = CompileOptions {
            target: TargetChoice::Named(Target::Cpu.name().to_owned()),
            precision: precision.clone(),
            ..CompileOptions::default()
        };
        let imported = Compilation::new(self, source, &options, progress)?.import_unsampled()?;
        if imported.formats()?.assignment.formats.is_empty() {
            return Err(Error::Usage(
                "nothing to quantize: expected `precision.linears` or `precision.map`".to_owned(),
            ));
        }
        let origins = Origins::of(imported.graph());
        let Compilation { job, stage: Optimized { graph } } = imported.optimize_until(Stage::Canonical)?;
        let Job { inputs, weights, progress, warnings, .. } = job;
        let checkpoint = &source.checkpoint;
        let exported = Exported::of(&graph, &origins, checkpoint.config().tie_word_embeddings, &weights)?;
        let config = config(checkpoint, &exported)?;
        progress.phase("writing checkpoint");
        let folder = Unfinished::new(out)?;
        let output_bytes = exported.write(&folder.file(WEIGHTS), &weights, progress)?;
        write(&folder.file(CONFIG), &config)?;
        copy_texts(source, &folder)?;
        inputs.check_unchanged()?;
        folder.finish(out)?;
        Ok(QuantizeReport {
            schema_version: 1,
            quantized: exported.schemes.quantized(),
            kept: exported.schemes.kept(),
            format: exported.schemes.format().to_owned(),
            input_bytes: read_bytes(checkpoint),
            output_bytes,
            warnings,
            total_ms: start.elapsed().as_secs_f64() * 1e3,
        })
    }
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

fn copy_texts(source: &Source, folder: &Unfinished) -> Result<(), Error> {
    for file in source.checkpoint.files() {
        write(&folder.file(&file.name), &file.bytes)?;
    }
    for name in MORE_TEXT {
        let from = source.dir().join(name);
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
