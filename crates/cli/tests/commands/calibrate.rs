//! Calibration on the command line: inputs, outputs, and errors.

use crate::MHA;
use crate::sandbox::Sandbox;

const DEMO: &str = "models/demo";

#[test]
fn a_text_becomes_a_calibration_that_is_shown() {
    let sandbox = Sandbox::new();
    let (text, out, page) = (sandbox.text("a.txt"), sandbox.text("a.json"), sandbox.text("a.html"));
    std::fs::write(&text, "This function returns a `Result<T, E>` of the value that was read.").unwrap();
    let args = ["calibrate", DEMO, "--text", &text, "-o", &out, "--max-len", "8", "--samples", "2", "--target", "cpu"];
    let said = sandbox.ok(&args);
    assert!(said.contains("over 2 samples, 16 tokens, on cpu"), "{said}");
    assert!(sandbox.path("a.safetensors").is_file() && !sandbox.path("a.json.partial").exists());
    let first = std::fs::read(&out).unwrap();
    sandbox.ok(&args);
    assert_eq!(std::fs::read(&out).unwrap(), first);

    let table = sandbox.ok(&["inspect", &out]);
    assert!(table.contains("percentile:99.99 by default") && table.contains("layers.5.mlp.gated"), "{table}");
    let report = sandbox.json(&["inspect", &out, "--json"]);
    let tensor = &report["tensors"][0];
    assert_eq!((&tensor["name"], &tensor["channels"]), (&"layers.0.attn.k_rope".into(), &128.into()));
    assert_eq!(tensor["clips"][0], tensor["absmax"]);
    assert!(sandbox.ok(&["inspect", &out, "--html", &page]).contains("a.html ("));
    let html = std::fs::read_to_string(&page).unwrap();
    assert!(html.contains("layer 5") && html.contains("<svg") && !html.contains("://"), "{html}");
    sandbox.fails(&["inspect", &out, "--memory"], 2, "a calibration is shown as a table");
}

#[test]
fn lines_of_json_are_samples_and_files_are_merged() {
    let sandbox = Sandbox::new();
    let [a, b, c, lines] = ["a.json", "b.json", "c.json", "lines.jsonl"].map(|name| sandbox.text(name));
    for (out, text) in [(&a, "fn main() {}"), (&b, "while let")] {
        let text = format!("{{\"text\": \"{text}\"}}\n\n{{\"prompt\": \"let x = 1;\", \"n\": 1}}\n");
        std::fs::write(&lines, text).unwrap();
        let report = sandbox.json(&["calibrate", DEMO, "--dataset", &lines, "-o", out, "--target", "cpu", "--json"]);
        assert_eq!((&report["samples"], &report["target"]), (&2.into(), &"cpu".into()));
    }
    assert!(sandbox.ok(&["calibrate", "--merge", &a, &b, "-o", &c]).contains("c.safetensors"));
    assert_eq!(sandbox.json(&["inspect", &c, "--json"])["samples"], 4);
    sandbox.fails(&["calibrate", "--merge", &a, &a, "-o", &c], 2, "are of the same samples");
    std::fs::remove_file(sandbox.path("b.safetensors")).unwrap();
    assert!(sandbox.ok(&["calibrate", "--merge", &a, &b, "-o", &c]).contains("without activations"));
}

#[test]
fn what_cannot_be_calibrated_is_refused() {
    let sandbox = Sandbox::new();
    let [empty, text, lines, out] = ["empty.txt", "a.txt", "a.jsonl", "a.json"].map(|name| sandbox.text(name));
    std::fs::write(&empty, "").unwrap();
    std::fs::write(&text, "text").unwrap();
    std::fs::write(&lines, "{\"text\": \"a\"}\n{\"words\": 1}\n").unwrap();
    let run = |more: &[&str], code, message| {
        sandbox.fails(&[&["calibrate"][..], more, &["-o", &out, "--target", "cpu"]].concat(), code, message);
    };
    run(&[DEMO, "--text", &empty], 3, "no text to calibrate with");
    run(&[DEMO, "--dataset", &lines], 3, "line 2: expected an object with a string `text` or `prompt`");
    run(&[DEMO, "--text", "no-such-file"], 3, "no-such-file");
    run(&[MHA, "--text", &text], 3, "no tokenizer.json");
    run(&[DEMO, "--text", &text, "--max-len", "4096"], 2, "the model's context length is 2048");
    run(&[DEMO, "--text", &text, "--samples", "0"], 2, "expected a whole number from 1 to 4294967295");
    run(&[DEMO, "--text", &text, "--method", "guess"], 2, "expected minmax, percentile");
    run(&["--merge", &text, &text], 3, "not a calibration");
    for name in ["a", "a.safetensors", "a.b"] {
        let args = ["calibrate", DEMO, "--text", &text, "-o", &sandbox.text(name)];
        sandbox.fails(&args, 2, "expected a name that ends in .json");
    }
    run(&[DEMO], 2, "--text");
    sandbox.fails(&["inspect", &out], 3, "a.json");
}

#[test]
fn formats_that_know_activations_want_a_calibration_of_the_model() {
    let sandbox = Sandbox::new();
    let [text, out, plan, map] = ["a.txt", "a.json", "a.plan", "map"].map(|name| sandbox.text(name));
    let base = ["compile", DEMO, "-o", &plan, "--target", "cpu"];
    fn with<'a>(base: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
        [base, more].concat()
    }
    sandbox.fails(&with(&base, &["--precision", "int4-awq"]), 2, "int4-awq requires a calibration: `smelt calibrate");
    sandbox.fails(
        &with(&base, &["--precision", "fp8", "--activation-scales", "static"]),
        2,
        "fp8 requires a calibration",
    );
    std::fs::write(&map, "layers.0.mlp.down int4-gptq").unwrap();
    sandbox.fails(&with(&base, &["--precision-map", &map]), 2, "int4-gptq requires a calibration");
    sandbox.fails(&with(&base, &["--activation-scales", "fixed"]), 2, "expected dynamic or static");
    sandbox.fails(&with(&base, &["--precision", "int4-awq", "--calibration", &out]), 3, "a.json");

    std::fs::write(&text, "This function returns a `Result<T, E>` of the value that was read.").unwrap();
    sandbox.ok(&["calibrate", DEMO, "--text", &text, "-o", &out, "--max-len", "8", "--target", "cpu"]);
    let other = ["compile", MHA, "-o", &plan, "--precision", "int4-awq", "--calibration", &out];
    sandbox.fails(&other, 3, "a.json: the calibration is of model");
    sandbox.ok(&with(&base, &["--precision", "int8-smoothquant", "--calibration", &out]));
    let report = sandbox.json(&["inspect", &plan, "--json"]);
    assert!(report.to_string().contains("a.json"), "the calibration is an input of the plan: {report}");
    let first = std::fs::read(&plan).unwrap();
    sandbox.ok(&with(&base, &["--precision", "int8-smoothquant", "--calibration", &out]));
    assert_eq!(std::fs::read(&plan).unwrap(), first);
    sandbox.ok(&with(&base, &["--precision-map", &map, "--precision", "fp8", "--calibration", &out]));
    let block = "graph @g(%x: f32[1, 1]) {\n  return %x\n}\n";
    std::fs::write(sandbox.path("g.ir"), block).unwrap();
    sandbox.fails(&["opt", "--pass", "quantize-int4-awq", &sandbox.text("g.ir")], 2, "needs a calibration");

    std::fs::remove_file(sandbox.path("a.safetensors")).unwrap();
    sandbox.fails(&with(&base, &["--precision", "int4-awq", "--calibration", &out]), 3, "a.safetensors");
}
