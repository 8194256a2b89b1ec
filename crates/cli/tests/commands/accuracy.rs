//! Accuracy on the command line: perplexity, the gate, and the layer with the largest error.

use std::fs;
use std::path::Path;

use safetensors::SafeTensors;
use serde_json::Value;

use crate::sandbox::Sandbox;

const DEMO: [&str; 3] = ["models/demo", "--target", "cpu"];

/// The start of the demo model's held-out text.
fn text(sandbox: &Sandbox) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/demo/heldout.txt");
    fs::write(sandbox.path("text.txt"), &fs::read(file).unwrap()[..600]).unwrap();
    sandbox.text("text.txt")
}

/// The demo model's first two layers: a search over the formats of each layer takes a third of the time.
fn shallow(sandbox: &Sandbox) -> String {
    let (from, to) = (sandbox.root().join(DEMO[0]), sandbox.path("shallow"));
    fs::create_dir(&to).unwrap();
    fs::copy(from.join("tokenizer.json"), to.join("tokenizer.json")).unwrap();
    let mut config: Value = serde_json::from_slice(&fs::read(from.join("config.json")).unwrap()).unwrap();
    config["num_hidden_layers"] = Value::from(2);
    fs::write(to.join("config.json"), config.to_string()).unwrap();
    let weights = fs::read(from.join("model.safetensors")).unwrap();
    let weights = SafeTensors::deserialize(&weights).unwrap();
    let layer = |name: &str| name.strip_prefix("model.layers.")?.split('.').next()?.parse::<u32>().ok();
    let kept = weights.iter().filter(|(name, _)| layer(name).is_none_or(|layer| layer < 2));
    fs::write(to.join("model.safetensors"), safetensors::serialize(kept, None).unwrap()).unwrap();
    sandbox.text("shallow")
}

#[test]
fn a_text_has_the_same_perplexity_in_a_folder_and_in_a_plan() {
    let sandbox = Sandbox::new();
    let (text, plan) = (text(&sandbox), sandbox.text("x.plan"));
    let eval =
        |model: &[&str], more: &[&str]| sandbox.json(&[&["eval"], model, &["--text", &text, "--json"], more].concat());
    let found = eval(&DEMO, &[]);
    let figure = |report: &Value, name: &str| report[name].as_f64().unwrap();
    assert!((figure(&found, "nll").exp() - figure(&found, "perplexity")).abs() < 1e-9);
    assert!(figure(&found, "perplexity") < 100.0 && figure(&found, "tokens") > 100.0, "{found}");
    assert_eq!((&found["context"], &found["stride"]), (&Value::from(2048), &Value::from(2047)));
    assert_eq!(sandbox.files(), ["text.txt"], "its plan was for this once");
    // steps of 7 tokens, of which 3 have logits
    let limits = ["--max-num-tokens", "7", "--max-batch-size", "3"];
    sandbox.ok(&[&["compile"], &DEMO[..], &["-o", &plan], &limits].concat());
    assert_eq!(eval(&[&plan], &[]), found);
    let cut = eval(&DEMO, &["--context", "64", "--stride", "16"]);
    assert_eq!((&cut["tokens"], &cut["stride"]), (&found["tokens"], &Value::from(16)));
    assert_eq!(eval(&[&plan], &["--context", "64", "--stride", "16"]), cut);
    let printed = sandbox.ok(&["eval", &plan, "--text", &text]);
    assert!(printed.starts_with("perplexity ") && printed.contains("in windows of 2048"), "{printed}");
}

#[test]
fn what_cannot_be_scored_is_refused() {
    let sandbox = Sandbox::new();
    let (text, plan) = (text(&sandbox), sandbox.text("x.plan"));
    sandbox.ok(&[&["compile"], &DEMO[..], &["-o", &plan, "--max-seq-len", "128"]].concat());
    for (name, bytes) in [("empty.txt", &b""[..]), ("short.txt", b"a"), ("latin.txt", b"caf\xe9, caf\xe9")] {
        fs::write(sandbox.path(name), bytes).unwrap();
    }
    sandbox.fails(&["eval", &plan, "--text", &sandbox.text("empty.txt")], 3, "empty.txt: the file is empty");
    sandbox.fails(&["eval", &plan, "--text", &sandbox.text("short.txt")], 3, "a single token, expected at least 2");
    sandbox.fails(&["eval", &plan, "--text", &sandbox.text("latin.txt")], 3, "latin.txt: is not UTF-8 text");
    sandbox.fails(&["eval", &plan, "--text", "no/such.txt"], 3, "no/such.txt: No such file");
    sandbox.fails(
        &["eval", "tests/oracle/llama-mha", "--text", &text],
        3,
        "no tokenizer.json to tokenize the text with",
    );
    sandbox.fails(&["eval", &plan, "--text", &text, "--context", "129"], 2, "allows sequences of at most 128");
    sandbox.fails(&["eval", &plan, "--text", &text, "--context", "1"], 2, "expected at least 2");
    sandbox.fails(&["eval", &plan, "--text", &text, "--context", "0"], 2, "'--context <N>'");
    sandbox.fails(&["eval", &plan, "--text", &text, "--stride", "129"], 2, "expected 1 to 128, the context length");
    sandbox.fails(
        &["eval", "models/demo", "--text", &text, "--context", "4096"],
        2,
        "the model's context length is 2048",
    );
}

#[test]
fn a_plan_that_passes_its_gate_is_the_plan_it_would_be_without() {
    let sandbox = Sandbox::new();
    let (text, plan, gated) = (text(&sandbox), sandbox.text("x.plan"), sandbox.text("y.plan"));
    let compile = [&["compile"], &DEMO[..], &["--dtype", "f16"]].concat();
    let report = sandbox.json(&[&compile[..], &["-o", &plan, "--json"]].concat());
    assert_eq!(report["gate"], Value::Null);
    let bounds = "perplexity<+1%,kl<0.02,top1>95%";
    let gate = ["-o", &gated, "--gate", bounds, "--gate-text", &text, "--json"];
    let report = sandbox.json(&[&compile[..], &gate].concat());
    assert_eq!(fs::read(&plan).unwrap(), fs::read(&gated).unwrap());
    let held: Vec<&Value> = report["gate"]["bounds"].as_array().unwrap().iter().map(|bound| &bound["holds"]).collect();
    assert_eq!(held, [true, true, true]);
    assert!(report["gate"]["kl"].as_f64().unwrap() > 0.0, "{report}");
    let mut files = sandbox.files();
    files.sort();
    assert_eq!(files, ["text.txt", "x.plan", "y.plan"]);
}

#[test]
fn a_plan_that_fails_its_gate_is_not_written() {
    let sandbox = Sandbox::new();
    let (text, plan) = (text(&sandbox), sandbox.text("x.plan"));
    fs::write(&plan, "what was there before").unwrap();
    let compile = |more: &[&str]| {
        let args =
            [&["compile"], &DEMO[..], &["-o", &plan, "--precision", "int4", "--gate-text", &text], more].concat();
        args.into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let fails = |more: &[&str], code: i32, message: &str| {
        let args = compile(more);
        sandbox.fails(&args.iter().map(String::as_str).collect::<Vec<_>>(), code, message);
    };
    let gate = ["--gate", "perplexity<+1000%,kl<0.000001"];
    fails(&gate, 7, "kl<0.000001        fails: measured");
    fails(&gate, 7, "perplexity<+1000%  holds: measured");
    fails(&gate, 7, "layers.");
    fails(&["--gate", "kl>1"], 2, "expected perplexity<+N%");
    fails(&["--gate", "kl<0"], 2, "expected perplexity<+N%");
    fails(&["--gate", "kl<1", "--dry-run"], 2, "cannot be used with");
    fails(&[], 2, "--gate <BOUNDS>");
    if sandbox.json(&["doctor", "--json"])["driver"].is_null() {
        let args =
            ["compile", "models/demo", "--target", "sm_90a", "-o", &plan, "--gate", "kl<1", "--gate-text", &text];
        sandbox.fails(&args, 5, "a gate runs the plan");
    }
    assert_eq!(fs::read(&plan).unwrap(), b"what was there before");
    let mut files = sandbox.files();
    files.sort();
    assert_eq!(files, ["text.txt", "x.plan"]);
}

#[test]
fn the_layer_that_errs_is_named() {
    let sandbox = Sandbox::new();
    let (text, map) = (text(&sandbox), sandbox.text("map.txt"));
    fs::write(&map, "layers.3.mlp.down int4\n").unwrap();
    let debug = [&["debug", "precision"], &DEMO[..], &["--text", &text, "--precision-map", &map]].concat();
    let report = sandbox.json(&[&debug[..], &["--bound", "0.1", "--json"]].concat());
    assert_eq!(report["first_above"], "layers.3.mlp");
    let layers = report["layers"].as_array().unwrap();
    assert_eq!(report["formats"], serde_json::json!([]), "one format is no choice");
    let errors: Vec<f64> = layers.iter().map(|layer| layer["error"].as_f64().unwrap()).collect();
    assert!(errors.len() == 13 && errors[..7] == [0.0; 7] && errors[7] > 1e-3, "{errors:?}");
    let printed = sandbox.ok(&[&debug[..], &["--bound", "100"]].concat());
    let report = sandbox.json(&[&debug[..], &["--precision", "int8-weight", "--json"]].concat());
    let formats = report["formats"].as_array().unwrap();
    let of = |index: usize| (formats[index]["format"].as_str().unwrap(), formats[index]["linears"].as_u64().unwrap());
    assert_eq!([of(0), of(1)], [("int4", 1), ("int8-weight", 41)], "the worst first");
    assert!(formats.iter().all(|format| format["kl"].as_f64().unwrap() > 0.0), "{report}");
    sandbox.fails(&[&debug[..], &["--bound", "nan"]].concat(), 2, "expected a number above 0");
    assert!(printed.contains("layers.5.mlp") && printed.ends_with("no layer adds more than 100 %\n"), "{printed}");
}

#[test]
fn a_cache_of_integers_takes_a_calibration() {
    let sandbox = Sandbox::new();
    let (text, calibration) = (text(&sandbox), sandbox.text("calibration.json"));
    let eval = [&["eval"], &DEMO[..], &["--text", &text, "--json"]].concat();
    let with = |kv: &'static str, more: &[&str]| sandbox.json(&[&eval[..], &["--kv-precision", kv], more].concat());
    let refused = [&eval[..], &["--kv-precision", "int8"]].concat();
    sandbox.fails(&refused, 2, "a KV cache of int8 requires a calibration: `smelt calibrate");
    sandbox.ok(&[&["calibrate"], &DEMO[..], &["--text", &text, "-o", &calibration]].concat());
    let perplexity = |report: Value| report["perplexity"].as_f64().unwrap();
    let plain = perplexity(with("bf16", &[]));
    for kv in ["int8", "fp8"] {
        let coded = perplexity(with(kv, &["--calibration", &calibration]));
        assert!(coded != plain && (coded / plain - 1.0).abs() < 0.05, "{kv}: {coded} of {plain}");
    }
    // of a quantized checkpoint, too
    let [codes, calibration] = ["int8", "int8.json"].map(|name| sandbox.text(name));
    sandbox.ok(&["quantize", DEMO[0], "-o", &codes, "--precision", "int8-weight"]);
    sandbox.ok(&["calibrate", &codes, "--target", "cpu", "--text", &text, "-o", &calibration]);
    let eval = ["eval", &codes, "--target", "cpu", "--text", &text, "--json", "--kv-precision"];
    let plain = perplexity(sandbox.json(&[&eval[..], &["bf16"]].concat()));
    let coded = perplexity(sandbox.json(&[&eval[..], &["int8", "--calibration", &calibration]].concat()));
    assert!(coded != plain && (coded / plain - 1.0).abs() < 0.05, "{coded} of {plain}");
}

#[test]
fn formats_are_chosen_with_reasons() {
    let sandbox = Sandbox::new();
    let model = shallow(&sandbox);
    let model = [&model, "--target", "cpu"];
    let (text, calibration) = (text(&sandbox), sandbox.text("calibration.json"));
    let [plan, again, table, page] = ["x.plan", "y.plan", "x.map", "x.html"].map(|name| sandbox.text(name));
    sandbox.ok(&[&["calibrate"], &model[..], &["--text", &text, "-o", &calibration, "--hessian"]].concat());
    let compile = [&["compile"], &model[..], &["--calibration", &calibration]].concat();
    let mixed = ["--precision", "mixed", "--precision-text", &text, "--precision-tokens", "32"];
    let mixed = [&compile[..], &mixed].concat();
    let files = ["-o", &plan, "--precision-table", &table, "--precision-html", &page];
    let choices = ["--target-bits", "5", "--formats", "int8-weight,int4-gptq"];
    let chosen = sandbox.run(&[&mixed[..], &choices, &files].concat());
    let said = String::from_utf8_lossy(&chosen.stderr).into_owned();
    assert!(chosen.status.success() && said.contains("bits per weight, perplexity "), "{said}");

    // the plan has the choice with reasons, as a table that gives the same plan
    let kept = fs::read_to_string(&table).unwrap();
    let printed = sandbox.ok(&["inspect", &plan, "--precision"]);
    let rows = |table: &str| {
        let lines = table.lines().filter(|line| !line.starts_with('#'));
        lines.map(|line| line.split_whitespace().map(str::to_owned).collect()).collect::<Vec<Vec<String>>>()
    };
    assert_eq!(rows(&printed), rows(&kept));
    assert_eq!(rows(&kept)[14][..2], ["logits", "none"]);
    let bits: f64 = kept.trim_start_matches("# ").split(' ').next().unwrap().parse().unwrap();
    assert!(4.0 < bits && bits <= 5.0 && kept.contains("int4-gptq 4.25"), "{kept}");
    assert!(
        ["int4-gptq", "int8-weight"].iter().all(|format| rows(&kept).iter().any(|row| row[1] == *format)),
        "{kept}"
    );
    let json = sandbox.json(&["inspect", &plan, "--precision", "--json"]);
    assert!(json["linears"][0]["reason"].as_str().unwrap().starts_with("kl "), "{json}");
    assert!(fs::read_to_string(&page).unwrap().contains(": precision of each linear layer"));
    fs::write(sandbox.path("x.html"), "").unwrap();
    sandbox.ok(&["inspect", &plan, "--html", &page]);
    assert!(fs::read_to_string(&page).unwrap().contains("layers.1.mlp.down"));
    sandbox.ok(&[&compile[..], &["--precision-map", &table, "-o", &again]].concat());
    assert_eq!(fs::read(&plan).unwrap(), fs::read(&again).unwrap());

    // another goal, or a resumed search, measures nothing twice
    let other = ["-o", &again, "--target-bits", "6", "--formats", "int4-gptq,int8-weight,int4"];
    let chosen = sandbox.run(&[&mixed[..], &other].concat());
    let said = String::from_utf8_lossy(&chosen.stderr).into_owned();
    assert!(said.contains("measuring 24 formats of groups, 16 of them from an earlier search"), "{said}");
    sandbox.ok(&[&mixed[..], &choices, &["-o", &again, "--precision-table", &table]].concat());
    assert_eq!(fs::read_to_string(&table).unwrap(), kept);

    // if time matters, products are measured with a timing cache, unless a machine is named
    let times = sandbox.text("times.json");
    let fast = ["-o", &again, "--formats", "int8-weight", "--json"];
    let chosen = |more: &[&str]| sandbox.json(&[&mixed[..], &fast, more].concat())["mixed"].clone();
    let bound = ["--max-perplexity-increase", "1%"];
    assert_eq!(chosen(&bound)["roofline"], "cpu");
    let cache = ["--timing-cache", &times, "--timing-cache-mode", "write"];
    assert_eq!(chosen(&[&bound[..], &cache].concat())["roofline"], Value::Null);
    let by_cpu = chosen(&["--min-speedup", "1.1", "--machine", "cpu"]);
    assert!(by_cpu["roofline"] == "cpu" && by_cpu["speedup"].as_f64().is_some_and(|times| times >= 1.1), "{by_cpu}");

    let goal = |goal: &'static [&'static str]| [&mixed[..], &["-o", &again, "--formats", "int4"], goal].concat();
    sandbox.fails(&goal(&["--target-bits", "3"]), 2, "need at least 4.25");
    sandbox.fails(&goal(&[]), 2, "requires one of");
    sandbox.fails(&goal(&["--max-perplexity-increase", "1"]), 2, "expected a percentage such as 1%");
    sandbox.fails(&["inspect", &plan, "--precision", "--dot"], 2, "cannot be used with");
    sandbox.ok(&[&["compile"], &model[..], &["-o", &again]].concat());
    sandbox.fails(&["inspect", &again, "--precision"], 2, "the plan is unquantized");
}

#[test]
fn a_choice_of_formats_becomes_a_checkpoint() {
    let sandbox = Sandbox::new();
    let text = text(&sandbox);
    let [mixed, again, table] = ["mixed", "again", "x.map"].map(|name| sandbox.text(name));
    let choice = ["--precision", "mixed", "--target-bits", "6", "--formats", "int8-weight,int4"];
    let measure = ["--precision-text", &text, "--precision-tokens", "8", "--precision-table", &table, "--json"];
    let report = sandbox.json(&[&["quantize", DEMO[0], "-o", &mixed], &choice[..], &measure].concat());
    assert!(report["mixed"]["bits"].as_f64().is_some_and(|bits| 5.0 < bits && bits <= 6.0), "{report}");
    let config: Value = serde_json::from_slice(&fs::read(sandbox.path("mixed/config.json")).unwrap()).unwrap();
    assert_eq!(config["quantization_config"]["config_groups"].as_object().map(serde_json::Map::len), Some(2));
    // the table gives the same
    sandbox.ok(&["quantize", DEMO[0], "-o", &again, "--precision-map", &table]);
    for file in ["config.json", "model.safetensors"] {
        let read = |folder: &str| fs::read(sandbox.path(folder).join(file)).unwrap();
        assert_eq!(read("mixed"), read("again"), "{file}");
    }
    sandbox.ok(&["eval", &mixed, "--target", "cpu", "--text", &text]);
    // refused before anything is measured
    let refused = [&["quantize", DEMO[0], "-o", &mixed], &choice[..], &measure[..2]].concat();
    sandbox.fails(&refused, 2, "already exists");
    sandbox.fails(&["quantize", DEMO[0], "-o", "other", "--precision", "mixed"], 2, "requires one of");
}
