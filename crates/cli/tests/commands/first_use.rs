//! What somebody types in the first minutes: prompts from anywhere, names of the Hub, a wrong path; and what is said at
//! the end.

use std::io::Write;
use std::process::{Output, Stdio};

use crate::DEMO;
use crate::sandbox::Sandbox;

/// Runs a command with this on stdin.
fn with_stdin(sandbox: &Sandbox, args: &[&str], input: &[u8]) -> Output {
    let mut command = sandbox.command(args);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // a command that fails early does not read it
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn a_prompt_begins_with_anything() {
    let sandbox = Sandbox::new();
    for prompt in ["- a list", "--help me", "--max_tokens", "-n", "-"] {
        let args = ["generate", DEMO, "-n", "4", "--json", "--prompt"];
        let report = sandbox.json(&[&args[..], &[prompt]].concat());
        let other = with_stdin(&sandbox, &["generate", DEMO, "-n", "4", "--json"], prompt.as_bytes());
        let other: serde_json::Value = serde_json::from_slice(&other.stdout).unwrap();
        assert_eq!(report["prompt_ids"], other["prompt_ids"], "{prompt}");
        assert_eq!(report["token_ids"].as_array().unwrap().len(), 4);
    }
}

#[test]
fn a_prompt_comes_from_a_file_or_a_pipe() {
    let sandbox = Sandbox::new();
    let file = sandbox.text("prompt.txt");
    std::fs::write(&file, "If the vector\r\n").unwrap();
    let expected = sandbox.ok(&["generate", DEMO, "-n", "5", "-p", "If the vector"]);
    assert_eq!(sandbox.ok(&["generate", DEMO, "-n", "5", "--prompt-file", &file]), expected);
    for (args, input) in [
        (&["generate", DEMO, "-n", "5"][..], "If the vector\n"),
        (&["generate", DEMO, "-n", "5", "--prompt-file", "-"], "If the vector"),
    ] {
        let output = with_stdin(&sandbox, args, input.as_bytes());
        assert_eq!(text(&output.stdout), expected);
    }
    // what is not a prompt
    for (input, message) in [(&b"\n"[..], "stdin: the prompt is empty"), (b"\xff", "stdin: the prompt is not UTF-8")] {
        let output = with_stdin(&sandbox, &["generate", DEMO], input);
        assert!(output.status.code() == Some(3) && text(&output.stderr).contains(message), "{output:?}");
    }
    sandbox.fails(&["generate", DEMO, "-p", "a", "--prompt-file", &file], 2, "cannot be used with");
    sandbox.fails(&["generate", DEMO, "--prompt-file", &sandbox.text("none")], 3, "--prompt-file ");
}

#[test]
fn the_end_says_what_it_took_and_why_it_came() {
    let sandbox = Sandbox::new();
    let plan = |name: &str, options: &[&str]| {
        let plan = sandbox.text(name);
        let args = ["compile", DEMO, "-o", &plan, "--target", "cpu", "--max-batch-size", "1"];
        sandbox.ok(&[&args[..], options].concat());
        plan
    };
    let (short, small) = (plan("short.plan", &["--max-seq-len", "16"]), plan("small.plan", &["--kv-cache", "400KiB"]));
    let said = |args: &[&str]| {
        let output = sandbox.run(&[&["generate"][..], args].concat());
        assert!(output.status.success(), "{output:?}");
        text(&output.stderr).lines().last().unwrap().to_owned()
    };
    let end = said(&[DEMO, "-n", "4", "-p", "If the"]);
    assert!(end.starts_with("3 prompt tokens, 4 generated: the first after ") && end.contains(" ms, then "), "{end}");
    assert!(end.contains("tokens/s; ended by --max-tokens; target ") && end.ends_with(')'), "{end}");
    let end = said(&[DEMO, "-n", "4", "-p", "If the", "--target", "cpu"]);
    assert!(end.ends_with("tokens/s; ended by --max-tokens"), "{end}");
    assert!(said(&[&short, "--prompt-ids", "0,5,6"]).ends_with("longest sequence, 16 tokens (--max-seq-len)"));
    let end = said(&[&small, "--prompt-ids", "0,5", "--ignore-eos"]);
    assert!(end.starts_with("2 prompt tokens, 126 generated") && end.ends_with("128 tokens (--kv-cache)"), "{end}");
    // one token has no rate
    assert!(!said(&[DEMO, "-n", "1", "-p", "If"]).contains("tokens/s"));
    let json = sandbox.run(&["generate", DEMO, "-n", "1", "-p", "If", "--json"]);
    assert!(json.stderr.is_empty(), "{json:?}");
    // a prompt that fills the plan
    let ids = (0..16).map(|id| id.to_string()).collect::<Vec<_>>().join(",");
    sandbox.fails(&["generate", &short, "--prompt-ids", &ids], 3, "are 17, the plan allows 16");
    let line = format!("{{\"prompt_ids\": [{ids}]}}");
    let output = with_stdin(&sandbox, &["generate", &short, "--prompts", "-"], line.as_bytes());
    assert!(
        output.status.code() == Some(3) && text(&output.stdout).contains("are 17, the plan allows 16"),
        "{output:?}"
    );
}

#[test]
fn a_path_that_is_not_there_is_said_to_be() {
    let sandbox = Sandbox::new();
    let (plan, other) = (sandbox.text("no-such.plan"), sandbox.text("demos"));
    std::fs::create_dir(sandbox.path("demo")).unwrap();
    for command in ["generate", "bench", "eval"] {
        let more: &[&str] = if command == "eval" { &["--text", "README.md"] } else { &["--max-batch-size", "2"] };
        let more = if command == "generate" { &["-p", "If"] } else { more };
        sandbox.fails(&[&[command, &plan][..], more].concat(), 3, "no-such.plan: there is no such plan");
        sandbox.fails(&[&[command, &other][..], more].concat(), 3, "there is no such file or directory (did you mean");
    }
    for command in [&["inspect"][..], &["plan", "dump"]] {
        sandbox.fails(&[command, &[&plan]].concat(), 3, "no-such.plan: there is no such plan");
    }
    let out = sandbox.text("x.plan");
    sandbox.fails(&["compile", "models/dmo", "-o", &out], 3, "(did you mean `models/demo`?)");
    // a file of a checkpoint stands for its directory
    let expected = sandbox.ok(&["generate", DEMO, "-n", "3", "-p", "If"]);
    for file in ["models/demo/config.json", "models/demo/model.safetensors", "models/demo/tokenizer.json"] {
        assert_eq!(sandbox.ok(&["generate", file, "-n", "3", "-p", "If", "--target", "cpu"]), expected);
        sandbox.ok(&["compile", file, "--dry-run", "--target", "cpu"]);
    }
}

#[test]
fn a_name_of_the_hub_is_looked_for_in_its_cache() {
    let sandbox = Sandbox::new();
    let hub = sandbox.path("hub");
    let repository = hub.join("models--some-one--demo_1.0");
    let commit = "0123456789abcdef";
    let snapshot = repository.join("snapshots").join(commit);
    std::fs::create_dir_all(&snapshot).unwrap();
    std::fs::create_dir_all(repository.join("refs")).unwrap();
    let run = |variable: &str, value: &std::path::Path, name: &str| {
        let mut command = sandbox.command(&["generate", name, "-n", "3", "-p", "If", "--target", "cpu"]);
        for name in ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"] {
            command.env_remove(name);
        }
        command.env(variable, value).output().unwrap()
    };
    let missing = |output: Output, help: &str| {
        let errors = text(&output.stderr).to_owned();
        assert!(output.status.code() == Some(3) && errors.contains("there is no such directory"), "{errors}");
        assert!(errors.contains(help), "{errors}");
    };
    // downloaded in part
    missing(run("HF_HUB_CACHE", &hub, "some-one/demo_1.0"), "hf download some-one/demo_1.0\n");
    for entry in std::fs::read_dir(sandbox.root().join(DEMO)).unwrap().map(Result::unwrap) {
        let target = entry.path().canonicalize().unwrap();
        #[cfg(unix)]
        std::os::unix::fs::symlink(target, snapshot.join(entry.file_name())).unwrap();
    }
    std::fs::write(repository.join("refs/main"), format!("{commit}\n")).unwrap();
    let expected = sandbox.ok(&["generate", DEMO, "-n", "3", "-p", "If", "--target", "cpu"]);
    let home = sandbox.folder();
    for (variable, value) in [("HF_HUB_CACHE", hub.as_path()), ("HF_HOME", home)] {
        let output = run(variable, value, "some-one/demo_1.0");
        assert_eq!(text(&output.stdout), expected, "{variable}: {output:?}");
        assert!(text(&output.stderr).contains("note: some-one/demo_1.0 is "), "{output:?}");
    }
    assert_eq!(text(&run("HF_HUB_CACHE", &hub, &format!("some-one/demo_1.0@{commit}")).stdout), expected);
    missing(run("HF_HUB_CACHE", &hub, "some-one/demo_1.0@v2"), "hf download some-one/demo_1.0 --revision v2");
    missing(run("HF_HUB_CACHE", &hub, "some-one/other"), "hf download some-one/other");
}

#[test]
fn a_compilation_says_why_its_target_and_whether_it_fits() {
    let sandbox = Sandbox::new();
    let table = sandbox.ok(&["compile", DEMO, "--dry-run"]);
    let row = |name: &str| table.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
    assert!(row("target").contains('('), "{table}");
    assert!(row("memory").contains(" of "), "{table}");
    let shape = "bench/configs/llama-3.1-8b";
    let args = ["compile", shape, "--weights", "dummy", "--dry-run", "--target", "h200", "--max-batch-size", "256"];
    let report = sandbox.json(&[&args[..], &["--max-seq-len", "32768", "--json"]].concat());
    let parts = ["weight_bytes", "kv_bytes", "workspace_bytes"].map(|name| report[name].as_u64().unwrap());
    assert_eq!(report["memory_bytes"], parts.iter().sum::<u64>());
    assert_eq!((&report["target"], &report["target_reason"]), (&"sm_90a".into(), &serde_json::Value::Null));
    let table = sandbox.ok(&[&args[..], &["--max-seq-len", "32768"]].concat());
    assert!(table.contains("MORE than the "), "{table}");
    // before the checkpoint is looked at
    let out = sandbox.text("x.plan");
    sandbox.fails(&["compile", DEMO, "-o", &out, "--target", "sm_80"], 4, "unknown target `sm_80`");
    let mut command = sandbox.command(&["compile", DEMO, "-o", &out, "--target", "gpu"]);
    // no NVRTC is there
    let output =
        command.env("SMELT_CUDA_HOME", sandbox.folder()).env("PATH", "").env("CUDA_HOME", "").output().unwrap();
    if !output.status.success() {
        let errors = text(&output.stderr);
        assert!(
            output.status.code() == Some(5) && errors.starts_with("  × compiling for a GPU requires NVRTC"),
            "{errors}"
        );
        // texts that need none are written nevertheless
        let dump = sandbox.text("dump");
        let texts = ["--target", "gpu", "--emit", "ir,kernels,cuda", "--dump-dir", &dump];
        let mut command = sandbox.command(&[&["compile", DEMO, "-o", &out][..], &texts].concat());
        let command = command.env("SMELT_CUDA_HOME", sandbox.folder()).env("PATH", "").env("CUDA_HOME", "");
        assert_eq!(command.output().unwrap().status.code(), Some(5));
        let files: Vec<_> = std::fs::read_dir(sandbox.path("dump")).unwrap().map(|file| file.unwrap().path()).collect();
        let has = |ending: &str| files.iter().any(|file| file.to_str().unwrap().ends_with(ending));
        assert!(has("graph.ir") && has("kernels.txt") && has(".cu") && !sandbox.path("x.plan").exists(), "{files:?}");
    }
}

#[test]
fn names_of_other_tools_are_understood_or_answered() {
    let sandbox = Sandbox::new();
    let dry = |format: &str| sandbox.json(&["compile", DEMO, "--dry-run", "--json", "--precision", format]);
    for (other, own) in [("w8a16", "int8-weight"), ("fp8_e4m3", "fp8"), ("W4A16", "int4"), ("half", "f16")] {
        assert_eq!(dry(other)["weight_bytes"], dry(own)["weight_bytes"], "{other}");
    }
    sandbox.fails(
        &["compile", DEMO, "--dry-run", "--precision", "int8"],
        2,
        "(did you mean `int8-weight` (weights alone)",
    );
    sandbox.fails(&["compile", DEMO, "--dry-run", "--precision", "awq"], 2, "int4-awq requires a calibration");
    let engine = sandbox.text("engine");
    let build = |more: &[&str]| sandbox.run(&[&["build", DEMO, "-o", &engine, "--target", "cpu"], more].concat());
    let output = build(&[
        "--gemm_plugin",
        "auto",
        "--tp_size=1",
        "--workers",
        "4",
        "--kv_cache_type",
        "paged",
        "--context_fmha",
    ]);
    let errors = text(&output.stderr);
    assert!(output.status.success() && errors.matches("note: --").count() == 5, "{errors}");
    assert!(sandbox.path("engine/model.plan").exists());
    for (more, message) in [
        (&["--tp_size", "2"][..], "--tp-size 2: a plan runs on one GPU, expected --tp-size 1"),
        (&["--qformat", "int4_awq"], "--qformat does not exist here: write --precision"),
        (&["--use_weight_only"], "write --precision int8-weight or int4"),
        (&["--int8_kv_cache"], "write --kv-precision"),
        (&["--max_beam_width", "4"], "a plan has no beams"),
    ] {
        let output = build(more);
        assert!(output.status.code() == Some(2) && text(&output.stderr).contains(message), "{output:?}");
    }
    // a file, and the older spelling
    let file = sandbox.text("other.plan");
    let report = sandbox.json(&["build", "--model_dir", DEMO, "--output_dir", &file, "--target", "cpu", "--json"]);
    assert_eq!(report["plan_bytes"], std::fs::metadata(&file).unwrap().len());
}

#[test]
fn programs_read_json_and_nothing_else() {
    let sandbox = Sandbox::new();
    let (file, plan) = (sandbox.text("x.ir"), sandbox.text("x.plan"));
    let graph = "graph @g<T in 1..8>(%x: f32[T, 4]) {\n  %y = silu %x : f32[T, 4]\n  return %y\n}\n";
    std::fs::write(&file, graph).unwrap();
    sandbox.ok(&["compile", DEMO, "-o", &plan, "--target", "cpu"]);
    let words = sandbox.text("words.txt");
    std::fs::write(&words, "If the vector is empty, then the function returns nothing.").unwrap();
    for args in [
        &["opt", &file][..],
        &["plan", "dump", &plan],
        &["inspect", &plan],
        &["compile", DEMO, "--dry-run"],
        &["generate", DEMO, "-n", "2", "-p", "If"],
        &["eval", DEMO, "--text", &words],
        &["debug", "precision", DEMO, "--precision", "fp8", "--text", &words],
    ] {
        let output = sandbox.run(&[args, &["--json"]].concat());
        assert!(output.status.success() && output.stderr.is_empty(), "{args:?}: {output:?}");
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report["schema_version"], 1, "{args:?}");
    }
    let report = sandbox.json(&["opt", &file, "--json"]);
    assert!(report["graph"].as_str().unwrap().starts_with("graph @g") && report["passes"][0]["name"].is_string());
    // and errors
    for (args, code, kind) in [
        (&["generate", "no.plan", "-p", "x"][..], 3, "bad_input"),
        (&["compile", DEMO, "--dry-run", "--target", "tpu"], 4, "unsupported"),
        (&["generate", DEMO, "--no-such-option"], 2, "usage"),
    ] {
        let output = sandbox.run(&[args, &["--json"]].concat());
        let error: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
        assert!(output.stdout.is_empty() && output.status.code() == Some(code), "{output:?}");
        assert_eq!((&error["error"]["kind"], &error["error"]["exit_code"]), (&kind.into(), &code.into()), "{error}");
        assert!(!error["error"]["message"].as_str().unwrap().contains('\n'), "{error}");
    }
}

#[test]
fn the_program_explains_itself() {
    let sandbox = Sandbox::new();
    assert!(sandbox.ok(&[]).contains("Usage: smelt"));
    let version = sandbox.ok(&["--version"]);
    assert!(version.starts_with("smelt ") && version.contains("plan format 3\ntargets cpu, sm_90a"), "{version}");
    assert_eq!(sandbox.ok(&["-V"]).lines().count(), 1);
    let page = sandbox.ok(&["man"]);
    assert!(page.contains(".SH \"SMELT GENERATE\"") && page.contains("max\\-tokens"), "{page}");
    for shell in ["bash", "zsh", "fish"] {
        let script = sandbox.ok(&["completions", shell]);
        for value in ["int4-awq", "sm_90a", "fuse-silu-mul", "h200", "sass-report", "ir-after-change"] {
            assert!(script.contains(value), "{shell}: {value}");
        }
    }
}

#[test]
fn a_crate_with_a_pass_is_the_example_under_another_name() {
    let sandbox = Sandbox::new();
    let place = sandbox.text("mine");
    let said = sandbox.ok(&["new-pass", "fuse-my-gate", "--path", &place]);
    assert!(said.contains("cargo test"), "{said}");
    let read = |path: &str| std::fs::read_to_string(sandbox.path("mine").join(path)).unwrap();
    let example = sandbox.root().join("examples/new-pass");
    for path in ["src/lib.rs", "src/main.rs", "src/pass.rs", "tests/cases.rs", "cases/fires.ir", "cases/fires.snap"] {
        let of_example = std::fs::read_to_string(example.join(path)).unwrap();
        let renamed = [("new-pass", "fuse-my-gate"), ("new_pass", "fuse_my_gate"), ("NewPass", "FuseMyGate")];
        let expected = renamed.iter().fold(of_example, |text, (old, new)| text.replace(old, new));
        assert_eq!(read(path), expected, "{path}");
    }
    // every file of the example is written
    let cases = |folder: &std::path::Path| std::fs::read_dir(folder.join("cases")).unwrap().count();
    assert_eq!(cases(&sandbox.path("mine")), cases(&example));
    let manifest = read("Cargo.toml");
    assert!(
        manifest.contains("name = \"fuse-my-gate\"") && manifest.contains("[profile.dev.package.runtime]"),
        "{manifest}"
    );
    for line in manifest.lines().filter(|line| line.contains("path = ")) {
        let path = line.split('"').nth(1).unwrap();
        assert!(std::path::Path::new(path).join("Cargo.toml").is_file(), "{line}");
    }
    let root = sandbox.root();
    assert_eq!(read("Cargo.lock"), std::fs::read_to_string(root.join("Cargo.lock")).unwrap());
    sandbox.fails(&["new-pass", "fuse-my-gate", "--path", &place], 2, "exists already");
    sandbox.fails(&["new-pass", "fuse-silu-mul", "--path", &place], 2, "there is a pass `fuse-silu-mul` already");
    let elsewhere = sandbox.text("none");
    let args = ["new-pass", "b", "--path", &elsewhere, "--smelt", &place];
    sandbox.fails(&args, 3, "is not a checkout of smelt");
}
