//! The roofline against what an H200 was measured to do: a bound is never beaten, and one that is far away bounds
//! nothing.

use plan::{Machine, Program, Symbol, SymbolValues, context, full_step};
use smelt::{CompileOptions, Driver, Dumps, Quiet, Target, TargetChoice, WeightsChoice};
use tests::{SeededWeights, folder, lower};

/// The least time of a step of a program, in seconds.
fn step(plan: &plan::Plan, program: &Program, values: &SymbolValues) -> f64 {
    Machine::H200.estimates(plan, program, values).unwrap().iter().map(|estimate| estimate.seconds).sum()
}

#[test]
fn measured_times_stay_behind_their_bounds() {
    let bench = folder().join("../bench");
    let measured = std::fs::read_to_string(bench.join("gpu.json")).unwrap();
    let measured: serde_json::Value = serde_json::from_str(&measured).unwrap();
    let options = CompileOptions {
        target: TargetChoice::Named("sm_90a".to_owned()),
        weights: WeightsChoice::Dummy,
        max_batch_size: Some(32),
        ..CompileOptions::default()
    };
    let mut dumps = Dumps::default();
    Driver::new().compile(&bench.join("configs/llama-3.1-8b"), None, &options, Some(&mut dumps), &mut Quiet).unwrap();
    let graph = ir::text::parse(&dumps.graph, &ir::OpSet::standard()).unwrap().graph;
    let plan = lower(&Driver::new(), &graph, Target::Sm90a, &SeededWeights::of(&graph, true), 1).unwrap().plan;
    let program = |name: &str| plan.programs.iter().find(|program| program.name == name).unwrap();
    for run in measured["runs"].as_array().unwrap() {
        let [batch, prompt, tokens] = ["batch", "prompt_len", "tokens"].map(|name| run[name].as_u64().unwrap());
        let decode = program(&format!("decode@{batch}"));
        // the mean of a run
        let decode = batch as f64 / step(&plan, decode, &full_step(decode, prompt + tokens / 2));
        // a prompt fills a step; a token looks back at half of the prompt in the mean
        let mixed = program(&format!("mixed@{prompt}"));
        let sizes = [("T", prompt), ("B", 1), ("R", 1)].map(|(name, size)| (Symbol::new(name).unwrap(), size));
        let values = sizes.into_iter().chain([(context(), prompt / 2)]).collect();
        let first = batch as f64 * step(&plan, mixed, &values) * 1e3;
        let rate = run["decode_tokens_per_s"].as_f64().unwrap();
        let first_measured = run["ttft_ms"].as_f64().unwrap();
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
