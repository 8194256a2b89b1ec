//! `smelt bench`: its figures, its files, and its gate.

use serde_json::Value;

use crate::sandbox::Sandbox;
use crate::{DEMO, MHA};

/// A plan for short runs.
fn plan(sandbox: &Sandbox) -> String {
    let plan = sandbox.text("m.plan");
    sandbox.ok(&["compile", MHA, "-o", &plan, "--target", "cpu", "--max-batch-size", "4"]);
    plan
}

const SHORT: [&str; 8] = ["--input-len", "8", "--output-len", "6", "--warmup-runs", "1", "--ceilings", "table"];

fn report(sandbox: &Sandbox, name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(sandbox.path(name)).unwrap()).unwrap()
}

#[test]
fn the_line_of_other_tools_runs() {
    let sandbox = Sandbox::new();
    let line = "benchmark --engine_dir models/demo --batch_sizes 1 4 --input_len 24 --output_len 8 --num_runs 3";
    let mut args: Vec<&str> = line.split(' ').collect();
    args.extend(["--warmup_runs", "1", "--target", "cpu"]);
    let table = sandbox.ok(&args);
    assert!(table.contains("(measured)"), "{table}");
    for part in ["LlamaForCausalLM", "24 prompt tokens, 8 generated", "3 after 1 of warm-up", "decode tokens/s"] {
        assert!(table.contains(part), "{table}");
    }
    let rows: Vec<&str> = table.lines().rev().take(2).map(str::trim).collect();
    assert!(rows[1].starts_with("1 ") && rows[0].starts_with("4 "), "{table}");
    // three runs have no 99th percentile
    assert!(rows[0].contains(" / -"), "{table}");
}

#[test]
fn the_report_holds_what_was_asked_and_all_samples() {
    let sandbox = Sandbox::new();
    let (plan, file) = (plan(&sandbox), sandbox.text("r.json"));
    let more = ["--batch-sizes", "1,2", "--num-runs", "100", "--seed", "7", "--json", &file];
    let table = sandbox.ok(&[&["bench", &plan][..], &SHORT, &more].concat());
    assert!(table.contains("decode tokens/s"), "{table}");
    let report = report(&sandbox, "r.json");
    assert_eq!((&report["schema_version"], &report["seed"], &report["num_runs"]), (&2.into(), &7.into(), &100.into()));
    assert_eq!(report["ceilings"]["source"], "table");
    assert_eq!(report["plan"]["blake3"].as_str().unwrap().len(), 64);
    assert_eq!(report["command"][0], "bench");
    assert!(report["device"]["threads"].as_u64() >= Some(1));
    let rows = report["results"].as_array().unwrap();
    assert_eq!(rows.iter().map(|row| row["batch_size"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 2]);
    for row in rows {
        let samples = row["samples"].as_object().unwrap();
        assert!(samples.values().all(|samples| samples.as_array().unwrap().len() == 100), "{samples:?}");
        let number = |path: &str| row.pointer(path).and_then(Value::as_f64).unwrap();
        assert!(number("/ttft_ms/min") <= number("/ttft_ms/p50") && number("/ttft_ms/p50") <= number("/ttft_ms/p99"));
        assert!(number("/ttft_first_ms/p50") <= number("/ttft_ms/p50"));
        // five steps that decode read 10 cached tokens in the middle
        assert_eq!(number("/context"), 8.0 + 1.0 + 2.0);
        // tokens of a run over the parts of its time
        let batch = number("/batch_size");
        let seconds = (number("/ttft_ms/p50") + 5.0 * number("/tpot_ms/p50")) / 1e3;
        let ratio = number("/tokens_per_s") * seconds / (6.0 * batch);
        assert!((0.3..3.0).contains(&ratio), "{ratio}");
        for figure in ["/read_gb_per_s", "/read_ceiling_percent", "/tflops", "/compute_ceiling_percent"] {
            assert!(number(figure) > 0.0, "{figure}");
        }
    }
    let csv = sandbox.ok(&[&["bench", &plan, "--csv", "--num-runs", "1"][..], &SHORT].concat());
    let columns: Vec<usize> = csv.lines().map(|line| line.split(',').count()).collect();
    assert_eq!(columns, [17, 17], "{csv}");
    let markdown = sandbox.ok(&[&["bench", &plan, "--markdown", "--num-runs", "1"][..], &SHORT].concat());
    assert!(markdown.contains("\n| batch | first token ms |"), "{markdown}");
}

#[test]
fn a_report_takes_the_place_of_no_input() {
    let sandbox = Sandbox::new();
    let plan = plan(&sandbox);
    let bytes = std::fs::read(&plan).unwrap();
    // the plan is taken for the report's file: nothing is left to measure
    sandbox.fails(&["bench", "--json", &plan], 2, "DIR|FILE.plan");
    sandbox.fails(&["bench", &plan, "--json", &plan], 2, "m.plan");
    let folder = sandbox.text("cache");
    std::fs::create_dir_all(&folder).unwrap();
    sandbox.fails(&["bench", &plan, "--json", &folder], 3, "is a directory");
    let notes = sandbox.text("notes.json");
    std::fs::write(&notes, "{\"mine\": 1}").unwrap();
    sandbox.fails(&["bench", &plan, "--json", &notes], 2, "is there already and is no report");
    assert_eq!(std::fs::read_to_string(&notes).unwrap(), "{\"mine\": 1}");
    assert!(std::fs::read(&plan).unwrap() == bytes);
    sandbox.fails(&["bench", &plan, "--json", "--csv"], 2, "neither --csv nor --markdown");
}

#[test]
fn slower_than_a_report_allows_is_exit_code_8() {
    let sandbox = Sandbox::new();
    let (plan, old) = (plan(&sandbox), sandbox.text("old.json"));
    let bench = |more: &[&'static str]| [&["bench", &plan, "--num-runs", "8"][..], &SHORT, more].concat();
    sandbox.ok(&[&bench(&[])[..], &["--json", &old]].concat());
    let compare = |more: &[&'static str]| [&bench(more)[..], &["--compare", &old]].concat();
    // a wait of 20 ms in each step
    let slower = compare(&["--pause", "20000", "--fail-if", "tpot_p50>+3%"]);
    let output = sandbox.run(&slower);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(8) && errors.contains("(limit tpot_p50>+3%)"), "{errors}");
    // the figures are printed all the same
    assert!(String::from_utf8_lossy(&output.stdout).contains("beyond tpot_p50>+3%"));
    let table = sandbox.ok(&compare(&["--pause", "20000", "--fail-if", "tpot_p50<-99%"]));
    assert!(table.contains("batch 1: tpot_p50 "), "{table}");
    sandbox.fails(&compare(&["--fail-if", "speed>3%"]), 2, "unknown figure `speed`");
    sandbox.fails(&compare(&["--fail-if", "tpot_p50>+3%", "--num-runs", "1"]), 2, "cannot be used multiple times");
    sandbox.fails(&compare(&["--batch-sizes", "2"]), 3, "has no batch of 2");
    sandbox.fails(&[&bench(&[])[..], &["--fail-if", "tpot_p50>3%"]].concat(), 2, "--compare");
    sandbox.fails(&["bench", DEMO, "--compare", &old, "--input-len", "8", "--output-len", "6"], 3, "another model");
    std::fs::write(sandbox.path("other.json"), "{\"schema_version\": 1}").unwrap();
    sandbox.fails(&["bench", &plan, "--compare", &sandbox.text("other.json")], 3, "is not a report of `smelt bench");
}
