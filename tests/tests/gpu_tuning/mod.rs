//! Every candidate on the device, not only the heuristics', and their timings.

use codegen::{ProgramShape, Target, Timings, select, untimed};
use smelt::{TimingMode, TimingOptions};
use tests::{Traced, compile_for, limits, run_passes};

use super::{
    Arc, Case, CompileOptions, GenerationParams, Llm, LoadOptions, Numerics, Prompt, Quiet, Scenario, SeededWeights,
    TargetChoice, Tolerance, available, compare, device, driver, execute, folder, gpu_shapes, interpret,
};

/// Cases over all kernels that have several configurations: few rows and many, whole tiles and not.
const CASES: [&str; 15] = [
    "linear bf16 129x200, 65 rows, 8 decoded",
    "linear bf16 512x4096, 128 rows, 9 decoded",
    "linear f16 96x14336, 33 rows, 5 decoded",
    "linear bf16 4096x256, 200 rows, 2 decoded",
    "linear f32 129x200, 65 rows, 8 decoded",
    "fused linear bf16 512x4096, 128 rows, 2 decoded, norm \"rms_norm\", swiglu",
    "fused linear bf16 2048x1024, 64 rows, 4 decoded, norm \"rms_norm\", bias, add",
    "fused linear f16 208x136, 65 rows, 4 decoded, norm \"\", swiglu",
    "fused linear bf16 528x520, 131 rows, 12 decoded, norm \"\", add",
    "fused linear bf16 8480x136, 3 rows, 3 decoded, norm \"rms_norm\", swiglu",
    "linear of i4 in blocks [None, Some(128)], zero false, bf16 4240x512, 4 rows, 3 decoded, \"\", add",
    "linear of i4 in blocks [None, Some(128)], zero true, bf16 1024x4096, 8 rows, 1 decoded, \"rms_norm\", swiglu",
    "attention bf16 over bf16, 8/2 heads of 128, 70 tokens of 3",
    "attention bf16 over bf16, 8/2 heads of 128, 200 tokens of 5",
    "attention f16 over f16, 20/1 heads of 48, 200 tokens of 5",
];

/// Runs a case with each candidate that is fastest by made-up timings, once. Returns the number of rounds.
fn check(case: &Case) -> Result<usize, String> {
    let graph = case.graph()?;
    let weights = SeededWeights::of(&graph, case.dummy_weights);
    let (fused, _) = run_passes(&passes::pipeline::standard(), &graph, &weights)?;
    let programs = ProgramShape::all(&fused, &limits(&fused));
    let (catalog, compiler) = (Target::Sm90a.catalog(), device::compiler()?);
    let mut candidates = Vec::new();
    let selection = select(&fused, &catalog, &programs).map_err(|problems| problems.join("\n"))?;
    for op in untimed(&selection, &catalog, &programs, &Timings::default()) {
        let outcomes = op.measure(&catalog, &Traced::default(), Some(&compiler)).map_err(|error| error.to_string())?;
        candidates.push((op.op().to_owned(), outcomes));
    }
    let scenario = Scenario::new(&case.name, &case.sizes, &graph)?;
    let expected = interpret(&graph, &weights, &scenario)?;
    let rounds = candidates.iter().map(|(_, outcomes)| outcomes.len()).max().unwrap_or(0);
    for round in 0..rounds {
        let mut timings = Timings::default();
        for (op, outcomes) in &candidates {
            let mut outcomes = outcomes.clone();
            let fastest = round % outcomes.len();
            for (index, outcome) in outcomes.values_mut().enumerate().filter(|(_, outcome)| outcome.nanoseconds.is_ok())
            {
                outcome.nanoseconds = Ok(if index == fastest { 1 } else { 1000 });
            }
            timings.record(op, outcomes);
        }
        let catalog = Target::Sm90a.catalog().timed(timings);
        let compiled = compile_for(&driver(), &graph, Target::Sm90a, catalog, &weights, scenario.kv_blocks)?;
        let found = execute(&device::executor()?, &graph, Arc::clone(&compiled.file), &scenario)?;
        let agrees = compare(&graph, &expected, &found, Tolerance::of(Numerics::Rounding, &graph));
        agrees.map_err(|reason| format!("round {round}: {reason}\n{}", compiled.selection))?;
    }
    Ok(rounds)
}

#[test]
fn every_candidate_agrees_with_the_interpreter() {
    if !available() {
        return;
    }
    let cases: Vec<Case> =
        gpu_shapes::cases().into_iter().filter(|case| CASES.iter().any(|name| case.name.starts_with(name))).collect();
    assert_eq!(cases.len(), CASES.len());
    let mut rounds = 0;
    for case in &cases {
        rounds += check(case).unwrap_or_else(|reason| panic!("{}: {reason}", case.name));
    }
    eprintln!("tuning: {} cases agree with each of their candidates, {rounds} plans", cases.len());
}

#[test]
fn timings_of_the_device_decide() {
    if !available() {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let cache = scratch.path().join("timings.json");
    let options = |mode| CompileOptions {
        target: TargetChoice::Named("sm_90a".to_owned()),
        timing: Some(TimingOptions { file: cache.clone(), mode: Some(mode), device: None }),
        max_batch_size: Some(2),
        ..CompileOptions::default()
    };
    let compile = |name: &str, mode| {
        let plan = scratch.path().join(name);
        let model = folder().join("../models/demo");
        driver().compile(&model, &plan, &options(mode), &mut Quiet).unwrap();
        plan
    };
    let start = std::time::Instant::now();
    let written = compile("written.plan", TimingMode::Write);
    eprintln!("tuning: the demo model in {:.1} s", start.elapsed().as_secs_f64());
    let required = compile("required.plan", TimingMode::Require);
    assert!(std::fs::read(&written).unwrap() == std::fs::read(required).unwrap());
    let mut llm = Llm::load_with(&driver(), &written, &LoadOptions::default(), &mut Quiet).unwrap();
    let params = GenerationParams { max_tokens: 16, ignore_eos: true, logits: false };
    let generations = llm.generate(&[Prompt::from("This function returns")], &params).unwrap();
    assert_eq!(generations[0].token_ids.len(), 16);
    let text = std::fs::read_to_string(&cache).unwrap();
    // a launch takes more than a tenth of a microsecond; how much more depends on concurrent tests
    let times = text.split("\"ns\": ").skip(1).filter_map(|rest| rest.split('}').next()?.parse::<u64>().ok());
    let times: Vec<u64> = times.collect();
    assert!(times.len() > 20 && times.iter().all(|time| (100..100_000_000).contains(time)), "{text}");
}
