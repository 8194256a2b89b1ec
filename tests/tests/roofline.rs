//! The roofline compared with measurements on an H200: a bound is never exceeded, and it is not too far away to be
//! useful. And the passes compared by the roofline, the only way without a device.

use std::sync::Arc;

use passes::{Pass, PassList, Pipeline, pipeline};
use plan::{Machine, Plan, Program, Symbol, SymbolValues, context, full_step, step_cost, upper_bounds};
use smelt::{Compilation, CompileOptions, Driver, Quiet, Source, Target, TargetChoice, WeightsChoice};
use tests::{SeededWeights, folder, lower, model_folders, model_graph, run_passes};

/// The lower bound of a step of a program, in seconds.
fn step(plan: &Plan, program: &Program, values: &SymbolValues) -> f64 {
    let machine = Machine::of_target(&plan.target);
    machine.estimates(plan, program, values).unwrap().iter().map(|estimate| estimate.seconds).sum()
}

/// No program of any model is predicted to be slower than with only the required passes.
#[test]
fn what_passes_make_is_not_predicted_to_be_slower() {
    let passes = PassList::standard();
    // quantization passes are required if requested
    let must = |pass: &&Arc<dyn Pass>| pass.required() && !pass.numerics().on_purpose();
    let required = passes.iter().filter(must).cloned().collect();
    let pipelines = [pipeline::standard(), Pipeline::of(required)];
    for model in model_folders().unwrap() {
        for target in Target::ALL {
            let graph = model_graph(&model, Some(2), target).unwrap();
            let weights = SeededWeights::of(&graph, true);
            let [fused, apart] = pipelines.each_ref().map(|pipeline| {
                let (graph, _) = run_passes(pipeline, &graph, &weights).unwrap();
                lower(&Driver::new(), &graph, target, &weights, 1).unwrap().plan
            });
            for (program, other) in fused.programs.iter().zip(&apart.programs) {
                let values = full_step(program, 1024);
                let (fused, apart) = (step(&fused, program, &values), step(&apart, other, &values));
                let name = format!("{} of {}, {target}", program.name, model.file_name().unwrap().display());
                assert!(fused <= apart, "{name}: {fused:e} seconds, {apart:e} without the passes");
            }
        }
    }
}

/// A plan of the 8B shape, in bf16, for a GPU.
fn llama_8b() -> Plan {
    let options = CompileOptions {
        target: TargetChoice::Named("sm_90a".to_owned()),
        weights: WeightsChoice::Dummy,
        max_batch_size: Some(32),
        ..CompileOptions::default()
    };
    let source = Source::open(folder().join("../bench/configs/llama-3.1-8b"), &options).unwrap();
    let mut progress = Quiet;
    let imported = Compilation::new(&Driver::new(), &source, &options, &mut progress).unwrap().import().unwrap();
    let optimized = imported.optimize().unwrap();
    let graph = optimized.graph();
    lower(&Driver::new(), graph, Target::Sm90a, &SeededWeights::of(graph, true), 1).unwrap().plan
}

/// A token of one sequence reads every weight but the embedding's other rows, and its keys and values.
#[test]
fn a_decode_step_moves_its_weights_and_its_context() {
    let plan = llama_8b();
    for batch in [1, 8] {
        let program = plan.programs.iter().find(|program| program.name == format!("decode@{batch}")).unwrap();
        let cost = |contexts: &[u64]| step_cost(program, &upper_bounds(&program.symbols), contexts).unwrap();
        let (weights, parameters) = (7_504_924_672.0 * 2.0, 7_504_924_672.0 * 2.0 * batch as f64);
        let none = cost(&vec![0; batch]);
        let moved = none.bytes() as f64 / weights;
        assert!((1.0..1.0 + 1e-3 * batch as f64).contains(&moved), "batch {batch}: {} bytes", none.bytes());
        assert!((none.flops as f64 / parameters - 1.0).abs() < 1e-2, "batch {batch}: {} operations", none.flops);
        // 32 layers of 8 heads of 128, keys and values of 2 bytes
        let contexts: Vec<u64> = (0..batch as u64).map(|index| 500 + 37 * index).collect();
        let tokens: u64 = contexts.iter().sum();
        assert_eq!(cost(&contexts).bytes() - none.bytes(), tokens * 2 * 8 * 128 * 2 * 32, "batch {batch}");
    }
}

#[test]
fn measured_times_stay_within_their_bounds() {
    let bench = folder().join("../bench");
    let measured = std::fs::read_to_string(bench.join("h200/llama-3.1-8b-bf16.json")).unwrap();
    let measured: serde_json::Value = serde_json::from_str(&measured).unwrap();
    let plan = llama_8b();
    let program = |name: &str| plan.programs.iter().find(|program| program.name == name).unwrap();
    for run in measured["results"].as_array().unwrap() {
        let [batch, prompt, tokens] = ["batch_size", "input_len", "output_len"].map(|name| run[name].as_u64().unwrap());
        let decode = program(&format!("decode@{batch}"));
        // the mean of a run
        let decode = batch as f64 / step(&plan, decode, &full_step(decode, prompt + tokens / 2));
        // a prompt fills a step; a token attends to half of the prompt on average
        let mixed = program(&format!("mixed@{prompt}"));
        let sizes = [("T", prompt), ("B", 1), ("R", 1)].map(|(name, size)| (Symbol::new(name).unwrap(), size));
        let values = sizes.into_iter().chain([(context(), prompt / 2)]).collect();
        let first = batch as f64 * step(&plan, mixed, &values) * 1e3;
        let rate = run["decode_tokens_per_s"].as_f64().unwrap();
        let first_measured = run["ttft_ms"]["p50"].as_f64().unwrap();
        let (share, first_share) = (rate / decode, first / first_measured);
        eprintln!(
            "| {batch} | {decode:.0} | {rate:.0} | {:.0} % | {first:.1} | {first_measured:.1} | {:.0} % |",
            share * 100.0,
            first_share * 100.0
        );
        assert!((0.3..=1.0).contains(&share), "batch {batch}: {rate} of {decode} tokens/s");
        assert!((0.3..=1.0).contains(&first_share), "batch {batch}: {first_measured} ms, at least {first} ms");
    }
}
