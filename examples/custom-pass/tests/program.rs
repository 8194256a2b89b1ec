//! The effect of the passes on a real model.

use std::path::Path;
use std::process::Command;

use custom_pass::{CountFlops, driver};
use smelt::extend::Dim;
use smelt::{CompileOptions, Driver, GenerationParams, Llm, LoadOptions, Prompt, Quiet, TargetChoice};

fn demo() -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/demo").to_string_lossy().into_owned()
}

fn options(disabled: &[&str]) -> CompileOptions {
    CompileOptions {
        target: TargetChoice::Named("cpu".to_owned()),
        disabled_passes: disabled.iter().map(|pass| (*pass).to_owned()).collect(),
        ..CompileOptions::default()
    }
}

/// The FLOPs of a step of the demo model, of `tokens` tokens and one row of logits.
fn flops(disabled: &[&str], tokens: u64) -> u64 {
    let flops = CountFlops::default();
    driver(&flops).dry_run(Path::new(&demo()), &options(disabled), &mut Quiet).unwrap();
    let found = flops.found().unwrap();
    let total = found.layers.into_values().fold(Dim::from(0), |sum, count| sum + count);
    let size = |symbol: &str| if symbol == "T" { tokens } else { 1 };
    total.eval(&total.symbols().into_iter().map(|symbol| (symbol.clone(), size(symbol.name()))).collect()).unwrap()
}

#[test]
fn a_prompt_skips_most_of_the_last_layer() {
    let (before, after) = (flops(&["gather-early"], 512), flops(&[], 512));
    assert_eq!(flops(&["gather-early"], 1), flops(&[], 1));
    let saved = 100.0 * (1.0 - after as f64 / before as f64);
    assert!((12.0..14.0).contains(&saved), "{saved:.1} % of {before} FLOPs are saved");
}

#[test]
fn the_model_says_the_same() {
    let generate = |driver: &Driver| {
        let load = LoadOptions { compile: options(&[]), ..LoadOptions::default() };
        let mut llm = Llm::load_with(driver, Path::new(&demo()), &load, &mut Quiet).unwrap();
        let params = GenerationParams { max_tokens: 16, logits: true, ..GenerationParams::default() };
        llm.generate(&[Prompt::from("This function returns"), Prompt::from("An iterator")], &params).unwrap()
    };
    assert_eq!(generate(&driver(&CountFlops::default())), generate(&Driver::new()));
}

#[test]
fn every_subcommand_knows_the_passes() {
    let run = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_custom-pass")).args(args).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    };
    let [passes, _] = run(&["--list-passes"]);
    assert!(passes.contains("gather-early") && passes.contains("count-flops"), "{passes}");
    let case = concat!(env!("CARGO_MANIFEST_DIR"), "/cases/gather-early.ir");
    let [graph, found] = run(&["opt", "--pass", "gather-early,count-flops", case]);
    assert!(graph.contains("%wide.rows = linear %normed.rows, %up : f32[R, 8]"), "{graph}");
    assert!(found.contains("no layer  128 * R"), "{found}");
    let [_, found] = run(&["compile", &demo(), "--target", "cpu", "--dry-run"]);
    assert!(found.contains("layer 4   1179648 * T\n  layer 5   262144 * T + 917504 * R"), "{found}");
}
