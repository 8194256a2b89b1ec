//! The corpus: checkpoints, graphs and rules of this repository, and files that the program makes of them, on first
//! use.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use serde_json::Value;

use super::judge::{self, Limits};
use super::mutant::Mutant;
use super::plans::Fixture;

/// Tiny checkpoints: every architecture, and every way in which linear layers are stored.
pub const MODELS: [&str; 15] = [
    "oracle/llama-mha",
    "oracle/llama-gqa-tied-llama3-rope",
    "oracle/mistral-gqa",
    "oracle/qwen2-biases",
    "oracle/qwen3-gqa",
    "oracle/starcoder2-gqa",
    "quantized/awq",
    "quantized/gptq",
    "quantized/gptq-v2-int8",
    "quantized/ct-fp8-block",
    "quantized/ct-int4-zeros",
    "quantized/ct-int8-static",
    "quantized/ct-mixed",
    "quantized/fp8-block",
    "quantized/modelopt-fp8",
];

/// Those with one layer.
pub const SMALL: [&str; 3] = ["quantized/awq", "quantized/ct-int8-static", "quantized/fp8-block"];

/// The one with a vocabulary for all bytes, which gets a tokenizer.
pub const WITH_TOKENIZER: &str = "oracle/llama-mha";
/// Rows of its embedding.
const VOCABULARY: usize = 320;

/// Limits that keep a plan small.
pub const BOUNDS: &str = "--target cpu --max-batch-size 2 --max-seq-len 64 --max-num-tokens 8";

/// A text, and its path.
pub struct Text {
    pub path: PathBuf,
    pub text: String,
}

/// The inputs before they are damaged.
pub struct Corpus {
    root: PathBuf,
    program: PathBuf,
    folder: PathBuf,
    /// Cases of graphs.
    pub graphs: Vec<Text>,
    /// Files of rules, each next to its cases.
    pub rules: Vec<Text>,
    plans: OnceLock<Result<Vec<Fixture>, String>>,
    calibration: OnceLock<Result<[Vec<u8>; 2], String>>,
    timings: OnceLock<Result<Vec<u8>, String>>,
}

impl Corpus {
    /// The files of the repository; `program` makes the rest, in `folder`.
    pub fn new(root: &Path, program: &Path, folder: &Path) -> Result<Corpus, String> {
        let (mut graphs, mut rules) = (Vec::new(), Vec::new());
        read(&root.join("tests/cases"), &mut |path, text| match path.extension().and_then(|name| name.to_str()) {
            Some("ir") => graphs.push(Text { path, text }),
            Some("rules") => rules.push(Text { path, text }),
            _ => {}
        })?;
        Ok(Corpus {
            root: root.to_owned(),
            program: program.to_owned(),
            folder: folder.to_owned(),
            graphs,
            rules,
            plans: OnceLock::new(),
            calibration: OnceLock::new(),
            timings: OnceLock::new(),
        })
    }

    /// The files of a checkpoint.
    pub fn model(&self, name: &str) -> Result<Vec<(String, Vec<u8>)>, String> {
        let file = |file: &str| self.file(&format!("tests/{name}/{file}")).map(|bytes| (file.to_owned(), bytes));
        ["config.json", "model.safetensors"].into_iter().map(file).collect()
    }

    /// A checkpoint with a tokenizer.
    pub fn model_with_tokenizer(&self) -> Result<Vec<(String, Vec<u8>)>, String> {
        let mut files = self.model(WITH_TOKENIZER)?;
        files.push(("tokenizer.json".to_owned(), self.tokenizer()?.to_string().into_bytes()));
        for name in ["tokenizer_config.json", "generation_config.json"] {
            files.push((name.to_owned(), self.file(&format!("models/demo/{name}"))?));
        }
        Ok(files)
    }

    /// The demo model's tokenizer, with as many tokens as the vocabulary of a smaller model.
    pub fn tokenizer(&self) -> Result<Value, String> {
        let mut tokenizer = json(&self.file("models/demo/tokenizer.json")?)?;
        let model = &mut tokenizer["model"];
        let vocabulary = model["vocab"].as_object_mut().ok_or("the demo's tokenizer has no vocabulary")?;
        vocabulary.retain(|_, id| id.as_u64().is_some_and(|id| id < VOCABULARY as u64));
        let known = vocabulary.clone();
        let merges = model["merges"].as_array_mut().ok_or("the demo's tokenizer has no merges")?;
        merges.retain(|merge| match merge {
            Value::String(pair) => known.contains_key(&pair.replace(' ', "")),
            pair => known.contains_key(&[pair[0].as_str().unwrap_or(" "), pair[1].as_str().unwrap_or(" ")].concat()),
        });
        Ok(tokenizer)
    }

    /// A file of the repository.
    pub fn file(&self, name: &str) -> Result<Vec<u8>, String> {
        fs::read(self.root.join(name)).map_err(|error| format!("{name}: {error}"))
    }

    /// The configurations of all checkpoints.
    pub fn configurations(&self) -> Result<Vec<Value>, String> {
        MODELS.iter().map(|name| json(&self.file(&format!("tests/{name}/config.json"))?)).collect()
    }

    /// Plans that run, and the same for a GPU.
    pub fn plans(&self) -> Result<&[Fixture], String> {
        let make = || {
            let mut plans = Vec::new();
            for name in ["oracle/starcoder2-gqa", "oracle/qwen3-gqa"].into_iter().chain(SMALL) {
                plans.push(self.plan(self.model(name)?)?);
            }
            plans.push(self.plan(self.model_with_tokenizer()?)?);
            let on_gpu = [0, 2].map(|index: usize| plans[index].for_gpu(&self.folder.join("gpu.plan")));
            plans.extend(on_gpu.into_iter().collect::<Result<Vec<_>, _>>()?);
            Ok(plans)
        };
        self.plans.get_or_init(make).as_deref().map_err(Clone::clone)
    }

    fn plan(&self, model: Vec<(String, Vec<u8>)>) -> Result<Fixture, String> {
        let compile = Mutant::command(&format!("compile in/model -o out/x.plan {BOUNDS}")).model(model);
        let folder = self.made("plan", &compile)?;
        Fixture::read(&folder.join("out/x.plan"))
    }

    /// A calibration of the checkpoint with a tokenizer, and its activations file.
    pub fn calibration(&self) -> Result<&[Vec<u8>; 2], String> {
        let make = || {
            let text = self.file("models/demo/heldout.txt")?;
            let line =
                "calibrate in/model --text in/text.txt -o out/calibration.json --samples 2 --max-len 32 --rows 8";
            let calibrate = Mutant::command(&format!("{line} --target cpu --hessian"));
            let calibrate = calibrate.model(self.model_with_tokenizer()?).file("text.txt", &text[..400]);
            let folder = self.made("calibration", &calibrate)?;
            let read = |name: &str| fs::read(folder.join(name)).map_err(|error| format!("{name}: {error}"));
            Ok([read("out/calibration.json")?, read("out/calibration.safetensors")?])
        };
        self.calibration.get_or_init(make).as_ref().map_err(Clone::clone)
    }

    /// A timing cache of the checkpoint with a tokenizer, with machine-independent times.
    pub fn timings(&self) -> Result<&[u8], String> {
        let make = || {
            let model = self.model(WITH_TOKENIZER)?;
            let line = format!("compile in/model -o out/x.plan {BOUNDS} --timing-cache out/timings.json");
            let folder = self.made("timings", &Mutant::command(&line).model(model))?;
            let path = folder.join("out/timings.json");
            let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
            Ok(with_even_times(&text).into_bytes())
        };
        self.timings.get_or_init(make).as_deref().map_err(Clone::clone)
    }

    /// Runs a command that must succeed, and returns its directory.
    fn made(&self, what: &str, mutant: &Mutant) -> Result<PathBuf, String> {
        let folder = self.folder.join(what);
        // on a slow machine, timing kernels takes long
        let limits = Limits { time: Duration::from_secs(300), ..Limits::default() };
        let outcome = judge::run(&self.program, mutant, &folder, &limits)?;
        match outcome.code {
            Some(0) => Ok(folder),
            code => Err(format!(
                "`{}` must succeed for its output to be damaged: {code:?}, {}",
                mutant.line(),
                String::from_utf8_lossy(&outcome.stderr)
            )),
        }
    }
}

/// The document of a file.
pub fn json(bytes: &[u8]) -> Result<Value, String> {
    serde_json::from_slice(bytes).map_err(|error| error.to_string())
}

/// The cache with times derived from the order of its lines.
fn with_even_times(text: &str) -> String {
    let line = |(number, line): (usize, &str)| match line.split_once("\"ns\": ") {
        Some((head, tail)) => {
            let rest = tail.trim_start_matches(|c: char| c.is_ascii_digit());
            format!("{head}\"ns\": {}{rest}\n", 1000 + number * 7919 % 9000)
        }
        None => format!("{line}\n"),
    };
    text.lines().enumerate().map(line).collect()
}

/// Calls `each` with every text below a directory, in order of names.
fn read(folder: &Path, each: &mut impl FnMut(PathBuf, String)) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("{}: {error}", folder.display());
    let mut entries: Vec<_> = fs::read_dir(folder).map_err(failed)?.collect::<Result<_, _>>().map_err(failed)?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for path in entries.into_iter().map(|entry| entry.path()) {
        if path.is_dir() {
            read(&path, each)?;
        } else if let Ok(text) = fs::read_to_string(&path) {
            each(path, text);
        }
    }
    Ok(())
}
