//! An opened Hugging Face directory: configuration, tokenizer files, and weights that stay on disk.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use ir::{Graph, TensorType, WeightSource};
use plan::input::{CONFIG_BYTES, Changed, InputFile, Stamp, TOKENIZER_BYTES};
use plan::{DType, RandomPart};
use serde_json::{Map, Value};

use crate::json::{self, Object};
use crate::keys::QUANTIZED;
use crate::model_tensors::{EMBEDDING, ModelTensor, model_tensors};
use crate::quantized::{self, KvCache, KvReach, KvScales, Method, Quantized, SIDE_FILES};
use crate::report::Report;
use crate::surplus::{self, Ignored};
use crate::tensors::{Tensors, check_range};
use crate::tied::is_tied;
use crate::weight_files::{self, WeightFiles};
use crate::{ImportError, ImportOptions, ModelConfig, decoder};

const CONFIG: &str = "config.json";
const GENERATION: &str = "generation_config.json";
/// Tokenizer files and generation defaults; they are copied into the plan.
const TEXT_FILES: [&str; 6] = [
    GENERATION,
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
];

/// An opened Hugging Face directory.
#[derive(Debug)]
pub struct Checkpoint {
    config: ModelConfig,
    dtype: DType,
    model: Vec<ModelTensor>,
    quantized: Quantized,
    weights: Weights,
    texts: Texts,
    kv: KvScales,
    format_of_dummies: Option<&'static str>,
    /// What was found while reading.
    found: Vec<String>,
    /// The same, with what is reported about an unquantized KV cache.
    warnings: Vec<String>,
}

/// Source of the weights.
#[derive(Debug)]
enum Weights {
    Stored(Tensors),
    /// Random values, seeded by their names.
    Random(BTreeMap<String, RandomPart>),
}

/// A small file, kept in memory.
#[derive(Debug)]
struct Text {
    path: PathBuf,
    bytes: Vec<u8>,
    /// The file's stamp when it was read.
    stamp: Stamp,
}

/// The small files.
#[derive(Debug)]
struct Texts {
    config: Text,
    others: Vec<Text>,
}

impl Text {
    fn read(path: PathBuf, report: &mut Report) -> Option<Text> {
        let of_text = |name: &&str| *name != GENERATION && path.ends_with(name);
        let most = if TEXT_FILES.iter().any(of_text) { TOKENIZER_BYTES } else { CONFIG_BYTES };
        let read = InputFile::open(&path).and_then(|file| Ok((file.read(most)?, file.stamp().clone())));
        match read {
            Ok((bytes, stamp)) => Some(Text { path, bytes, stamp }),
            Err(error) => {
                report.bad_input(format!("{}: {error}", path.display()));
                None
            }
        }
    }

    fn name(&self) -> String {
        file_name(&self.path)
    }

    fn parse(&self, report: &mut Report) -> Option<Map<String, Value>> {
        json::parse(&self.path, &self.bytes, report)
    }
}

impl Texts {
    /// `config.json`, which is required, and those of the others that exist.
    fn read(dir: &Path, report: &mut Report) -> Option<Texts> {
        let config = dir.join(CONFIG);
        if !config.exists() {
            let expected = "expected a Hugging Face directory with config.json and model.safetensors";
            report.bad_input(format!("{}: not found, {expected}", config.display()));
            weight_files::foreign_files(dir).into_iter().for_each(|hint| report.bad_input(hint));
            return None;
        }
        let there = |name: &&str| fs::symlink_metadata(dir.join(name)).is_ok();
        let others = TEXT_FILES.into_iter().chain(SIDE_FILES.map(|file| file.name)).filter(there);
        let others = others.filter_map(|name| Text::read(dir.join(name), report)).collect();
        Some(Texts { config: Text::read(config, report)?, others })
    }

    fn iter(&self) -> impl Iterator<Item = &Text> {
        [&self.config].into_iter().chain(&self.others)
    }

    /// The configuration, if it could be read; the report knows whether it is valid.
    fn parse(&self, report: &mut Report) -> Option<(ModelConfig, Option<Box<dyn Method>>)> {
        let generation = self.others.iter().find(|text| text.name() == GENERATION);
        let generation = generation.and_then(|text| Some((text, text.parse(report)?)));
        let generation = generation.as_ref().map(|(text, map)| Object::new(&text.path, map));
        let map = self.config.parse(report)?;
        let config = Object::new(&self.config.path, &map);
        let method = self.method(config, report);
        Some((ModelConfig::read(config, generation, report)?, method))
    }

    /// How the weights are quantized: as said by `config.json`, or by a file next to it.
    fn method(&self, config: Object<'_>, report: &mut Report) -> Option<Box<dyn Method>> {
        if let Some(nested) = config.nested(QUANTIZED, report) {
            return quantized::method(nested, None, report);
        }
        let text_of = |name: &str| self.others.iter().find(|text| text.name() == name);
        let (file, text) = SIDE_FILES.iter().find_map(|file| Some((file, text_of(file.name)?)))?;
        let map = text.parse(report)?;
        let object = Object::new(&text.path, &map);
        let Some(key) = file.key else { return quantized::method(object, Some(file), report) };
        let nested = object.nested(key, report);
        if nested.is_none() {
            report.bad_input(object.missing(key, "expected the quantization of the weights"));
        }
        quantized::method(nested?, Some(file), report)
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

impl Checkpoint {
    /// Opens a directory: `config.json`, weights in safetensors files, and tokenizer files if there are any.
    pub fn open(dir: &Path) -> Result<Checkpoint, ImportError> {
        Checkpoint::open_without(dir, &[])
    }

    /// The same, ignoring tensors whose names match one of these patterns: `*` matches any characters, `?` matches one.
    /// Each pattern must match something, and nothing that the model needs.
    pub fn open_without(dir: &Path, ignored: &[String]) -> Result<Checkpoint, ImportError> {
        let mut ignored = Ignored::new(ignored);
        let mut report = Report::default();
        let Some(mut texts) = Texts::read(dir, &mut report) else { return Err(report.into_error()) };
        let config = texts.parse(&mut report);
        let files = weight_files::open(dir, &mut report);
        let (Some((mut config, method)), Some(WeightFiles { mut tensors, index })) = (config, files) else {
            return Err(report.into_error());
        };
        config.tie_word_embeddings = config.tie_word_embeddings && is_tied(&mut tensors, &mut ignored, &mut report);
        let model = model_tensors(&config);
        let mut quantized = Quantized::default();
        let scheme = method.as_ref().and_then(|method| method.cache().cloned());
        let kv = KvScales::take(&mut tensors, scheme, &config, &mut report);
        if let Some(method) = method {
            quantized = Quantized::of(method.as_ref(), &model, &mut tensors, &mut report);
        }
        // without the tensors of each linear layer, those would be reported as missing or unknown
        if report.problems() == 0 {
            let expected = quantized.expected(&model);
            surplus::leave_out(&mut tensors, &expected, &mut ignored, &mut report);
            tensors.check(&expected, &mut report);
        }
        if report.problems() == 0 {
            quantized.look(&tensors, &mut report);
        }
        let embedding = tensors.dtype(&format!("{EMBEDDING}.weight"));
        let dtype = config.dtype.or(embedding).unwrap_or(DType::F32);
        texts.others.extend(index.map(|(bytes, stamp)| Text { path: dir.join(weight_files::INDEX), bytes, stamp }));
        let weights = Weights::Stored(tensors);
        let (found, warnings) = (report.finish()?, Vec::new());
        let format_of_dummies = None;
        let checkpoint =
            Checkpoint { config, dtype, model, quantized, weights, texts, kv, format_of_dummies, found, warnings };
        Ok(Checkpoint { warnings: checkpoint.warnings_with(KvCache::Numbers), ..checkpoint })
    }

    /// Opens a configuration without weights: they are random, seeded by their names. `dir` is a directory, or a file
    /// that is used as its `config.json`.
    pub fn open_dummy(dir: &Path) -> Result<Checkpoint, ImportError> {
        let mut report = Report::default();
        let texts = match dir.is_file() {
            true => Text::read(dir.to_owned(), &mut report).map(|config| Texts { config, others: Vec::new() }),
            false => Texts::read(dir, &mut report),
        };
        let config = texts.as_ref().and_then(|texts| texts.parse(&mut report));
        let mut format = None;
        let method = config.as_ref().and_then(|(_, method)| method.as_ref());
        if let Some(method) = method.filter(|method| method.has_linears()) {
            let (path, name) = (dir.display(), method.name());
            format = method.dummies();
            match format {
                Some(format) => report.warning(format!(
                    "{path}: quantized by {name}: dummy weights are quantized as with --precision {format}, unless \
                     --precision, --precision-map or --dtype is set"
                )),
                None => report.unsupported(format!(
                    "{path}: quantized by {name} in a format without dummy weights: remove `{QUANTIZED}` from a copy of \
                     config.json, and choose a format with --precision"
                )),
            }
        }
        let (Some(texts), Some((config, _))) = (texts, config) else { return Err(report.into_error()) };
        let warnings = report.finish()?;
        let dtype = config.dtype.unwrap_or(DType::F32);
        let model = model_tensors(&config);
        let random = model.iter().map(|tensor| (tensor.name.clone(), tensor.random())).collect();
        let (quantized, weights) = (Quantized::default(), Weights::Random(random));
        let (kv, found) = (KvScales::default(), warnings.clone());
        let format_of_dummies = format;
        Ok(Checkpoint { config, dtype, model, quantized, weights, texts, kv, format_of_dummies, found, warnings })
    }

    /// The ranges of keys and values, from the checkpoint's scales, by layer.
    pub fn kv_reach(&self) -> &BTreeMap<u32, KvReach> {
        self.kv.layers()
    }

    /// The model's configuration.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The weight type of the checkpoint: that of `config.json`, else that of the embedding table, else f32.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The quantization method of the weights, as in `quant_method`.
    pub fn quantized_by(&self) -> Option<&'static str> {
        self.quantized.method
    }

    /// The format of random weights, if the configuration is that of a quantized checkpoint.
    pub fn format_of_dummies(&self) -> Option<&'static str> {
        self.format_of_dummies
    }

    /// The contents of `config.json`; numbers that are not finite are strings.
    pub fn config_json(&self) -> Map<String, Value> {
        self.texts.config.parse(&mut Report::default()).expect("it was read when the checkpoint was opened")
    }

    /// Tokenizer files and generation defaults, if they exist.
    pub fn files(&self) -> Vec<plan::TextFile> {
        let texts = self.texts.others.iter().filter(|text| TEXT_FILES.contains(&text.name().as_str()));
        texts.map(|text| plan::TextFile { name: text.name(), bytes: text.bytes.clone() }).collect()
    }

    /// Fingerprints of all files, sorted by name.
    pub fn inputs(&self) -> Vec<plan::Input> {
        let input = |name, bytes, hashed: &[u8]| plan::Input { name, bytes, hash: *blake3::hash(hashed).as_bytes() };
        let mut inputs: Vec<plan::Input> =
            self.texts.iter().map(|text| input(text.name(), text.bytes.len() as u64, &text.bytes)).collect();
        let shards = self.tensors().into_iter().flat_map(Tensors::shards);
        inputs.extend(shards.map(|shard| input(file_name(&shard.path), shard.bytes(), shard.header())));
        inputs.sort_by(|a, b| a.name.cmp(&b.name));
        inputs
    }

    /// An identity of the model, in hexadecimal: a hash of its configuration, and of the headers and a sample of its
    /// weights.
    pub fn fingerprint(&self) -> String {
        let mut hash = blake3::Hasher::new();
        let of_model =
            |input: &plan::Input| input.name == self.texts.config.name() || input.name.ends_with(".safetensors");
        for input in self.inputs().iter().filter(|input| of_model(input)) {
            hash.update(&input.hash);
        }
        for shard in self.tensors().into_iter().flat_map(Tensors::shards) {
            for piece in shard.sample() {
                hash.update(piece);
            }
        }
        hash.finalize().to_hex().to_string()
    }

    /// Paths of all files, for a cache key.
    pub fn sources(&self) -> Vec<PathBuf> {
        let shards = self.tensors().into_iter().flat_map(Tensors::shards);
        self.texts.iter().map(|text| &text.path).chain(shards.map(|shard| &shard.path)).cloned().collect()
    }

    /// Whether all files are unchanged since the checkpoint was opened. Outputs are complete only then: a file that was
    /// rewritten meanwhile was read in two states.
    pub fn check_unchanged(&self) -> Result<(), Changed> {
        let shards = self.tensors().into_iter().flat_map(Tensors::shards);
        let mut stamps = self.texts.iter().map(|text| &text.stamp).chain(shards.map(|shard| &shard.stamp));
        stamps.try_for_each(Stamp::check)
    }

    /// What was ignored: keys and tensors that are not known to have an effect.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The same for a plan with such a KV cache: scales of keys and values may be used.
    pub fn warnings_with(&self, cache: KvCache) -> Vec<String> {
        let of_cache = match self.weights {
            Weights::Stored(_) => self.kv.warnings(cache),
            Weights::Random(_) => Vec::new(),
        };
        self.found.iter().cloned().chain(of_cache).collect()
    }

    /// The model as a graph over the checkpoint's tensors.
    pub fn graph(&self, options: &ImportOptions) -> Result<Graph, ImportError> {
        options.check()?;
        if let Some(window) = self.config.window.filter(|window| options.max_seq_len > *window) {
            return Err(ImportError::Unsupported(vec![format!(
                "sequences of {} tokens: the model has a sliding window of {window}, expected at most that",
                options.max_seq_len
            )]));
        }
        let constant = |tensor: &ModelTensor| {
            let dtype = self.tensors().and_then(|tensors| tensors.dtype(&tensor.name)).unwrap_or(self.dtype);
            (tensor.name.clone(), TensorType::new(dtype, tensor.shape.iter().copied()))
        };
        let mut constants: BTreeMap<String, TensorType> = self.model.iter().map(constant).collect();
        constants.extend(self.quantized.types.clone());
        Ok(decoder::build(&self.config, &constants, &self.quantized.linears, options)?)
    }

    fn tensors(&self) -> Option<&Tensors> {
        match &self.weights {
            Weights::Stored(tensors) => Some(tensors),
            Weights::Random(_) => None,
        }
    }
}

impl WeightSource for Checkpoint {
    fn read(&self, key: &str, elements: Range<u64>, out: &mut [u8]) -> Result<(), String> {
        match &self.weights {
            Weights::Stored(tensors) => self.quantized.read(key, tensors, elements, out),
            Weights::Random(parts) => {
                let part = parts.get(key).ok_or_else(|| format!("there is no tensor `{key}`"))?;
                check_range(key, &elements, part.elements, self.dtype.bytes(), out.len())?;
                write_random(part, self.dtype, elements, out);
                Ok(())
            }
        }
    }

    fn random(&self, key: &str) -> Option<RandomPart> {
        match &self.weights {
            Weights::Stored(_) => None,
            Weights::Random(parts) => parts.get(key).cloned(),
        }
    }
}

fn write_random(part: &RandomPart, dtype: DType, elements: Range<u64>, out: &mut [u8]) {
    for (index, out) in elements.zip(out.chunks_exact_mut(dtype.bytes() as usize)) {
        dtype.encode([part.value(index)], out);
    }
}
