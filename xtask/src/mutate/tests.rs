//! The judge must find each fault: small scripts replace the program, each with one planted fault. And a seed and an
//! index must always give the same mutant.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::judge::Fault;
use super::*;

/// A directory that is removed at the end, whatever a script left in it.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let folder = std::env::temp_dir().join(format!("xtask-mutate-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        Scratch(folder)
    }

    /// A program of these lines.
    fn program(&self, lines: &str) -> PathBuf {
        let path = self.0.join("program");
        // a file that this process has open for writing cannot be run while another test starts a process
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", r#"printf '#!/bin/sh\n%s\n' "$1" > "$0" && chmod 755 "$0""#]).arg(&path).arg(lines);
        assert!(shell.status().unwrap().success());
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn harness(scratch: &Scratch, script: &str, kinds: &[&str], count: u64) -> Harness {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let options = Options {
        count,
        seed: 3,
        only: None,
        kind: kinds.iter().map(|kind| (*kind).to_owned()).collect(),
        program: None,
        json: None,
    };
    let limits = Limits { time: Duration::from_secs(4), memory: 16 << 20, ..Limits::default() };
    Harness::new(root, &scratch.program(script), options, limits, &scratch.0.join("mutate")).unwrap()
}

/// The faults that the whole harness finds in a script, which are those of each of its runs.
fn found(name: &str, script: &str) -> Vec<String> {
    let scratch = Scratch::new(name);
    let harness = harness(&scratch, script, &["graph"], 2);
    let report = harness.run().unwrap();
    let all: Vec<&[Fault]> = report.findings.iter().map(|finding| &finding.outcome.faults[..]).collect();
    assert!(all.len() != 1, "{name}: {all:?}");
    let names = |faults: &[Fault]| faults.iter().map(Fault::name).collect::<Vec<_>>();
    assert!(all.windows(2).all(|pair| names(pair[0]) == names(pair[1])), "{name}: {all:?}");
    // what was found is kept, and named so that it can be made again
    for finding in &report.findings {
        let kept = scratch.0.join(format!("mutate/{}-3-{}", finding.kind, finding.index));
        let text = fs::read_to_string(kept.join("finding.txt")).unwrap();
        assert!(text.contains(&format!("--seed 3 --kind graph --only {}", finding.index)), "{text}");
        assert!(harness.mutant(finding.index, "scratch").unwrap().unchanged(&kept.join("in")).is_none());
    }
    all.first().map_or(Vec::new(), |faults| faults.iter().map(Fault::to_string).collect())
}

/// An error as the program prints one.
const ERROR: &str = "echo '  × in/x.ir: bad' >&2";

#[test]
fn what_behaves_is_not_found() {
    assert!(found("ok", "echo fine; echo whole > out/x.plan; mkdir cache/smelt; echo > cache/smelt/0.plan").is_empty());
    assert!(found("refused", &format!("{ERROR}; exit 3")).is_empty());
    assert!(found("usage", "echo 'error: unexpected argument' >&2; exit 2").is_empty());
}

#[test]
fn planted_ends_are_found() {
    assert_eq!(
        found("panic", "echo \"thread 'main' panicked at src/x.rs:1:1:\" >&2; exit 101"),
        ["exit code 101", "panic", "no error"]
    );
    // one that was caught, and yet printed
    assert_eq!(found("caught", &format!("echo \"thread 'main' panicked at a.rs\" >&2; {ERROR}; exit 3")), ["panic"]);
    assert_eq!(found("bug", &format!("{ERROR}; exit 1")), ["exit code 1"]);
    assert_eq!(found("signal", "kill -SEGV $$"), ["signal 11"]);
}

#[test]
fn planted_hangs_and_leaks_are_found() {
    let start = Instant::now();
    assert_eq!(found("hang", "exec sleep 60"), ["slow"]);
    assert!(start.elapsed() < Duration::from_secs(30));
    let leak = found("leak", "a=aaaaaaaaaaaaaaaa; while :; do a=$a$a; done");
    assert!(leak.len() == 1 && leak[0].starts_with("memory: "), "{leak:?}");
}

#[test]
fn planted_leftovers_are_found() {
    let fails = |what: &str| format!("{what}; {ERROR}; exit 3");
    assert_eq!(found("out", &fails("echo > out/x.plan")), ["leftover: out/x.plan"]);
    assert_eq!(found("partial", "echo > out/.x.plan.partial"), ["leftover: out/.x.plan.partial"]);
    assert_eq!(found("tmp", "echo > $TMPDIR/a"), ["leftover: tmp/a"]);
    assert_eq!(found("cache", &fails("echo > $XDG_CACHE_HOME/.tmp1")), ["leftover: cache/.tmp1"]);
    assert_eq!(found("home", "mkdir $HOME/.config"), ["leftover: home/.config"]);
    assert_eq!(found("beside", "echo > in/more"), ["leftover: in/more"]);
    assert_eq!(found("here", "echo > core"), ["leftover: core"]);
    let changed = found("input", "find in -type f -exec sh -c 'echo >> {}' ';'");
    assert!(changed[0].starts_with("changed input: "), "{changed:?}");
}

#[test]
fn planted_words_are_found() {
    assert_eq!(found("escape", "printf '\\033[31mred\\n'"), ["control character on stdout: \\u{1b}"]);
    assert_eq!(
        found("c1", &format!("printf '\\302\\2332J' >&2; echo >&2; {ERROR}; exit 3")),
        ["control character on stderr: \\u{9b}"]
    );
    assert_eq!(found("bytes", "printf '\\377\\n'"), ["bytes on stdout that are not text"]);
    let long = found("long", &format!("{ERROR}; head -c 5000 /dev/zero | tr '\\0' a >&2; exit 3"));
    assert!(long.len() == 1 && long[0].starts_with("long error: 50"), "{long:?}");
    assert_eq!(found("two", &format!("{ERROR}; {ERROR}; exit 3")), ["several errors: 2"]);
    assert_eq!(found("mute", "exit 3"), ["no error"]);
}

#[test]
fn a_seed_and_an_index_name_a_mutant() {
    let scratch = Scratch::new("names");
    // kinds that need only files of the repository
    let kinds = ["graph", "rules", "header", "config", "index", "tokenizer", "precision-map", "prompt", "options"];
    let harness = harness(&scratch, "exit 0", &kinds, 0);
    let text = |index: u64| {
        let mutant = harness.mutant(index, "scratch").unwrap();
        let content = |content: &mutant::Content| match content {
            mutant::Content::Bytes(bytes) => blake3::hash(bytes).to_string(),
            other => format!("{other:?}"),
        };
        let files = mutant.files.iter().map(|(name, file)| format!("{name} {}", content(file)));
        mutant.line() + &files.collect::<String>()
    };
    let mutants: Vec<String> = (0..60).map(text).collect();
    assert_eq!(mutants, (0..60).map(text).collect::<Vec<_>>());
    let distinct: std::collections::BTreeSet<&String> = mutants.iter().collect();
    assert!(distinct.len() > 55, "{} of 60", distinct.len());
}

#[test]
fn forged_plans_have_right_hashes() {
    let scratch = Scratch::new("plans");
    let path = scratch.0.join("x.plan");
    let plan: plan::Plan = serde_json::from_value(serde_json::json!({
        "target": "cpu",
        "model": {"architecture": "A", "vocab_size": 8, "parameters": 8, "bos": null, "eos": [1]},
        "limits": {"max_batch_size": 1, "max_input_len": 1, "max_seq_len": 1, "max_num_tokens": 1, "max_logit_rows": 1},
        "weights": [], "kv": [], "kernels": [], "programs": [], "files": [], "inputs": [], "world_size": 1,
        "config": [["a", "b"], ["c", "d"]],
    }))
    .unwrap();
    // whatever `check` says of it, its hashes hold
    let bytes = plans::write(&plan, &[0; 64], &path).unwrap();
    let fixture = plans::Fixture::of(plan, bytes, vec![0; 64]).unwrap();
    let opened = |index: u64| {
        let bytes = fixture.with_other_fields(&mut random::Random::of(1, index), &path).unwrap();
        fs::write(&path, bytes).unwrap();
        plan::PlanFile::open(&path).map(drop).map_err(|error| error.to_string())
    };
    let results: Vec<Result<(), String>> = (0..50).map(opened).collect();
    // if no change gives a plan, bytes are changed instead, which is rare
    let decoded = |result: &&Result<(), String>| {
        result.as_ref().err().is_none_or(|error| {
            !error.contains("match its hash") && !error.contains("match their hash") && !error.contains("metadata")
        })
    };
    assert!(results.iter().filter(decoded).count() > 35, "{results:?}");
    assert!(results.iter().flat_map(|result| result.as_ref().err()).any(|error| error.contains("a limit is zero")));
}
