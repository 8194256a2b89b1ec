//! Output to terminals: names from a stranger cannot control a terminal, and options out of range state their range.

use crate::MHA;
use crate::sandbox::Sandbox;

/// Sets the title of a terminal, clears it, reverses the text.
const HOSTILE: &str = "\u{1b}]0;owned\u{7}\u{1b}[2J\u{9b}31m\u{202e}\u{7f}\rx";

/// Control characters, except line feeds and tabs.
fn obeyed(text: &str) -> Vec<char> {
    let turns = |c: char| ('\u{202a}'..='\u{202e}').contains(&c) || ('\u{2066}'..='\u{2069}').contains(&c);
    text.chars().filter(|c| turns(*c) || c.is_control() && !matches!(c, '\n' | '\t')).collect()
}

#[test]
fn names_of_strangers_are_spelled_out() {
    let sandbox = Sandbox::new();
    let write = |name: &str, text: &str| {
        std::fs::write(sandbox.path(name), text).unwrap();
        sandbox.text(name)
    };
    let quoted = serde_json::Value::from(HOSTILE).to_string();
    let graph = |op: &str| format!("graph @g<T in 1..8>(%x: f32[T, 4]) {{\n  %y = {op} : f32[T, 4]\n  return %y\n}}\n");
    let word = write("word.ir", &graph(&format!("silu %x {HOSTILE}")));
    let key = write("key.ir", &graph(&format!("constant @\"{HOSTILE}\"")));
    let rules = write("a.rules", &format!("%x = silu {HOSTILE} => %x"));
    let map = write("map", &format!("layers.*.{HOSTILE} fp8"));
    let timings = write("timings.json", &format!("{{\"schema_version\": 1, \"timings\": [{{{quoted}: 1}}]}}"));
    let config = std::fs::read_to_string(sandbox.root().join(MHA).join("config.json")).unwrap();
    for (folder, config, index) in [
        ("type", config.replace("LlamaForCausalLM", "\\u001b[2JLlama\\u009bx\\u202e"), "{}".to_owned()),
        ("shard", config, format!("{{\"weight_map\": {{\"model.norm.weight\": {quoted}}}}}")),
    ] {
        std::fs::create_dir(sandbox.path(folder)).unwrap();
        write(&format!("{folder}/config.json"), &config);
        write(&format!("{folder}/model.safetensors.index.json"), &index);
    }
    let dry = |more: &[&str]| [&["compile", MHA, "--dry-run", "--target", "cpu"], more].concat().join("\n");
    let commands = [
        format!("opt\n{word}"),
        format!("opt\n{key}"),
        dry(&["--rewrites", &rules]),
        dry(&["--precision-map", &map]),
        dry(&["--timing-cache", &timings]),
        dry(&["--dtype", "\u{9b}31m"]),
        format!("compile\n{}\n--dry-run", sandbox.text("type")),
        format!("compile\n{}\n--dry-run", sandbox.text("shard")),
        format!("inspect\n{}", sandbox.text("no\u{1b}[2J.plan")),
    ];
    for command in commands {
        let args: Vec<&str> = command.split('\n').collect();
        let output = sandbox.run(&args);
        let printed = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(!output.status.success() && obeyed(&printed).is_empty(), "{command:?}: {printed:?}");
        let spelled = ["\\u{1b}", "\\u{9b}", "\\u001b"].iter().any(|escape| printed.contains(escape));
        assert!(spelled, "{command:?}: {printed}");
    }
}

/// The names of input files and of the configuration travel in plans.
#[test]
fn names_in_plans_are_spelled_out() {
    let sandbox = Sandbox::new();
    let (plan, rules) = (sandbox.text("x.plan"), sandbox.text("a\u{1b}[2J\u{9b}.rules"));
    std::fs::write(&rules, "").unwrap();
    sandbox.ok(&["compile", MHA, "-o", &plan, "--rewrites", &rules]);
    let report = sandbox.ok(&["inspect", &plan, "--json"]);
    assert!(obeyed(&report).is_empty() && report.contains("\\u001b[2J\\u009b.rules"), "{report}");
    assert!(sandbox.ok(&["inspect", &plan]).contains("a\\u{1b}[2J\\u{9b}.rules"));
    for args in [&["inspect", &plan][..], &["inspect", &plan, "--memory"], &["plan", "dump", &plan]] {
        assert!(obeyed(&sandbox.ok(args)).is_empty(), "{args:?}");
    }
}

/// A graph that was never legal is not the fault of the last pass.
#[test]
fn a_graph_that_no_pass_broke_is_not_supported() {
    let sandbox = Sandbox::new();
    let file = sandbox.text("twice.ir");
    let graph = "graph @g<T in 1..8>(%x: f32[T, 3], %y: f32[2 * T, 3]) {\n  %twice = concat %x, %x : f32[2 * T, 3]\n  \
                 %z = add %twice, %y : f32[2 * T, 3]\n  return %z\n}\n";
    std::fs::write(&file, graph).unwrap();
    let output = sandbox.command(&["opt", &file]).current_dir(sandbox.folder()).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{errors}");
    assert!(errors.contains("`%twice`: joins values of a step; only weights can be joined"), "{errors}");
    assert!(!errors.contains("bug") && !errors.contains("report"), "{errors}");
    assert_eq!(sandbox.files(), ["twice.ir"]);
}

#[test]
fn numbers_out_of_range_say_the_range() {
    let sandbox = Sandbox::new();
    let (compile, generate) = (["compile", MHA, "--dry-run"], ["generate", MHA, "--prompt-ids", "1"]);
    let calibrate = ["calibrate", MHA, "--text", "README.md", "-o", &sandbox.text("c.json")];
    let count = "from 1 to 4294967295";
    let huge = "99999999999999999999999";
    let cases: [(&[&str], &str, &str, &str); 18] = [
        (&generate, "--threads", "8000", "from 1 to 1024"),
        (&generate, "--threads", "0", "from 1 to 1024"),
        (&calibrate, "--threads", huge, "from 1 to 1024"),
        (&["doctor"], "--threads", "1025", "from 1 to 1024"),
        (&["bench", MHA], "--threads", "8000", "from 1 to 1024"),
        (&["eval", MHA, "--text", "README.md"], "--threads", "8000", "from 1 to 1024"),
        (&compile, "--workspace-size", "1.5", "expected whole bytes"),
        (&compile, "--kv-cache", "0.5b", "expected whole bytes"),
        (&compile, "--kv-cache", huge, "at most 18446744073709551615 bytes"),
        (&compile, "--kv-cache", "18446744073709551616", "at most 18446744073709551615 bytes"),
        (&compile, "--kv-cache", "17179869184GiB", "at most 18446744073709551615 bytes"),
        (&compile, "--max-batch-size", "4294967296", count),
        (&compile, "--max-seq-len", huge, count),
        (&compile, "--max-num-tokens", "-1", count),
        (&compile, "--opt-bisect-limit", huge, "from 0 to 4294967295"),
        (&calibrate, "--samples", huge, count),
        (&calibrate, "--rows", "18446744073709551615", count),
        (&generate, "--max-tokens", "4294967296", "from 0 to 4294967295"),
    ];
    for (command, option, value, range) in cases {
        sandbox.fails(&[command, &[&format!("{option}={value}")]].concat(), 2, range);
    }
    // within the range of the type, but out of range
    for option in ["--max-batch-size", "--max-input-len", "--max-output-len", "--max-seq-len", "--max-num-tokens"] {
        let output = sandbox.run(&[&compile[..], &[option, "4294967295"]].concat());
        assert_eq!(output.status.code(), Some(2), "{option}: {output:?}");
    }
    assert_eq!(sandbox.files(), [""; 0]);
}
