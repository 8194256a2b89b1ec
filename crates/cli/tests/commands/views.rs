//! Views of a plan and of the passes: memory, pages, diffs, texts after passes, rules.

use std::path::Path;

use serde_json::Value;

use crate::MHA;
use crate::sandbox::Sandbox;

#[test]
fn memory_shows_what_lives_when() {
    let sandbox = Sandbox::new();
    let plan = sandbox.text("x.plan");
    sandbox.ok(&["compile", MHA, "-o", &plan, "--target", "cpu", "--max-batch-size", "2"]);
    let table = sandbox.ok(&["inspect", &plan, "--memory"]);
    assert!(table.starts_with("mixed@512: arena ") && table.contains("offsets and sizes in bytes"), "{table}");
    // each buffer is in one row, and equal ones of several layers share it
    let all = sandbox.json(&["inspect", &plan, "--memory", "--json"]);
    let buffers = all["buffers"].as_array().unwrap().len();
    assert!(table.contains("layers.{0–1}.") && table.lines().count() - 3 < buffers, "{table}");
    let memory = sandbox.json(&["inspect", &plan, "--memory", "--program", "decode@2", "--json"]);
    assert_eq!(memory["program"], "decode@2");
    // the planner wastes almost nothing
    let number = |name: &str| memory[name].as_f64().unwrap();
    assert!(number("arena_bytes") <= 1.05 * number("live_bytes"), "{memory}");
    sandbox.fails(&["inspect", &plan, "--memory", "--program", "decode@9"], 2, "it has: decode@1, decode@2, mixed@512");
}

#[test]
fn a_plan_is_a_page_and_a_graph() {
    let sandbox = Sandbox::new();
    let (plan, page) = (sandbox.text("x.plan"), sandbox.text("x.html"));
    sandbox.ok(&["compile", MHA, "-o", &plan, "--target", "cpu", "--max-batch-size", "2", "--max-seq-len", "64"]);
    assert!(sandbox.ok(&["inspect", &plan, "--html", &page]).contains("x.html ("));
    let text = std::fs::read_to_string(&page).unwrap();
    assert!(text.contains("layers 0–1, identical") && text.contains("mixed@512") && !text.contains("://"), "{text}");
    let args = ["inspect", &plan, "--html", &page, "--program", "decode@2", "--machine", "h100", "--context", "64"];
    sandbox.ok(&args);
    let text = std::fs::read_to_string(&page).unwrap();
    assert!(text.contains("NVIDIA H100 SXM") && !text.contains("<h2>mixed@512"), "{text}");
    let dot = sandbox.ok(&["inspect", &plan, "--dot", "--program", "decode@2"]);
    assert!(dot.starts_with("digraph \"decode@2\" {") && dot.contains("cluster_2_"), "{dot}");
    for (args, message) in [
        (["--context", "65"], "a context of at most 64 tokens"),
        (["--program", "decode@9"], "it has: decode@1, decode@2, mixed@512"),
        (["--machine", "abacus"], "expected one of: h200, h100, cpu"),
    ] {
        sandbox.fails(&["inspect", &plan, "--dot", args[0], args[1]], 2, message);
    }
    sandbox.fails(&["inspect", &plan, "--machine", "cpu"], 2, "--html");
    sandbox.fails(&["inspect", &plan, "--html", "/nowhere/x.html"], 3, "/nowhere");
}

#[test]
fn plans_differ_by_layer() {
    let sandbox = Sandbox::new();
    let [a, b] = ["a.plan", "b.plan"].map(|name| sandbox.text(name));
    sandbox.ok(&["compile", MHA, "-o", &a, "--target", "cpu"]);
    sandbox.ok(&["compile", MHA, "-o", &b, "--target", "cpu", "--disable-pass", "fuse-linear-add"]);
    assert!(sandbox.ok(&["inspect", &a, "--diff", &a]).starts_with("the plans do not differ"));
    let text = sandbox.ok(&["inspect", &a, "--diff", &b, "--program", "decode@1"]);
    for part in [
        "config\n  disabled_passes:  → fuse-linear-add",
        "+ add_rms_norm {",
        "  layers 0–1\n- layers.*.attn.sum = fused_linear",
    ] {
        assert!(text.contains(part), "{text}");
    }
    let json = sandbox.json(&["inspect", &a, "--diff", &b, "--json"]);
    assert_eq!(json["kernels"]["removed"], serde_json::json!(["linear {columns_per_task = 64, epilogue = add}"]));
    let program = &json["programs"][0];
    assert_eq!(
        (&program["name"], &program["launches"][0]["layers"]),
        (&Value::from("decode@1"), &serde_json::json!([0, 1]))
    );
    assert!(program["b"]["launches"].as_u64() == program["a"]["launches"].as_u64(), "{program}");
    sandbox.fails(&["inspect", &a, "--diff", "README.md"], 3, "not a plan");
    let page = sandbox.text("diff.html");
    sandbox.ok(&["inspect", &a, "--diff", &b, "--html", &page]);
    let page = std::fs::read_to_string(&page).unwrap();
    for part in ["<title>a and b</title>", "fuse-linear-add", "class=\"added\">+ add_rms_norm", "layers 0–1"] {
        assert!(page.contains(part), "{page}");
    }
    sandbox.fails(&["inspect", &a, "--diff", &b, "--dot"], 2, "cannot be used with");
}

#[test]
fn graphs_and_times_of_passes_are_emitted() {
    let sandbox = Sandbox::new();
    let emit = |what: &str| sandbox.ok(&["compile", MHA, "--dry-run", "--target", "cpu", "--emit", what]);
    let one = emit("ir-after=merge-linears");
    assert_eq!(one.matches("// ").count(), 1, "{one}");
    assert!(one.contains("merge-linears.ir\n") && one.contains("attn.q_k_v = linear"), "{one}");
    let changed = emit("ir-after-change").matches("\ngraph @").count();
    let all = emit("ir-after-all").matches("\ngraph @").count();
    assert!(0 < changed && changed < all, "{changed} of {all}");
    let passes = emit("passes");
    assert!(passes.contains("ops before") && passes.contains("fuse-swiglu"), "{passes}");
    let args = ["compile", MHA, "--dry-run", "--emit"];
    sandbox.fails(
        &[&args[..], &["ir-after=merge-linaers"]].concat(),
        2,
        "unknown pass `merge-linaers` (did you mean `merge-linears`?), expected one of: ",
    );
    sandbox.fails(&[&args[..], &["irr"]].concat(), 2, "ir-after-change");
}

const GATE: &str = "\
rule @silu-mul {
  %s = silu %gate
  %y = mul %s, %up
  where used_once(%s), %gate : _[$t, $n], %up : _[$t, $n]
=>
  %y = silu_mul %gate, %up
}
";

#[test]
fn rules_from_a_file_are_passes_by_their_names() {
    let sandbox = Sandbox::new();
    let rules = sandbox.text("gate.rules");
    std::fs::write(&rules, GATE).unwrap();
    let args = ["compile", MHA, "--dry-run", "--target", "cpu", "--rewrites", &rules, "--emit"];
    let emit = |what: &str, more: &[&str]| sandbox.ok(&[&args[..], &[what], more].concat());
    let row = |table: &str| table.lines().find(|line| line.contains(" silu-mul ")).map(str::to_owned);
    assert!(row(&emit("passes", &[])).unwrap().contains(" yes "));
    assert_eq!(row(&emit("passes", &["--disable-pass", "silu-mul"])), None);
    // canonicalize and remove-dead-ops do not count: they are required
    assert_eq!(row(&emit("passes", &["--opt-bisect-limit", "3"])), None);
    assert!(row(&emit("passes", &["--opt-bisect-limit", "4"])).is_some());
    assert!(emit("ir-after=silu-mul", &[]).contains(" = silu_mul "));
    assert!(sandbox.ok(&["opt", "--list-passes", "--rewrites", &rules]).contains("silu-mul\n    a rewrite rule\n"));
    // the rules are among a plan's inputs: others give another plan
    let generate = ["generate", MHA, "--prompt-ids", "5,6,7", "--max-tokens", "4"];
    let compiled = |more: &[&str]| {
        let output = sandbox.run(&[&generate[..], more].concat());
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stderr).contains("writing plan")
    };
    assert!(compiled(&[]) && compiled(&["--rewrites", &rules]) && !compiled(&["--rewrites", &rules]));
    std::fs::write(&rules, GATE.replace("used_once(%s)", "used_once(%s), %gate : f32")).unwrap();
    assert!(compiled(&["--rewrites", &rules]));
}

#[test]
fn bad_rules_are_refused_with_all_their_errors() {
    let sandbox = Sandbox::new();
    let rules = sandbox.text("gate.rules");
    let fails = |text: &str, message: &str| {
        std::fs::write(&rules, text).unwrap();
        let args = ["compile", MHA, "--dry-run", "--rewrites", &rules, "--dump-dir", &sandbox.text("")];
        sandbox.fails(&args, 3, message);
    };
    let text = GATE.replace("= silu ", "= slu ").replace("%up\n}", "%u\n}");
    fails(&text, "gate.rules: line 2, column 8: unknown op `slu` (did you mean `silu`?)");
    fails(&text, "gate.rules: line 6, column 24: `%u` is not defined above");
    let taken = "a pass `fuse-silu-mul` already exists, give the rule another name";
    fails(&GATE.replace("@silu-mul", "@fuse-silu-mul"), taken);
    sandbox.fails(&["compile", MHA, "--dry-run", "--rewrites", &sandbox.text("no.rules")], 3, "no.rules: No such file");
    // an error that no example shows is found when the rule applies, and is not a bug of smelt
    let widens = "rule @widens {\n  %y = add %a, %b : f32[.., $n]\n  where $n > 8\n=>\n  %y = cast %a {to = bf16}\n}\n";
    fails(widens, "rule `widens` built a bad patch at `%layers.0.attn.sum`: the type");
    let repro = sandbox.text("repro.ir");
    let opt = ["opt", "--rewrites", &rules, "--pass", "widens", &repro, "--dump-dir", &sandbox.text("")];
    sandbox.fails(&opt, 3, "this is a bug in `widens`");
}

#[test]
fn passes_on_text_are_seen_like_those_of_a_compilation() {
    let sandbox = Sandbox::new();
    let (file, rules, dump) = (sandbox.text("mlp.ir"), sandbox.text("gate.rules"), sandbox.text("dump"));
    let graph = "graph @mlp(%gate: f32[2, 4], %up: f32[2, 4]) {\n  %s = silu %gate : f32[2, 4]\n  %y = mul %s, %up : f32[2, 4]\n  \
                 return %y\n}\n";
    std::fs::write(&file, graph).unwrap();
    std::fs::write(&rules, GATE).unwrap();
    assert!(sandbox.ok(&["opt", &file, "--rewrites", &rules, "--pass", "silu-mul"]).contains("silu_mul %gate, %up"));
    assert_eq!(sandbox.ok(&["opt", &file, "--disable-pass", "fuse-silu-mul,fuse-elementwise"]), graph);
    assert_eq!(sandbox.ok(&["opt", &file, "--opt-bisect-limit", "0"]), graph);
    let fused = sandbox.ok(&["opt", &file, "--emit", "ir-after-change,passes", "--dump-dir", &dump]);
    let read = |name: &str| std::fs::read_to_string(Path::new(&dump).join(name)).unwrap();
    assert_eq!(read("07-fuse-silu-mul.ir"), fused);
    assert!(read("passes.txt").contains("fuse-swiglu"));
    let shown = sandbox.ok(&["opt", &file, "--emit", "ir-after=fuse-silu-mul"]);
    assert_eq!(shown, format!("// 07-fuse-silu-mul.ir\n{fused}{fused}"));
    sandbox.fails(&["opt", &file, "--pass", "fuse-silu-mlu"], 2, "(did you mean `fuse-silu-mul`?)");
    sandbox.fails(&["opt", &file, "--emit", "kernels"], 2, "`smelt opt` does not choose kernels");
    let mut opt = sandbox.command(&["opt", "-", "--pass", "fuse-silu-mul"]);
    let output = opt.stdin(std::fs::File::open(&file).unwrap()).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), fused);
}
