//! A checkpoint directory, opened once for everything that is made of it.

use std::path::{Path, PathBuf};

use codegen::Target;
use frontend::{Checkpoint, KvCache};
use plan::input::Stamp;

use crate::settings::Settings;
use crate::{CompileOptions, Error, Progress, WeightsChoice};

/// An opened checkpoint. Its files are checked, its weights stay on disk.
#[derive(Debug)]
pub struct Source {
    dir: PathBuf,
    weights: WeightsChoice,
    pub(crate) checkpoint: Checkpoint,
}

impl Source {
    /// Opens a directory with the weights that `options` name, without the tensors that they ignore.
    pub fn open(dir: impl AsRef<Path>, options: &CompileOptions) -> Result<Source, Error> {
        let CompileOptions { weights, ignored_tensors, .. } = options;
        let (dir, weights) = (dir.as_ref().to_owned(), *weights);
        let checkpoint = match weights {
            WeightsChoice::Checkpoint => Checkpoint::open_without(&dir, ignored_tensors)?,
            WeightsChoice::Dummy if !ignored_tensors.is_empty() => {
                let reason = "dummy weights are only those of the model, there is nothing to ignore";
                return Err(Error::Usage(format!("--ignore-tensors with --weights dummy: {reason}")));
            }
            WeightsChoice::Dummy => Checkpoint::open_dummy(&dir)?,
        };
        Ok(Source { dir, weights, checkpoint })
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The options for this source, whose weights they name.
    pub(crate) fn options(&self, options: &CompileOptions) -> Result<CompileOptions, Error> {
        if options.precision.linears.is_some() {
            self.refuse_quantized("expected no --precision or --precision-map")?;
        }
        Ok(CompileOptions { weights: self.weights, ..options.clone() })
    }

    /// Refuses a quantized checkpoint if unquantized weights are needed.
    pub(crate) fn refuse_quantized(&self, expected: &str) -> Result<(), Error> {
        match self.checkpoint.quantized_by() {
            Some(method) => {
                Err(Error::Usage(format!("{}: is already quantized by {method}, {expected}", self.dir.display())))
            }
            None => Ok(()),
        }
    }

    /// The settings of a compilation with these options.
    pub(crate) fn settings(&self, target: Target, options: &CompileOptions) -> Result<Settings, Error> {
        Settings::resolve(target, options, self.checkpoint.config(), self.checkpoint.dtype())
    }

    /// What a plan with these options ignores.
    pub(crate) fn warnings(&self, options: &CompileOptions) -> Vec<String> {
        let cache = match (options.precision.kv, &options.precision.calibration) {
            (Some(kv), Some(_)) if kv.is_code() => KvCache::Calibrated,
            (Some(kv), None) if kv.is_code() => KvCache::Codes,
            _ => KvCache::Numbers,
        };
        self.checkpoint.warnings_with(cache)
    }

    /// Passes the warnings on, and returns them.
    pub(crate) fn warn(&self, options: &CompileOptions, progress: &mut dyn Progress) -> Vec<String> {
        let warnings = self.warnings(options);
        warnings.iter().for_each(|warning| progress.warning(warning));
        warnings
    }

    /// Number of ids that have a text: an embedding table may be padded past its tokenizer, and ids without a text are
    /// never sampled.
    pub(crate) fn sampled_ids(&self) -> Result<Option<u32>, Error> {
        let files = self.checkpoint.files();
        let tokenizer = files.iter().find(|file| file.name == "tokenizer.json");
        let size = |file: &plan::TextFile| Ok(text::Tokenizer::from_bytes(&file.bytes)?.vocab_size() as u32);
        tokenizer.map(size).transpose()
    }

    /// What plans say of the model.
    pub(crate) fn model(&self) -> plan::Model {
        let config = self.checkpoint.config();
        plan::Model {
            architecture: config.architecture.clone(),
            vocab_size: config.vocab_size,
            parameters: config.parameters(),
            bos: config.bos,
            eos: config.eos.clone(),
        }
    }
}

/// The stamps of files whose texts are in the options, if they exist: a caller may have the texts from elsewhere.
pub(crate) fn stamps(options: &CompileOptions) -> Vec<Stamp> {
    texts(options).filter_map(|(path, _)| Stamp::of(path).ok()).collect()
}

/// The fingerprints of these texts.
pub(crate) fn text_inputs(options: &CompileOptions) -> impl Iterator<Item = plan::Input> {
    texts(options).map(|(path, text)| file_input(path, text.as_bytes()))
}

/// Rule files, and the table of formats.
fn texts(options: &CompileOptions) -> impl Iterator<Item = (&Path, &str)> {
    let rules = options.rewrites.iter().map(|file| (file.path.as_path(), file.text.as_str()));
    rules.chain(options.precision.map.iter().map(|map| (map.path.as_path(), map.text.as_str())))
}

/// The fingerprint of a file with these contents.
pub(crate) fn file_input(path: &Path, contents: &[u8]) -> plan::Input {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    plan::Input { name, bytes: contents.len() as u64, hash: *blake3::hash(contents).as_bytes() }
}
