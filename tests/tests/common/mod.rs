//! Shared by the end-to-end tests: the oracle checkpoints, and copies of them that may be damaged.

// Each test file uses its own part of this.
#![allow(dead_code)]

pub mod expected;
pub mod quantized;

use std::collections::BTreeMap;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use smelt::{CompileOptions, Driver, Error, ErrorKind, Generation, GenerationParams, Llm, LoadOptions, Prompt, Quiet};
use tempfile::TempDir;

/// The directory of an oracle checkpoint.
pub fn oracle(name: &str) -> PathBuf {
    tests::folder().join("oracle").join(name)
}

/// The demo model, which has a tokenizer.
pub fn demo() -> PathBuf {
    tests::folder().join("../models/demo")
}

/// Compiles a checkpoint in place with one thread, and a copy of it elsewhere with four. Returns the plan, which must
/// be the same: equal bytes, without a path.
pub fn compile_twice(driver: &Driver, dir: &Path, options: &CompileOptions) -> Vec<u8> {
    let scratch = tempfile::tempdir().unwrap();
    let copy = scratch.path().join("elsewhere");
    std::fs::create_dir(&copy).unwrap();
    for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap).filter(|entry| entry.path().is_file()) {
        std::fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
    }
    let [one, other] = [(dir, 1), (&copy, 4)].map(|(dir, threads)| {
        let out = scratch.path().join(format!("{threads}.plan"));
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| driver.compile(dir, &out, options, &mut Quiet)).unwrap();
        std::fs::read(out).unwrap()
    });
    assert!(one == other, "{}: two plans", dir.display());
    for folder in [dir, scratch.path(), &std::env::current_dir().unwrap()] {
        let place = folder.canonicalize().unwrap().to_str().unwrap().as_bytes().to_vec();
        assert!(!one.windows(place.len()).any(|window| window == place), "the plan holds a path");
    }
    one
}

/// Loads a plan or a checkpoint.
pub fn load(path: &Path, compile: CompileOptions) -> Result<Llm, Error> {
    Llm::load_with(&Driver::new(), path, &LoadOptions { compile, ..LoadOptions::default() }, &mut Quiet)
}

/// Token ids as a prompt.
pub fn ids(tokens: &[u32]) -> Prompt {
    Prompt::Tokens(tokens.to_vec())
}

/// This many arbitrary tokens.
pub fn tokens(max_tokens: u32) -> GenerationParams {
    GenerationParams { max_tokens, ignore_eos: true, logits: false }
}

/// A few tokens from a short prompt.
pub fn sample(llm: &mut Llm) -> Result<Vec<Generation>, Error> {
    llm.generate(&[ids(&[5, 6, 7])], &tokens(3))
}

/// A copy of an oracle checkpoint in a folder of its own.
pub struct Checkpoint {
    folder: TempDir,
}

/// A tensor of a safetensors file.
#[derive(Clone)]
pub struct Stored {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
}

impl Checkpoint {
    pub fn copy_of(name: &str) -> Checkpoint {
        Checkpoint::copy(&oracle(name))
    }

    /// A copy of the checkpoint in a folder.
    pub fn copy(from: &Path) -> Checkpoint {
        let folder = tempfile::tempdir().unwrap();
        for file in ["config.json", "model.safetensors"] {
            std::fs::copy(from.join(file), folder.path().join(file)).unwrap();
        }
        Checkpoint { folder }
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn weights(&self) -> PathBuf {
        self.file("model.safetensors")
    }

    /// Sets a key of `config.json`.
    pub fn set(&self, key: &str, value: Value) {
        let mut config: Value = serde_json::from_slice(&std::fs::read(self.file("config.json")).unwrap()).unwrap();
        config[key] = value;
        std::fs::write(self.file("config.json"), config.to_string()).unwrap();
    }

    /// Rewrites the tensors after a change.
    pub fn edit(&self, change: impl FnOnce(&mut BTreeMap<String, Stored>)) {
        let bytes = std::fs::read(self.weights()).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let stored = |view: TensorView<'_>| Stored {
            dtype: view.dtype(),
            shape: view.shape().to_vec(),
            bytes: view.data().to_vec(),
        };
        let mut tensors = file.iter().map(|(name, view)| (name.to_owned(), stored(view))).collect();
        change(&mut tensors);
        write_tensors(&self.weights(), &tensors);
    }

    /// Why compilation fails: the class, and the message. No plan may be left over.
    pub fn refused(&self) -> (ErrorKind, String) {
        let plan = self.file("out.plan");
        let options = CompileOptions::default();
        let error = Driver::new().compile(self.path(), &plan, &options, &mut Quiet);
        assert!(!plan.exists());
        let error = error.expect_err("a broken checkpoint was compiled");
        (error.kind(), error.to_string())
    }
}

/// Writes a safetensors file.
pub fn write_tensors(path: &Path, tensors: &BTreeMap<String, Stored>) {
    let views = tensors.iter().map(|(name, tensor)| {
        (name, TensorView::new(tensor.dtype, tensor.shape.clone(), &tensor.bytes).expect("a whole tensor"))
    });
    std::fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

/// Changes a byte of a file.
pub fn put(path: &Path, at: usize, byte: u8) {
    let mut file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    file.seek(SeekFrom::Start(at as u64)).unwrap();
    file.write_all(&[byte]).unwrap();
}

/// Asserts that a text contains all of these parts.
pub fn assert_says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "expected `{part}` in: {text}");
    }
}
