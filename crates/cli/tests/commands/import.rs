//! What other tools load is loaded, with warnings about ignored parts: in every command.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use safetensors::{Dtype, SafeTensors, serialize, tensor::TensorView};
use serde_json::{Value, json};

use crate::sandbox::Sandbox;

type Tensor = (Dtype, Vec<usize>, Vec<u8>);

/// The model of `tiny`, to be changed and written.
pub struct Tiny {
    pub sandbox: Sandbox,
    config: Value,
    tensors: BTreeMap<String, Tensor>,
}

/// The expected continuation of the prompt.
const TEXT: &str = "13 7 16 9 7 14\n";

impl Tiny {
    pub fn new() -> Tiny {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/commands/tiny");
        let config = serde_json::from_slice(&fs::read(folder.join("config.json")).unwrap()).unwrap();
        let file = fs::read(folder.join("model.safetensors")).unwrap();
        let tensors = SafeTensors::deserialize(&file).unwrap();
        let tensor = |(name, view): (String, TensorView<'_>)| {
            (name, (view.dtype(), view.shape().to_vec(), view.data().to_vec()))
        };
        let tensors = tensors.tensors().into_iter().map(tensor).collect();
        Tiny { sandbox: Sandbox::new(), config, tensors }
    }

    fn with(mut self, key: &str, value: Value) -> Tiny {
        self.config[key] = value;
        self
    }

    /// Adds or replaces a tensor.
    pub fn add(mut self, name: &str, shape: &[usize], value: f32) -> Tiny {
        let bytes = value.to_le_bytes().repeat(shape.iter().product());
        self.tensors.insert(name.to_owned(), (Dtype::F32, shape.to_vec(), bytes));
        self
    }

    /// The bytes of a row of a matrix in bf16.
    pub fn row(&mut self, name: &str, row: usize) -> &mut [u8] {
        let (_, shape, bytes) = self.tensors.get_mut(name).unwrap();
        let line = 2 * shape[1];
        &mut bytes[row * line..(row + 1) * line]
    }

    /// Writes the folder; its path.
    pub fn write(&self) -> String {
        let folder = self.sandbox.path("model");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("config.json"), self.config.to_string()).unwrap();
        write_tensors(&folder.join("model.safetensors"), self.tensors.iter());
        folder.to_str().unwrap().to_owned()
    }

    /// The generated text, and the warnings.
    fn generate(&self, more: &[&str]) -> (String, Vec<String>) {
        self.generate_from(&self.write(), more)
    }

    fn generate_from(&self, folder: &str, more: &[&str]) -> (String, Vec<String>) {
        let args = ["generate", folder, "--prompt-ids", "1,5,9,12,3", "--max-tokens", "6", "--ignore-eos"];
        let output = self.sandbox.run(&[&args[..], &["--target", "cpu", "--no-cache"], more].concat());
        (String::from_utf8(output.stdout).unwrap(), warnings(&output.stderr))
    }
}

fn write_tensors<'a>(path: &Path, tensors: impl Iterator<Item = (&'a String, &'a Tensor)>) {
    let view = |(name, (dtype, shape, bytes)): (&'a String, &'a Tensor)| {
        (name, TensorView::new(*dtype, shape.clone(), bytes).unwrap())
    };
    fs::write(path, serialize(tensors.map(view), None).unwrap()).unwrap();
}

/// The warnings; the whole output if there are none.
fn warnings(stderr: &[u8]) -> Vec<String> {
    let text = String::from_utf8(stderr.to_vec()).unwrap();
    text.lines().filter_map(|line| line.strip_prefix("warning: ")).map(str::to_owned).collect()
}

#[track_caller]
fn assert_warns((text, warnings): &(String, Vec<String>), expected: &str, part: &str) {
    assert_eq!(text, expected, "{warnings:?}");
    assert!(matches!(&warnings[..], [warning] if warning.contains(part)), "{part}: {warnings:#?}");
}

#[test]
fn tensors_beside_the_model_are_harmless() {
    assert_eq!(Tiny::new().generate(&[]), (TEXT.to_owned(), Vec::new()));
    let rotary = "model.layers.0.self_attn.rotary_emb";
    let tables = Tiny::new().add(&format!("{rotary}.cos_cached"), &[1, 1, 8, 8], 1.0);
    let tables = tables.add(&format!("{rotary}.inv_freq"), &[4], 1.0).add("rotary_emb.sin_cached", &[8, 8], 1.0);
    assert_warns(&tables.generate(&[]), TEXT, "tensors that the model does not use are ignored, 3");
    let head = Tiny::new().add("v_head.summary.weight", &[1, 16], 1.0).add("v_head.summary.bias", &[1], 1.0);
    assert_warns(
        &head.generate(&[]),
        TEXT,
        "`v_head.summary.bias`, `v_head.summary.weight`; they are left over from training",
    );
    let bias = "model.layers.0.self_attn.o_proj.bias";
    assert_warns(&Tiny::new().add(bias, &[16], -0.0).generate(&[]), TEXT, "zero biases");
    let biased = Tiny::new().add(bias, &[16], 1e-30);
    let args = ["generate", &biased.write(), "--prompt-ids", "1", "--target", "cpu"];
    biased.sandbox.fails(&args, 3, "`model.layers.0.self_attn.o_proj.bias`; --ignore-tensors NAME");
    assert_eq!(biased.generate(&["--ignore-tensors", "*.o_proj.bias"]), (TEXT.to_owned(), Vec::new()));
}

#[test]
fn a_tied_model_has_one_matrix_or_two() {
    let tied = Tiny::new().with("tie_word_embeddings", json!(true));
    assert_warns(&tied.generate(&[]), TEXT, "`lm_head.weight` differs from `model.embed_tokens.weight`: both are used");
    let one = ("3 3 3 3 3 3\n".to_owned(), Vec::new());
    assert_eq!(tied.generate(&["--ignore-tensors", "lm_head.*"]), one);
    // its quantized export has both, too
    let out = tied.sandbox.text("quantized");
    tied.sandbox.ok(&["quantize", &tied.write(), "-o", &out, "--precision", "int8-weight"]);
    let config: Value = serde_json::from_slice(&fs::read(Path::new(&out).join("config.json")).unwrap()).unwrap();
    assert_eq!(config["tie_word_embeddings"], false);
    assert_ne!(tied.generate_from(&out, &[]), one);

    let mut tied = tied;
    let table = tied.tensors.remove("model.embed_tokens.weight").unwrap();
    tied.tensors.insert("lm_head.weight".to_owned(), table);
    assert_eq!(tied.generate(&[]), one);
}

#[test]
fn keys_that_mean_nothing_are_warnings() {
    let linear = json!({ "type": "linear", "factor": 8.0, "finetuned": true });
    let found = Tiny::new().with("rope_scaling", linear).generate(&[]);
    assert_warns(&found, "16 7 16 7 16 7\n", "`rope_scaling.finetuned` is true");
    let old = Tiny::new().with("architectures", json!(["LLaMAForCausalLM"]));
    assert_warns(&old.generate(&[]), TEXT, "read as `LlamaForCausalLM`");

    let tiny = Tiny::new();
    let folder = tiny.write();
    let config = tiny.config.to_string().replacen('{', "{\"initializer_range\": Infinity,", 1);
    fs::write(tiny.sandbox.path("model/config.json"), config).unwrap();
    assert_eq!(tiny.generate_from(&folder, &[]), (TEXT.to_owned(), Vec::new()));
    let out = tiny.sandbox.text("quantized");
    tiny.sandbox.ok(&["quantize", &folder, "-o", &out, "--precision", "int8-weight"]);
    let config: Value = serde_json::from_slice(&fs::read(Path::new(&out).join("config.json")).unwrap()).unwrap();
    assert!(config["initializer_range"].is_null() && config["vocab_size"] == 32);
}

#[test]
fn the_index_decides_and_may_be_lost() {
    let tiny = Tiny::new();
    let folder = tiny.write();
    let file = |name: &str| tiny.sandbox.path("model").join(name);
    fs::remove_file(file("model.safetensors")).unwrap();
    let [first, second] = [1, 2].map(|number| format!("model-0000{number}-of-00002.safetensors"));
    let moved = "model.layers.0.post_attention_layernorm.weight";
    let mut stale = tiny.tensors.clone();
    stale.get_mut(moved).unwrap().2.fill(0);
    write_tensors(&file(&first), stale.iter());
    write_tensors(&file(&second), tiny.tensors.iter().filter(|(name, _)| *name == moved));
    let place = |name: &String| (name.clone(), if name == moved { &second } else { &first }.clone());
    let map: BTreeMap<String, String> = tiny.tensors.keys().map(place).collect();
    fs::write(file("model.safetensors.index.json"), json!({ "weight_map": map }).to_string()).unwrap();
    assert_warns(&tiny.generate_from(&folder, &[]), TEXT, "these copies are ignored");
    fs::remove_file(file("model.safetensors.index.json")).unwrap();
    let args = ["generate", &folder, "--prompt-ids", "1", "--target", "cpu"];
    tiny.sandbox.fails(&args, 3, "in several shards: expected an index");
    write_tensors(&file(&first), tiny.tensors.iter().filter(|(name, _)| *name != moved));
    assert_warns(
        &tiny.generate_from(&folder, &[]),
        TEXT,
        "no model.safetensors.index.json: all tensors of the 2 shards",
    );
}

#[test]
fn a_window_that_no_sequence_reaches_is_none() {
    let tiny = Tiny::new().with("sliding_window", json!(16));
    let folder = tiny.write();
    assert_warns(&tiny.generate(&[]), TEXT, "sequences have at most 16 tokens: longer ones would need the sliding");
    assert_eq!(tiny.generate(&["--max-seq-len", "12"]), (TEXT.to_owned(), Vec::new()));
    let compile = ["compile", &folder, "--dry-run", "--target", "cpu"];
    let output = tiny.sandbox.run(&[&compile[..], &["--max-seq-len", "12"]].concat());
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains("note: the sliding window of 16 tokens is never reached"), "{errors}");
    for more in [&["--max-seq-len", "17"][..], &["--max-input-len", "16", "--max-output-len", "1"]] {
        let said = "sequences of 17 tokens: the model has a sliding window of 16";
        tiny.sandbox.fails(&[&compile[..], more].concat(), 4, said);
        tiny.sandbox.fails(&[&compile[..], more].concat(), 4, "expected --max-seq-len 16 or less");
    }
    let report = tiny.sandbox.json(&[&compile[..], &["--json"]].concat());
    assert!(report["warnings"][0].as_str().unwrap().contains("at most 16 tokens"), "{report}");
}

#[test]
fn tensors_are_ignored_by_name() {
    let tiny = Tiny::new().add("mtp.layers.0.weight", &[2], 1.0).add("mtp.norm", &[2], 1.0);
    let folder = tiny.write();
    let generate = ["generate", &folder, "--prompt-ids", "1,5,9,12,3", "--max-tokens", "6", "--target", "cpu"];
    let fails = |more: &[&str], code, said| tiny.sandbox.fails(&[&generate[..], more].concat(), code, said);
    fails(&[], 3, "2: `mtp.layers.0.weight`, `mtp.norm`; --ignore-tensors NAME");
    fails(&["--ignore-tensors", "mtp.norm"], 3, "does not use, 1: `mtp.layers.0.weight`");
    fails(&["--ignore-tensors", "mtp.*", "--ignore-tensors", "medusa.*"], 2, "--ignore-tensors `medusa.*`: ");
    fails(
        &["--ignore-tensors", "mtp.*", "--ignore-tensors", "*.norm.weight"],
        2,
        "`model.norm.weight` cannot be ignored",
    );
    fails(&["--ignore-tensors", "mtp.*", "--weights", "dummy"], 2, "there is nothing to ignore");
    let ignored = ["--ignore-tensors", "mtp.norm", "--ignore-tensors", "mtp.layers.?.*"];
    // a cached plan is keyed by these options
    assert_eq!(tiny.sandbox.ok(&[&generate[..], &ignored, &["--ignore-eos"]].concat()), TEXT);
    fails(&[], 3, "--ignore-tensors NAME");
    let [plan, out] = ["x.plan", "quantized"].map(|name| tiny.sandbox.text(name));
    let report =
        tiny.sandbox.json(&[&["compile", &folder, "-o", &plan, "--target", "cpu", "--json"][..], &ignored].concat());
    assert!(report["config"].to_string().contains("[\"ignored_tensors\",\"mtp.norm,mtp.layers.?.*\"]"), "{report}");
    let quantize = ["quantize", &folder, "-o", &out, "--precision", "int8-weight"];
    tiny.sandbox.fails(&quantize, 3, "--ignore-tensors NAME");
    tiny.sandbox.ok(&[&quantize[..], &ignored].concat());
    assert!(tiny.sandbox.path("quantized/model.safetensors").is_file());
}

/// The demo model with an unknown key.
#[test]
fn every_command_says_what_the_importer_warns_of() {
    let sandbox = Sandbox::new();
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/demo");
    let folder = sandbox.text("model");
    fs::create_dir(&folder).unwrap();
    for name in ["model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
        fs::copy(demo.join(name), Path::new(&folder).join(name)).unwrap();
    }
    let mut config: Value = serde_json::from_slice(&fs::read(demo.join("config.json")).unwrap()).unwrap();
    config["attention_window_size"] = json!(64);
    fs::write(Path::new(&folder).join("config.json"), config.to_string()).unwrap();
    let text = sandbox.text("text.txt");
    fs::write(&text, "This function returns a `Result<T, E>` of the value that was read.").unwrap();
    let [plans, quantized, calibration] = ["plans", "quantized", "a.json"].map(|name| sandbox.text(name));
    let dir = folder.as_str();
    let generate = ["generate", dir, "--prompt", "This", "--max-tokens", "2", "--max-seq-len", "64"];
    let commands: [&[&str]; 9] = [
        &["compile", dir, "--dry-run", "--json"],
        &["build", "--model-dir", dir, "--output-dir", &plans],
        &generate,
        // from the cache
        &[&generate[..], &["--json"]].concat(),
        &[
            "bench",
            dir,
            "--prompt-len",
            "4",
            "--tokens",
            "2",
            "--repeat",
            "1",
            "--max-seq-len",
            "64",
            "--ceilings",
            "table",
        ],
        &["eval", dir, "--text", &text, "--max-seq-len", "64"],
        &["debug", "precision", dir, "--text", &text, "--precision", "int8-weight", "--max-seq-len", "64"],
        &["calibrate", dir, "--text", &text, "-o", &calibration, "--max-len", "8", "--samples", "1"],
        &["quantize", dir, "-o", &quantized, "--precision", "int8-weight"],
    ];
    for args in commands {
        let target: &[&str] = if args[0] == "quantize" { &[] } else { &["--target", "cpu"] };
        let output = sandbox.run(&[args, target].concat());
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        let said = warnings(&output.stderr);
        let once = matches!(&said[..], [warning] if warning.contains("`attention_window_size` is 64"));
        assert!(once, "{args:?}: {said:#?}");
    }
}
