//! Kernel selection by timings: caches are written, read and required, stale entries are ignored, and the plans that
//! time GPU kernels are valid. Real times need a device.

use std::path::PathBuf;

use codegen::{ProgramShape, Target, Timings, select, untimed};
use ir::Graph;
use smelt::{
    Compilation, CompileOptions, Driver, Error, ErrorKind, Quiet, Source, TargetChoice, TimingMode, TimingOptions,
};
use tests::{Case, SeededWeights, Traced, device, folder, limits, model_graph, run_passes};

struct Sandbox {
    folder: tempfile::TempDir,
}

impl Sandbox {
    fn new() -> Sandbox {
        Sandbox { folder: tempfile::tempdir().unwrap() }
    }

    fn cache(&self) -> PathBuf {
        self.folder.path().join("timings.json")
    }

    /// Compiles a model of two layers; returns the plan's bytes and the chosen kernels.
    fn compile(&self, mode: Option<TimingMode>, device: Option<&str>) -> Result<(Vec<u8>, String), Error> {
        let options = CompileOptions {
            target: TargetChoice::Named("cpu".to_owned()),
            max_batch_size: Some(1),
            max_num_tokens: Some(8),
            timing: Some(TimingOptions { file: self.cache(), mode, device: device.map(str::to_owned) }),
            ..CompileOptions::default()
        };
        let (plan, source) =
            (self.folder.path().join("x.plan"), Source::open(folder().join("oracle/llama-mha"), &options)?);
        let mut progress = Quiet;
        let compilation = Compilation::new(&Driver::new(), &source, &options, &mut progress)?;
        let tuned = compilation.import()?.optimize()?.select()?.tune()?;
        let kernels = tuned.selection().print();
        tuned.lower()?.build()?.write(&plan)?;
        Ok((std::fs::read(plan).unwrap(), kernels))
    }

    fn edit(&self, change: impl Fn(&str) -> String) {
        let text = std::fs::read_to_string(self.cache()).unwrap();
        std::fs::write(self.cache(), change(&text)).unwrap();
    }

    /// Changes the time of each candidate whose line has this text.
    fn set_time(&self, of: &str, time: u64) {
        let line = |line: &str| match line.split_once("\"ns\": ") {
            Some((head, tail)) if line.contains(of) => {
                let rest = tail.trim_start_matches(|c: char| c.is_ascii_digit());
                format!("{head}\"ns\": {time}{rest}\n")
            }
            _ => format!("{line}\n"),
        };
        self.edit(|text| text.lines().map(line).collect());
    }
}

fn message(result: Result<(Vec<u8>, String), Error>, kind: ErrorKind) -> String {
    let error = result.expect_err("refused");
    assert_eq!(error.kind(), kind, "{error}");
    error.to_string()
}

#[test]
fn a_cache_is_written_once_and_gives_the_same_plan_ever_after() {
    let sandbox = Sandbox::new();
    let (written, kernels) = sandbox.compile(None, None).unwrap();
    assert!(kernels.contains("  timed: linear {columns_per_task = ") && kernels.contains(" µs; "), "{kernels}");
    let cache = std::fs::read(sandbox.cache()).unwrap();
    for mode in [None, Some(TimingMode::Read), Some(TimingMode::Require), Some(TimingMode::Write)] {
        let (read, _) = sandbox.compile(mode, None).unwrap();
        assert!(read == written, "{mode:?}");
    }
    assert_eq!(std::fs::read(sandbox.cache()).unwrap(), cache);
    // whitespace and the order of entries do not matter
    sandbox.edit(|text| text.replace("\n  ", "\n      "));
    assert!(sandbox.compile(None, None).unwrap().0 == written);
}

#[test]
fn the_fastest_is_chosen_and_noise_is_not() {
    let sandbox = Sandbox::new();
    sandbox.compile(None, None).unwrap();
    let text = std::fs::read_to_string(sandbox.cache()).unwrap();
    let candidates = text.split("\"op\": \"").find(|entry| entry.starts_with("linear ")).unwrap();
    let names = candidates.split("{columns_per_task = ").skip(1).map(|rest| rest.split('}').next().unwrap());
    let mut names: Vec<&str> = names.collect();
    names.sort();
    names.dedup();
    assert!(names.len() > 1, "{names:?}");
    for name in &names {
        sandbox.set_time("", 10_000);
        sandbox.set_time(&format!("{{columns_per_task = {name}}}"), 5_000);
        let (_, kernels) = sandbox.compile(None, None).unwrap();
        let timed: Vec<&str> = kernels.lines().filter(|line| line.contains("  timed: ")).collect();
        assert!(
            timed.iter().any(|line| line.contains(&format!("{{columns_per_task = {name}}} 5.0 µs; "))),
            "{kernels}"
        );
        assert!(kernels.contains(&format!("linear : linear {{columns_per_task = {name}}} grid")), "{kernels}");
    }
    let heuristic = |kernels: &str| {
        let lines = kernels.lines().filter(|line| !line.starts_with("  ") && !line.starts_with("//"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    sandbox.set_time("", 10_000);
    let (_, equal) = sandbox.compile(None, None).unwrap();
    for name in &names {
        sandbox.set_time("", 10_000);
        sandbox.set_time(&format!("{{columns_per_task = {name}}}"), 9_900);
        assert_eq!(heuristic(&sandbox.compile(None, None).unwrap().1), heuristic(&equal));
    }
}

#[test]
fn what_is_missing_or_stale_falls_to_heuristics_or_is_named() {
    let sandbox = Sandbox::new();
    let missing = message(sandbox.compile(Some(TimingMode::Read), None), ErrorKind::BadInput);
    assert!(missing.contains("timings.json"), "{missing}");
    sandbox.compile(None, None).unwrap();
    // other code than the timed one
    sandbox.edit(|text| text.replace("\"code\": \"", "\"code\": \"old-"));
    let (_, kernels) = sandbox.compile(Some(TimingMode::Read), None).unwrap();
    assert!(!kernels.contains("timed:"), "{kernels}");
    let stale = message(sandbox.compile(Some(TimingMode::Require), None), ErrorKind::BadInput);
    assert!(stale.contains("has no timings of these ops") && stale.contains("\n  linear f32[1, "), "{stale}");
    let (_, kernels) = sandbox.compile(Some(TimingMode::Write), None).unwrap();
    assert!(kernels.contains("timed:"), "{kernels}");
    assert!(!std::fs::read_to_string(sandbox.cache()).unwrap().contains("old-"));
}

#[test]
fn devices_are_told_apart_and_other_files_refused() {
    let sandbox = Sandbox::new();
    sandbox.compile(None, None).unwrap();
    let name = |text: &str| text.split("\"device\": \"").nth(1).unwrap().split('"').next().unwrap().to_owned();
    let here = name(&std::fs::read_to_string(sandbox.cache()).unwrap());
    let unknown = message(sandbox.compile(None, Some("abacus")), ErrorKind::Usage);
    assert!(unknown.contains("no timings of device `abacus` for cpu") && unknown.contains(&here), "{unknown}");
    let written = message(sandbox.compile(Some(TimingMode::Write), Some(&here)), ErrorKind::Usage);
    assert!(written.contains("--timing-device"), "{written}");
    // the same timings, of two devices
    sandbox.edit(|text| {
        let entries = text.split_once("[\n").unwrap().1.rsplit_once("\n  ]").unwrap().0;
        text.replacen("[\n", &format!("[\n{},\n", entries.replace(&here, "abacus")), 1)
    });
    let several = message(sandbox.compile(None, None), ErrorKind::Usage);
    assert!(several.contains("several devices") && several.contains("`abacus`"), "{several}");
    assert!(sandbox.compile(Some(TimingMode::Require), Some("abacus")).is_ok());
    for text in ["", "{}", "not json", "{\"schema_version\": 99}"] {
        std::fs::write(sandbox.cache(), text).unwrap();
        for mode in [None, Some(TimingMode::Write), Some(TimingMode::Require)] {
            let refused = message(sandbox.compile(mode, None), ErrorKind::BadInput);
            assert!(refused.contains("timings.json: not a timing cache"), "{refused}");
        }
        assert_eq!(std::fs::read_to_string(sandbox.cache()).unwrap(), text);
    }
}

/// A layer as it is lowered for a GPU.
fn layer() -> Graph {
    let root = folder().join("cases");
    let graph = Case::load(&root, &root.join("select/llama-layer-on-a-gpu.ir")).unwrap().graph().unwrap();
    let weights = SeededWeights::of(&graph, false);
    run_passes(&passes::pipeline::standard(), &graph, &weights).unwrap().0
}

#[test]
fn ops_go_by_their_types_and_not_by_their_place() {
    let graph = layer();
    let programs = ProgramShape::all(&graph, &limits(&graph));
    let catalog = Target::Sm90a.catalog();
    let selection = select(&graph, &catalog, &programs).unwrap();
    let untimed = untimed(&selection, &catalog, &programs, &Timings::default());
    let ops: Vec<&str> = untimed.iter().map(|untimed| untimed.op()).collect();
    let kv = "with kv bf16 {kv_heads = 1, head_dim = 64, block_tokens = 64}";
    for op in [
        "linear {to = f32} bf16[2, 128], weight bf16[256, 128] : f32[2, 256]",
        "fused_linear {prologue = rms_norm(1e-5, bf16), epilogue = [swiglu], to = bf16} f32[1, 128], weight bf16[384, 128], \
         weight bf16[128] : bf16[1, 192]",
        // ops that are expanded in a program are timed as their parts
        "fused_linear {epilogue = [swiglu]} bf16[R, 128], weight bf16[384, 128] : bf16[R, 192] for R in 1..8",
        &format!(
            "rope_attention {{head_dim = 64, heads = 2, kv_heads = 1, scale = 0.125, to = bf16}} f32[2, 256], i32[2], \
             i32[3], i32[2, 4], weight f32[32] : bf16[2, 128] {kv}"
        ),
        &format!(
            "paged_attention {{head_dim = 64, kv_heads = 1, scale = 0.125}} bf16[T, 128], i32[T], i32[B + 1], \
             i32[B, 4] : bf16[T, 128] for T in 1..64, B in 1..2 {kv}"
        ),
    ] {
        assert_eq!(ops.iter().filter(|found| **found == op).count(), 1, "{op} in {ops:#?}");
    }
}

/// The op kinds and sizes of a model that are timed, in one layer.
fn large_layer() -> Graph {
    let config = folder().join("../bench/configs/llama-3.1-8b");
    let graph = model_graph(&config, Some(1), Target::Sm90a).unwrap();
    let weights = SeededWeights::of(&graph, true);
    run_passes(&passes::pipeline::standard(), &graph, &weights).unwrap().0
}

#[test]
fn candidates_of_gpus_compile_and_their_trials_are_sound() {
    let compiler = match device::compiler() {
        Ok(compiler) => compiler,
        Err(reason) => return eprintln!("skipped: {reason}"),
    };
    let catalog = Target::Sm90a.catalog();
    for graph in [layer(), large_layer()] {
        let programs = ProgramShape::all(&graph, &limits(&graph));
        let selection = select(&graph, &catalog, &programs).unwrap();
        let mut timings = Timings::default();
        let (mut candidates, mut slow) = (0, Vec::new());
        for op in untimed(&selection, &catalog, &programs, &timings) {
            let outcomes = op.measure(&catalog, &Traced::default(), Some(&compiler)).unwrap();
            candidates += outcomes.len();
            let failed = outcomes.iter().filter(|(_, outcome)| outcome.nanoseconds.is_err());
            slow.extend(failed.map(|(name, _)| name.clone()));
            timings.record(op.op(), outcomes);
        }
        eprintln!("tuning: {} ops, {candidates} candidates, {} of them slow", timings.ops.len(), slow.len());
        assert!(untimed(&selection, &catalog, &programs, &timings).is_empty());
        assert_eq!(slow, Vec::<String>::new());
    }
}
