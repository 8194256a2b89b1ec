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
    sandbox.fails(&["generate", DEMO, "--prompt-file", &sandbox.text("none")], 3, "none: No such file");
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
