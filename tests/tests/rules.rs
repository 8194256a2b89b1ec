//! Rewrite rules: refused files report errors at the right positions, and a rule does the same as the same pass in
//! Rust.

use std::path::PathBuf;

use ir::OpSet;
use passes::{PassOptions, rules};
use smelt::{Compilation, CompileOptions, Driver, Quiet, RewriteFile, Source, TargetChoice};

fn files() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(tests::folder().join("cases/rules/refused")).unwrap();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn bad_files_name_all_errors_at_their_lines() {
    for path in files() {
        let text = std::fs::read_to_string(&path).unwrap();
        let lines = (1..).zip(text.lines());
        let announced = lines.flat_map(|(line, text)| text.split("// error: ").skip(1).map(move |error| (line, error)));
        let mut announced: Vec<(usize, String)> =
            announced.map(|(line, error)| (line, error.trim_end().to_owned())).collect();
        let found = rules::parse(&text, &OpSet::standard()).expect_err("a file of errors");
        let mut found: Vec<(usize, String)> = found.into_iter().map(|error| (error.line, error.message)).collect();
        announced.sort();
        found.sort();
        assert_eq!(found, announced, "{}", path.display());
    }
}

#[test]
fn an_error_shows_its_column() {
    let text = "rule @gate {\n  %s = silu %gate\n  %y = mul %s, %up\n=>\n  %y = silu_mul %gate, %u\n}\n";
    let errors = rules::parse(text, &OpSet::standard()).unwrap_err();
    let shown = errors[0].to_string();
    assert_eq!(
        shown,
        "line 5, column 24: `%u` is not defined above\n  %y = silu_mul %gate, %u\n                       ^"
    );
    let error = &rules::parse("rule @a {\n  %y = silu ~x\n", &OpSet::standard()).unwrap_err()[0];
    assert_eq!((error.line, error.column, error.message.as_str()), (2, 13, "unexpected character `~`"));
}

/// `fuse-silu-mul`, a single function in Rust.
const SILU_MUL: &str = "
    rule @silu-mul {
      %s = silu %gate
      %y = mul %s, %up
      where used_once(%s), %gate : _[$t, $n], %up : _[$t, $n]
    =>
      %y = silu_mul %gate, %up
    }

    rule @mul-silu {
      %s = silu %gate
      %y = mul %up, %s
      where used_once(%s), %gate : _[$t, $n], %up : _[$t, $n]
    =>
      %y = silu_mul %gate, %up
    }
";

#[test]
fn a_rule_does_what_the_built_in_pass_does() {
    let file = RewriteFile { path: "mine.rules".into(), text: SILU_MUL.to_owned() };
    let demo = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/demo");
    let options = CompileOptions { target: TargetChoice::Named("cpu".to_owned()), ..CompileOptions::default() };
    let source = Source::open(&demo, &options).unwrap();
    let compile = |options: &CompileOptions| {
        let mut progress = Quiet;
        let imported = Compilation::new(&Driver::new(), &source, options, &mut progress).unwrap().import().unwrap();
        let before = ir::text::print(imported.graph());
        (before, ir::text::print(imported.optimize().unwrap().graph()))
    };
    // by itself, on the graph as it was imported
    let (imported, built_in) = compile(&options);
    let driver = Driver::new().rewrites(std::slice::from_ref(&file)).unwrap();
    let run = |passes: &[&str]| {
        let passes: Vec<String> = passes.iter().map(|pass| (*pass).to_owned()).collect();
        let (graph, _) = driver.optimize(&imported, &passes, &PassOptions::default(), &mut Quiet).unwrap();
        ir::text::print(&graph)
    };
    let fused = run(&["fuse-silu-mul"]);
    assert!(fused != imported && fused == run(&["silu-mul", "mul-silu"]));
    // at its position in the pipeline
    let disabled = vec!["fuse-silu-mul".to_owned()];
    let (_, without) = compile(&CompileOptions { disabled_passes: disabled.clone(), ..options.clone() });
    let (_, instead) = compile(&CompileOptions { disabled_passes: disabled, rewrites: vec![file], ..options });
    assert!(without != built_in && instead == built_in);
}

/// Errors after the fiftieth are not kept: the checks must run anyway.
#[test]
fn a_file_of_many_errors_is_refused() {
    let wrong = "rule @wrong {\n  %y = slu %x\n=>\n  %y = silu %x\n}\n";
    let late = "rule @late {\n  %a = slu %x\n  %b = mul %a, %x\n  %y = mul %b, %a\n=>\n  %y = silu %b\n}\n";
    let text = (0..70).map(|index| wrong.replace("@wrong", &format!("@wrong-{index}"))).collect::<String>() + late;
    assert!(rules::parse(&text, &OpSet::standard()).is_err());
}
