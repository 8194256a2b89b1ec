//! `generate --prompts`: many prompts from a file or a pipe.

use std::io::Write;
use std::process::{Output, Stdio};

use serde_json::{Value, json};

use crate::MHA;
use crate::sandbox::Sandbox;

/// The answers to lines that come through a pipe.
fn piped(sandbox: &Sandbox, lines: &str, more: &[&str]) -> Output {
    let args = [&["generate", MHA, "--prompts", "-", "--max-tokens", "6"][..], more].concat();
    let mut command = sandbox.command(&args);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn answers(output: &Output) -> Vec<Value> {
    String::from_utf8_lossy(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn each_prompt_of_a_file_gets_what_it_gets_alone() {
    let sandbox = Sandbox::new();
    let prompts: Vec<Vec<u32>> =
        (0..20u32).map(|at| (0..1 + at * 9).map(|id| 3 + (id * 7 + at / 5) % 300).collect()).collect();
    let lines = prompts.iter().enumerate().map(|(at, ids)| {
        let line = json!({ "prompt_ids": ids, "max_tokens": 3 + at % 5, "priority": at % 3, "id": { "n": at } });
        format!("{line}\n")
    });
    std::fs::write(sandbox.path("prompts.jsonl"), lines.collect::<String>() + "\n  \n").unwrap();
    let file = sandbox.text("prompts.jsonl");
    let args = ["generate", MHA, "--prompts", &file, "--ignore-eos", "--max-batch-size", "3", "--stats"];
    let output = sandbox.run(&args);
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains(" preemptions; "), "{output:?}");
    let found = answers(&output);
    assert_eq!(
        found.iter().map(|answer| answer["index"].as_u64().unwrap()).collect::<Vec<_>>(),
        (0..20).collect::<Vec<_>>()
    );
    for at in [0, 7, 19] {
        let ids = prompts[at].iter().map(u32::to_string).collect::<Vec<_>>().join(",");
        let most = (3 + at % 5).to_string();
        let alone =
            sandbox.json(&["generate", MHA, "--prompt-ids", &ids, "--max-tokens", &most, "--ignore-eos", "--json"]);
        for key in ["prompt_ids", "token_ids", "text", "finish_reason"] {
            assert_eq!(found[at][key], alone[key], "{key} of prompt {at}");
        }
        assert_eq!(found[at]["id"], json!({ "n": at }));
        assert!(found[at]["timings"]["decode_ms"].is_f64() && found[at].get("error").is_none());
    }
    let mut other = answers(
        &sandbox.run(&[&args[..], &["--unordered", "--no-prefix-cache", "--policy=guaranteed-no-evict"]].concat()),
    );
    other.sort_by_key(|answer| answer["index"].as_u64());
    assert!(found.iter().zip(&other).all(|(one, other)| one["token_ids"] == other["token_ids"]));
}

#[test]
fn a_line_that_is_wrong_is_named() {
    let sandbox = Sandbox::new();
    let good = "{\"prompt_ids\": [5, 6, 7]}\n";
    for (line, says) in [
        ("{\"prompt_ids\": [5", "line 2: EOF while parsing a list at column 17"),
        ("[5, 6]", "line 2: invalid"),
        ("{\"max_tokens\": 3}", "line 2: expected either `prompt` or `prompt_ids`"),
        ("{\"prompt\": \"a\", \"prompt_ids\": [5]}", "line 2: expected either"),
        ("{\"prompt_ids\": [5], \"temperature\": 1}", "line 2: unknown field `temperature`"),
        ("{\"prompt_ids\": [5], \"priority\": 8}", "line 2: priority 8 does not exist"),
        ("{\"prompt_ids\": [-5]}", "line 2: invalid value"),
        (&format!("{{\"prompt\": \"{}\"}}", "a".repeat(4 << 20)), "line 2: it is longer than 4 MiB"),
    ] {
        let text = format!("{good}{line}\n{good}");
        std::fs::write(sandbox.path("prompts.jsonl"), &text).unwrap();
        let output = sandbox.run(&["generate", MHA, "--prompts", &sandbox.text("prompts.jsonl"), "--max-tokens", "6"]);
        // a file is read to its end before anything runs, what came through a pipe has been answered
        assert_eq!((output.status.code(), output.stdout.len()), (Some(3), 0), "{says}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(says), "{output:?}");
        let output = piped(&sandbox, &text, &[]);
        assert_eq!((output.status.code(), answers(&output).len()), (Some(3), 1), "{says}: {output:?}");
    }
    let output = piped(&sandbox, "", &[]);
    assert!(output.status.success() && output.stdout.is_empty());
}

#[test]
fn a_prompt_that_fails_fails_alone() {
    let sandbox = Sandbox::new();
    let long: Vec<u32> = vec![5; 600];
    let lines = format!(
        "{}\n{}\n{}\n{}\n",
        json!({ "prompt_ids": [5, 6, 7] }),
        json!({ "prompt_ids": [], "id": 1 }),
        json!({ "prompt_ids": long }),
        json!({ "prompt": "no tokenizer" }),
    );
    let output = piped(&sandbox, &lines, &[]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("3 of 4 prompts failed"), "{output:?}");
    let found = answers(&output);
    assert_eq!(found[0]["token_ids"].as_array().unwrap().len(), 6);
    for (at, says) in [(1, "the prompt is empty"), (2, "600 tokens"), (3, "tokenizer.json")] {
        assert_eq!(found[at]["finish_reason"], "error");
        assert!(found[at]["error"].as_str().unwrap().contains(says), "{}", found[at]);
    }
    assert_eq!(found[1]["id"], 1);
}
