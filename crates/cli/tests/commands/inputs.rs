//! Inputs that are not files, are too large, change or are truncated while they are read: one error each, exit code 3,
//! at once.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Map, json};

use crate::DEMO;
use crate::sandbox::Sandbox;

/// The output of a command that must end in time.
fn output(mut command: Command) -> Output {
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    finish(child, &format!("{command:?}"))
}

fn finish(mut child: Child, what: &str) -> Output {
    let start = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if start.elapsed() > Duration::from_secs(60) {
            child.kill().unwrap();
            panic!("{what} does not end");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.wait_with_output().unwrap()
}

/// Asserts that a command is refused as bad input, with these words in its one error.
fn refused(command: Command, words: &[&str]) {
    let what = format!("{command:?}");
    let output = output(command);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{what}: {errors}");
    for word in words {
        assert!(errors.contains(word), "{what}: expected `{word}` in: {errors}");
    }
    assert!(!errors.contains("panicked"), "{what}: {errors}");
}

/// Creates something that is not a file.
type Special = (&'static str, fn(&Path));

fn fifo(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

fn zero(path: &Path) {
    symlink("/dev/zero", path).unwrap();
}

fn folder(path: &Path) {
    fs::create_dir(path).unwrap();
}

const SPECIAL: [Special; 3] = [("a pipe", fifo), ("a device or a socket", zero), ("a directory", folder)];

/// The demo model, as links to its files.
fn demo(sandbox: &Sandbox) -> PathBuf {
    let place = sandbox.path("demo");
    fs::create_dir(&place).unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(DEMO).canonicalize().unwrap();
    for name in
        ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"]
    {
        symlink(root.join(name), place.join(name)).unwrap();
    }
    place
}

const DRY: [&str; 6] = ["--dry-run", "--no-cache", "--max-seq-len", "64", "--target", "cpu"];

fn compile(sandbox: &Sandbox, model: &Path) -> Command {
    sandbox.command(&[&["compile", model.to_str().unwrap()], &DRY[..]].concat())
}

#[test]
fn files_of_a_checkpoint_are_files() {
    let sandbox = Sandbox::new();
    let model = demo(&sandbox);
    for name in
        ["config.json", "tokenizer.json", "generation_config.json", "tokenizer_config.json", "model.safetensors"]
    {
        let (path, kept) = (model.join(name), sandbox.path("kept"));
        fs::rename(&path, &kept).unwrap();
        for (what, make) in SPECIAL {
            make(&path);
            refused(compile(&sandbox, &model), &[name, "is not a regular file", what]);
            if what == "a directory" { fs::remove_dir(&path) } else { fs::remove_file(&path) }.unwrap();
        }
        fs::rename(&kept, &path).unwrap();
    }
    fs::remove_file(model.join("model.safetensors")).unwrap();
    let index = model.join("model.safetensors.index.json");
    fifo(&index);
    refused(compile(&sandbox, &model), &["model.safetensors.index.json: is not a regular file: it is a pipe"]);
    fs::remove_file(&index).unwrap();
    fs::write(&index, json!({"weight_map": {"lm_head.weight": "a.safetensors"}}).to_string()).unwrap();
    fifo(&model.join("a.safetensors"));
    refused(compile(&sandbox, &model), &["a.safetensors: is not a regular file: it is a pipe"]);
}

#[test]
fn files_of_options_are_files() {
    let sandbox = Sandbox::new();
    for (what, make) in SPECIAL {
        let path = sandbox.path(&format!("{}.json", what.replace(' ', "-")));
        make(&path);
        let file = path.to_str().unwrap();
        for option in ["--rewrites", "--precision-map", "--timing-cache"] {
            let command = sandbox.command(&[&["compile", DEMO, option, file], &DRY[..]].concat());
            refused(command, &[file, "is not a regular file", what]);
        }
        let calibrated = ["compile", DEMO, "--calibration", file, "--precision", "int4-awq"];
        refused(sandbox.command(&[&calibrated, &DRY[..]].concat()), &[file, "is not a regular file", what]);
        refused(sandbox.command(&["inspect", file]), &[file, "is not a regular file", what]);
        let out = sandbox.text("out.json");
        if what == "a pipe" {
            // texts and graphs may come through a pipe with a writer
            let nobody = "is a pipe without a writer";
            refused(sandbox.command(&["opt", file]), &[file, nobody]);
            refused(sandbox.command(&["eval", DEMO, "--text", file]), &[file, nobody]);
            refused(sandbox.command(&["calibrate", DEMO, "--text", file, "-o", &out]), &[file, nobody]);
        } else {
            refused(sandbox.command(&["opt", file]), &[file, "is not a regular file, nor a pipe", what]);
            refused(
                sandbox.command(&["eval", DEMO, "--text", file]),
                &[file, "is not a regular file, nor a pipe", what],
            );
            let calibrate = sandbox.command(&["calibrate", DEMO, "--dataset", file, "-o", &out]);
            refused(calibrate, &[file, "is not a regular file, nor a pipe", what]);
            let plan = sandbox.path(&format!("{}.plan", what.replace(' ', "-")));
            fs::rename(&path, &plan).unwrap();
        }
    }
    let plan = sandbox.path("x.plan");
    fifo(&plan);
    for args in [&["inspect"][..], &["plan", "dump"], &["generate", "--prompt", "x"]] {
        let command = sandbox.command(&[args, &[plan.to_str().unwrap()]].concat());
        refused(command, &["x.plan: is not a regular file: it is a pipe"]);
    }
}

#[test]
fn a_graph_may_come_through_a_pipe() {
    let sandbox = Sandbox::new();
    let (pipe, graph) = (sandbox.path("graph.ir"), include_str!("../../../frontend/tests/import/one-layer.ir"));
    fifo(&pipe);
    let writer = {
        let pipe = pipe.clone();
        std::thread::spawn(move || File::options().write(true).open(pipe).unwrap().write_all(graph.as_bytes()).unwrap())
    };
    let piped = sandbox.ok(&["opt", pipe.to_str().unwrap()]);
    writer.join().unwrap();
    let path = sandbox.path("file.ir");
    fs::write(&path, graph).unwrap();
    assert_eq!(piped, sandbox.ok(&["opt", path.to_str().unwrap()]));
}

#[test]
fn texts_of_a_checkpoint_are_bounded() {
    let sandbox = Sandbox::new();
    let model = demo(&sandbox);
    let config = model.join("config.json");
    let text = fs::read(&config).unwrap();
    fs::remove_file(&config).unwrap();
    let mut padded = text.clone();
    padded.resize(1 << 20, b' ');
    fs::write(&config, &padded).unwrap();
    assert!(output(compile(&sandbox, &model)).status.success());
    padded.push(b' ');
    fs::write(&config, &padded).unwrap();
    refused(compile(&sandbox, &model), &["config.json: is too large, expected at most 1048576 bytes"]);
    let deep = format!("{{\"a\": {}0{}}}", "[".repeat(200), "]".repeat(200));
    fs::write(&config, deep).unwrap();
    refused(compile(&sandbox, &model), &["config.json: invalid JSON: recursion limit exceeded"]);
    fs::write(&config, &text).unwrap();
    let tokenizer = model.join("tokenizer.json");
    fs::remove_file(&tokenizer).unwrap();
    File::create(&tokenizer).unwrap().set_len((256 << 20) + 1).unwrap();
    refused(compile(&sandbox, &model), &["tokenizer.json: is too large"]);
}

/// A tokenizer whose parts contradict each other makes the library panic.
#[test]
fn a_panic_of_the_tokenizer_library_is_not_printed() {
    let sandbox = Sandbox::new();
    let model = demo(&sandbox);
    let path = model.join("tokenizer.json");
    let mut tokenizer: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    tokenizer["normalizer"] = json!({"type": "Precompiled", "precompiled_charsmap": "!"});
    fs::remove_file(&path).unwrap();
    fs::write(&path, tokenizer.to_string()).unwrap();
    refused(compile(&sandbox, &model), &["bad tokenizer: its parts contradict each other"]);
}

/// A checkpoint of zeros that takes a while to compile: 67 MB.
fn large(sandbox: &Sandbox) -> PathBuf {
    const HIDDEN: usize = 512;
    const INNER: usize = 2048;
    let folder = sandbox.path("large");
    fs::create_dir(&folder).unwrap();
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": INNER,
        "num_hidden_layers": 8, "num_attention_heads": 8, "num_key_value_heads": 8, "vocab_size": 256,
        "max_position_embeddings": 4096, "torch_dtype": "bfloat16", "rms_norm_eps": 1e-5, "hidden_act": "silu",
        "tie_word_embeddings": true,
    });
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let mut tensors =
        vec![("model.embed_tokens".to_owned(), vec![256, HIDDEN]), ("model.norm".to_owned(), vec![HIDDEN])];
    for layer in 0..8 {
        let mut add =
            |name: &str, shape: &[usize]| tensors.push((format!("model.layers.{layer}.{name}"), shape.to_vec()));
        ["q", "k", "v", "o"].iter().for_each(|name| add(&format!("self_attn.{name}_proj"), &[HIDDEN, HIDDEN]));
        ["gate", "up"].iter().for_each(|name| add(&format!("mlp.{name}_proj"), &[INNER, HIDDEN]));
        add("mlp.down_proj", &[HIDDEN, INNER]);
        ["input_layernorm", "post_attention_layernorm"].iter().for_each(|name| add(name, &[HIDDEN]));
    }
    let (mut header, mut end) = (Map::new(), 0);
    for (name, shape) in tensors {
        let start = end;
        end += 2 * shape.iter().product::<usize>();
        let entry = json!({"dtype": "BF16", "shape": shape, "data_offsets": [start, end]});
        header.insert(format!("{name}.weight"), entry);
    }
    let header = serde_json::Value::from(header).to_string();
    let mut file = File::create(folder.join("model.safetensors")).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    file.set_len((8 + header.len() + end) as u64).unwrap();
    folder
}

/// Compiles and calls a function as soon as the plan is started.
fn compile_while(sandbox: &Sandbox, model: &Path, change: impl FnOnce()) -> Output {
    let out = sandbox.path("out");
    fs::create_dir_all(&out).unwrap();
    let plan = out.join("x.plan");
    let args = ["compile", model.to_str().unwrap(), "-o", plan.to_str().unwrap(), "--no-cache", "--target", "cpu"];
    let mut command = sandbox.command(&[&args[..], &["--max-seq-len", "4096", "--max-batch-size", "1"]].concat());
    let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let start = Instant::now();
    while fs::read_dir(&out).unwrap().next().is_none() && start.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(1));
    }
    change();
    finish(child, "compile")
}

fn assert_ended(output: &Output, message: &str) {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{:?}: {errors}", output.status);
    assert!(errors.contains(message), "expected `{message}` in: {errors}");
}

#[test]
fn a_checkpoint_that_changes_meanwhile_gives_no_plan() {
    let sandbox = Sandbox::new();
    let model = large(&sandbox);
    let weights = model.join("model.safetensors");
    let config = model.join("config.json");
    let cut = compile_while(&sandbox, &model, || {
        File::options().write(true).open(&weights).unwrap().set_len(100_000).unwrap()
    });
    assert_ended(&cut, "model.safetensors: was truncated while it was read");
    assert_eq!(fs::read_dir(sandbox.path("out")).unwrap().count(), 0);

    fs::remove_dir_all(&model).unwrap();
    large(&sandbox);
    let rewrite = || {
        let file = File::options().write(true).open(&weights).unwrap();
        let modified = file.metadata().unwrap().modified().unwrap();
        file.write_all_at(&[1], 50_000_000).unwrap();
        file.set_modified(modified).unwrap();
    };
    let rewritten = compile_while(&sandbox, &model, rewrite);
    assert_ended(&rewritten, "model.safetensors: was changed while it was read");
    let text = fs::read(&config).unwrap();
    let rewritten = compile_while(&sandbox, &model, || fs::write(&config, text).unwrap());
    assert_ended(&rewritten, "config.json: was changed while it was read");
    assert_eq!(fs::read_dir(sandbox.path("out")).unwrap().count(), 0);
    assert!(compile_while(&sandbox, &model, || {}).status.success());
}

/// Generates from a plan and calls a function at the first token.
fn generate_while(sandbox: &Sandbox, plan: &Path, change: impl FnOnce()) -> Output {
    let args = ["generate", plan.to_str().unwrap(), "--prompt-ids", "1,2,3", "--max-tokens", "4000", "--ignore-eos"];
    let mut child = sandbox.command(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut [0]).unwrap();
    change();
    let rest = std::thread::spawn(move || stdout.read_to_end(&mut Vec::new()));
    let output = finish(child, "generate");
    rest.join().unwrap().unwrap();
    output
}

#[test]
fn a_plan_that_changes_while_it_runs_ends_the_run() {
    let sandbox = Sandbox::new();
    let model = large(&sandbox);
    assert!(compile_while(&sandbox, &model, || {}).status.success());
    let plan = sandbox.path("out/x.plan");
    let same = || {
        let file = File::options().write(true).open(&plan).unwrap();
        file.write_all_at(&[1], 10_000_000).unwrap();
    };
    assert_ended(&generate_while(&sandbox, &plan, same), "x.plan: was changed while it was read");
    fs::remove_file(&plan).unwrap();
    assert!(compile_while(&sandbox, &model, || {}).status.success());
    let cut = || File::options().write(true).open(&plan).unwrap().set_len(5000).unwrap();
    assert_ended(&generate_while(&sandbox, &plan, cut), "x.plan: was ");
}

#[test]
fn the_cache_knows_its_plans() {
    let sandbox = Sandbox::new();
    let model = demo(&sandbox);
    let path = model.join("config.json");
    let text = fs::read(&path).unwrap();
    fs::remove_file(&path).unwrap();
    fs::write(&path, &text).unwrap();
    let generate = |model: &Path| {
        let args = ["generate", model.to_str().unwrap(), "--target", "cpu", "--max-seq-len", "64", "--prompt", "The"];
        let output = output(sandbox.command(&[&args[..], &["--max-tokens", "4"]].concat()));
        let texts = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
        (output.status.code(), texts)
    };
    let plans = || {
        let files = fs::read_dir(sandbox.path("cache")).unwrap().map(|entry| entry.unwrap().path());
        files.filter(|path| path.extension().is_some_and(|end| end == "plan")).collect::<Vec<_>>()
    };
    let (code, [said, _]) = generate(&model);
    assert_eq!((code, plans().len()), (Some(0), 1));

    // another plan in its place: a valid one, from other inputs
    let plan = plans().remove(0);
    let own = fs::read(&plan).unwrap();
    let args = ["compile", DEMO, "-o", plan.to_str().unwrap(), "--target", "cpu", "--max-seq-len", "64", "--no-cache"];
    sandbox.ok(&args);
    let foreign = fs::read(&plan).unwrap();
    assert_ne!(foreign, own);
    let (code, [again, errors]) = generate(&model);
    assert_eq!((code, again), (Some(0), said.clone()), "{errors}");
    assert!(errors.contains("was made from other inputs"), "{errors}");
    assert_eq!(fs::read(&plan).unwrap(), own);

    // a changed file with its old size and time
    let file = File::options().write(true).open(&path).unwrap();
    let modified = file.metadata().unwrap().modified().unwrap();
    file.write_all_at(&text, 0).unwrap();
    file.set_modified(modified).unwrap();
    assert_eq!(generate(&model).0, Some(0));
    assert_eq!(plans().len(), 2);

    // only regular files are read or replaced
    for plan in plans() {
        fs::remove_file(&plan).unwrap();
        fifo(&plan);
    }
    let (code, [_, errors]) = generate(&model);
    assert_eq!(code, Some(3), "{errors}");
    assert!(errors.contains("regular file"), "{errors}");
}
