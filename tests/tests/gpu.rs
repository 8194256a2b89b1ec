//! Plans on a GPU: every kernel compared with the interpreter, the oracles with transformers, runs with each other.

mod common;
mod gpu_damage;
mod gpu_formats;
mod gpu_shapes;
mod gpu_tuning;

use std::path::Path;
use std::sync::Arc;

use common::expected::{Expected, ORACLES, worst};
use passes::Numerics;
use plan::{Bindings, Executor, InputData, PlanFile, PlanWriter, Port, Step, upper_bounds};
use runtime::CudaExecutor;
use smelt::{
    CompileOptions, DType, Driver, Generation, GenerationParams, Llm, LoadOptions, Prompt, Quiet, RunOptions,
    TargetChoice,
};
use tests::{Case, Scenario, SeededWeights, Tolerance, compare, compile, device, execute, folder, interpret};

/// Whether GPU tests can run here; otherwise the running test is skipped.
fn available() -> bool {
    device::available().map_err(|reason| tests::skip(&reason)).is_ok()
}

fn driver() -> Driver {
    Driver::new().cuda_folders(device::cuda_folders).unit_cache(device::unit_cache())
}

fn load(model: &Path, target: &str, compile: CompileOptions) -> Llm {
    let compile = CompileOptions { target: TargetChoice::Named(target.to_owned()), ..compile };
    Llm::load_with(&driver(), model, &LoadOptions { compile, ..LoadOptions::default() }, &mut Quiet).unwrap()
}

fn generate(llm: &mut Llm, prompts: &[Vec<u32>], max_tokens: u32, logits: bool) -> Vec<Generation> {
    let prompts: Vec<Prompt> = prompts.iter().cloned().map(Prompt::Tokens).collect();
    llm.generate(&prompts, &GenerationParams { max_tokens, ignore_eos: true, logits }).unwrap()
}

/// Runs a graph on the device and in the interpreter. The arena is poisoned before each step.
fn check(case: &Case) -> Result<(), String> {
    let graph = case.graph()?;
    let weights = SeededWeights::of(&graph, case.dummy_weights);
    let scenario = Scenario::new(&case.name, &case.sizes, &graph)?;
    let compiled = compile(&graph, codegen::Target::Sm90a, &weights, scenario.kv_blocks)?;
    let found = execute(&device::executor()?, &graph, Arc::clone(&compiled.file), &scenario)?;
    let expected = interpret(&graph, &weights, &scenario)?;
    let exact = case.args.iter().any(|arg| arg == "exact");
    let numerics = if exact { Numerics::Exact } else { Numerics::Rounding };
    compare(&graph, &expected, &found, Tolerance::of(numerics, &graph))
}

#[test]
fn filetests_of_the_cpu_run_on_the_device() {
    if available() {
        tests::run("run_device");
    }
}

#[test]
fn every_kernel_agrees_with_the_interpreter() {
    if !available() {
        return;
    }
    use rayon::prelude::*;
    // fewer of them, spread over all, for tools that make them slow
    let cases = match std::env::var("SMELT_KERNEL_CASES").ok().and_then(|count| count.parse::<usize>().ok()) {
        Some(count) => {
            let small = gpu_shapes::small_cases();
            let step = small.len().div_ceil(count);
            small.into_iter().step_by(step).collect()
        }
        None => gpu_shapes::cases(),
    };
    // new values in each run; a failure is reproduced with its seed
    let seed = std::env::var("SMELT_SEED").unwrap_or_else(|_| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.unwrap_or_default().as_secs().to_string()
    });
    let cases: Vec<Case> = cases.into_iter().map(|case| case.reseeded(&seed)).collect();
    eprintln!("kernels: SMELT_SEED={seed}");
    let failures: Vec<String> = cases
        .par_iter()
        .filter_map(|case| check(case).err().map(|reason| format!("{}: {reason}\n{}", case.name, case.text)))
        .collect();
    eprintln!("kernels: {} of {} cases agree", cases.len() - failures.len(), cases.len());
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

#[test]
fn f32_logits_and_tokens_are_those_of_transformers() {
    if !available() {
        return;
    }
    let mut largest = 0.0f32;
    for name in ORACLES {
        let expected = Expected::read(name);
        let options = CompileOptions { dtype: Some(DType::F32), ..CompileOptions::default() };
        let mut llm = load(&folder().join("oracle").join(name), "sm_90a", options);
        for (index, prompt) in expected.prompts.iter().enumerate() {
            let found = generate(&mut llm, std::slice::from_ref(prompt), 24, true).remove(0);
            let error = worst(&found.logits, &expected.logits[index]);
            assert!(error <= 1e-3, "{name}, prompt {index}: {error:e}");
            assert_eq!(found.token_ids, expected.greedy[index], "{name}, prompt {index}");
            largest = largest.max(error);
        }
    }
    eprintln!("oracles in f32: worst logit error {largest:.1e} x max(1, |logit|), all greedy tokens equal");
}

#[test]
fn sixteen_bit_logits_stay_close() {
    if !available() {
        return;
    }
    for dtype in [DType::BF16, DType::F16] {
        let mut largest = 0.0f32;
        for name in ORACLES {
            let expected = Expected::read(name);
            let options = CompileOptions { dtype: Some(dtype), ..CompileOptions::default() };
            let mut llm = load(&folder().join("oracle").join(name), "sm_90a", options);
            for (index, (prompt, expected)) in expected.prompts.iter().zip(&expected.logits).enumerate() {
                let found = generate(&mut llm, std::slice::from_ref(prompt), 0, true).remove(0);
                let norm = |values: &mut dyn Iterator<Item = f32>| values.map(|v| v * v).sum::<f32>().sqrt();
                let difference = norm(&mut found.logits.iter().zip(expected).map(|(a, b)| a - b));
                let relative = difference / norm(&mut expected.iter().copied());
                assert!(relative <= 2e-2, "{name} {dtype}, prompt {index}: {relative}");
                largest = largest.max(relative);
            }
        }
        eprintln!("oracles in {dtype}: largest relative error {largest:.1e}");
    }
}

/// Chunks and batches use other kernels: sums differ in their last bits, texts do not.
#[test]
fn chunks_and_batches_keep_f32_tokens() {
    if !available() {
        return;
    }
    for name in ORACLES {
        let expected = Expected::read(name);
        for (max_num_tokens, max_batch_size) in [(7, 3), (16, 4), (512, 8)] {
            let options = CompileOptions {
                dtype: Some(DType::F32),
                max_num_tokens: Some(max_num_tokens),
                max_batch_size: Some(max_batch_size),
                ..CompileOptions::default()
            };
            let mut llm = load(&folder().join("oracle").join(name), "sm_90a", options);
            // without logits: the engine runs ahead, and tokens are passed from step to step on the device
            let found = generate(&mut llm, &expected.prompts, 24, false);
            let tokens: Vec<&Vec<u32>> = found.iter().map(|generation| &generation.token_ids).collect();
            assert_eq!(tokens, expected.greedy.iter().collect::<Vec<_>>(), "{name}, {max_num_tokens}");
        }
    }
}

#[test]
fn ten_runs_give_the_same_bits() {
    if !available() {
        return;
    }
    let model = folder().join("../models/demo");
    for dtype in [DType::BF16, DType::F32] {
        let mut llm = load(&model, "sm_90a", CompileOptions { dtype: Some(dtype), ..CompileOptions::default() });
        let prompts = [(1..90).collect::<Vec<u32>>(), vec![5, 6, 7], (100..165).collect()];
        let first = generate(&mut llm, &prompts, 40, true);
        for run in 1..10 {
            let again = generate(&mut llm, &prompts, 40, true);
            assert!(again == first, "{dtype}: run {run} differs from the first");
        }
    }
}

#[test]
fn nothing_is_allocated_after_load() {
    if !available() {
        return;
    }
    let model = folder().join("../models/demo");
    let mut llm = load(&model, "sm_90a", CompileOptions { max_batch_size: Some(4), ..CompileOptions::default() });
    let prompts = [(1..90).collect::<Vec<u32>>(), vec![5, 6, 7], (100..165).collect(), vec![9]];
    // Other tests load and drop sessions meanwhile: only memory that always shrinks would be this session's.
    let free = || device::executor().unwrap().free_memory().unwrap();
    let steady = (0..20).any(|_| {
        let before = free();
        generate(&mut llm, &prompts, 40, true);
        generate(&mut llm, &prompts[1..2], 40, false);
        free() == before
    });
    assert!(steady, "free memory changes with every run");
}

#[test]
fn two_sessions_share_a_device() {
    if !available() {
        return;
    }
    let model = folder().join("../models/demo");
    let options = || CompileOptions { dtype: Some(DType::F32), ..CompileOptions::default() };
    let prompts = [(1..40).collect::<Vec<u32>>(), vec![5, 6, 7]];
    let alone = generate(&mut load(&model, "sm_90a", options()), &prompts, 60, false);
    let both: Vec<Vec<Generation>> = std::thread::scope(|scope| {
        let run = || generate(&mut load(&model, "sm_90a", options()), &prompts, 60, false);
        let threads = [scope.spawn(run), scope.spawn(run)];
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(both.iter().all(|generations| *generations == alone));
}

#[test]
fn the_demo_model_writes_the_sentences_of_the_cpu() {
    if !available() {
        return;
    }
    let model = folder().join("../models/demo");
    let prompts = ["This function returns", "If the vector", "An iterator", "Panics if the", "# Examples\n"];
    let text = |target: &str, dtype: DType| -> Vec<(Vec<u32>, Option<String>)> {
        let mut llm = load(&model, target, CompileOptions { dtype: Some(dtype), ..CompileOptions::default() });
        let prompts: Vec<Prompt> = prompts.iter().map(|prompt| Prompt::from(*prompt)).collect();
        let params = GenerationParams { max_tokens: 100, ..GenerationParams::default() };
        let generations = llm.generate(&prompts, &params).unwrap();
        generations.into_iter().map(|generation| (generation.token_ids, generation.text)).collect()
    };
    let (cpu, gpu) = (text("cpu", DType::F32), text("sm_90a", DType::F32));
    assert_eq!(cpu, gpu);
    let tokens: usize = gpu.iter().map(|(ids, _)| ids.len()).sum();
    eprintln!("demo model in f32: {tokens} tokens of {} texts are those of the CPU", gpu.len());
    let (cpu, gpu) = (text("cpu", DType::BF16), text("sm_90a", DType::BF16));
    let same = cpu.iter().zip(&gpu).filter(|(cpu, gpu)| cpu == gpu).count();
    eprintln!("demo model in bf16: {same} of {} texts are those of the CPU", gpu.len());
}

/// Other tests may share the device meanwhile: with `SMELT_GPU_ALONE=1`, and this test alone, an H200 reads 4.55 TB/s within
/// 3 %, and gives all memory back.
#[test]
fn ceilings_are_measured() {
    if !available() {
        return;
    }
    let free = || device::executor().unwrap().free_memory().unwrap();
    let before = free();
    let ceilings = driver().ceilings("sm_90a", RunOptions::default(), &mut Noted);
    eprintln!("ceilings of {}: reads {:.3} TB/s", ceilings.device, ceilings.read_bytes_per_s / 1e12);
    for product in &ceilings.products {
        eprintln!("ceilings: products of {} {:.0} TFLOP/s", product.dtype, product.flops_per_s / 1e12);
    }
    assert_eq!(ceilings.source(), smelt::RateSource::Measured);
    let [half, byte] = [DType::BF16, DType::F8E4M3].map(|dtype| ceilings.flops_per_s(dtype).unwrap());
    let read = ceilings.read_bytes_per_s;
    assert!(0.0 < read && read < 4.8e12 && 0.0 < half && half < 989e12 && 0.0 < byte && byte < 1979e12);
    if std::env::var_os("SMELT_GPU_ALONE").is_some() {
        assert!((read / 4.55e12 - 1.0).abs() < 0.03, "{read:e}");
        assert!(half > 400e12 && byte > 600e12, "{half:e}, {byte:e}");
        assert!(free() + (64 << 20) > before, "{} of {before} bytes are free", free());
    }
}

/// Launches alone, one after the other, and as steps run. With `SMELT_GPU_ALONE=1`, and this test alone, a model that keeps
/// the device busy: launches add up to the step in order within 10 %, and overlapping takes less.
#[test]
fn launches_are_timed_alone_and_together() {
    if !available() {
        return;
    }
    let alone = std::env::var_os("SMELT_GPU_ALONE").is_some();
    let compile = CompileOptions { max_batch_size: Some(8), ..CompileOptions::default() };
    let mut llm = match alone {
        false => load(&folder().join("../models/demo"), "sm_90a", compile),
        true => {
            let compile = CompileOptions { weights: smelt::WeightsChoice::Dummy, ..compile };
            load(&folder().join("../bench/configs/llama-3.1-8b"), "sm_90a", compile)
        }
    };
    let prompts = [(1..90).collect::<Vec<u32>>(), (5..70).collect()];
    let before = generate(&mut llm, &prompts, 12, false);
    for count in [1, 2] {
        let steps = llm.profile(&prompts[..count], 16, 20).unwrap();
        let plan = llm.plan().plan();
        let decodes: Vec<bool> = steps.iter().map(|step| step.decodes(plan)).collect();
        assert_eq!(decodes, [false, true]);
        for step in &steps {
            let (times, program) = (&step.times, &plan.programs[step.program]);
            assert_eq!((times.launches.len(), times.captured), (program.steps.len(), step.decodes(plan)));
            let sum: f64 = times.launches.iter().sum();
            assert!(times.launches.iter().all(|time| time.is_finite() && *time >= 0.0) && sum > 0.0);
            assert!(times.apart > 0.0 && times.step > 0.0);
            let (name, bytes) = (&program.name, step.costs(plan).unwrap().into_iter().sum::<plan::Cost>().bytes());
            eprintln!(
                "profile of {name}, {count} sequences: launches {sum:.1} us, in order {:.1} us, as ever {:.1} us, {bytes} bytes",
                times.apart, times.step
            );
            if alone {
                assert!((sum / times.apart - 1.0).abs() < 0.1, "{name}: {sum} us, {} us", times.apart);
                assert!(times.step < times.apart, "{name}: {} us, {} us", times.step, times.apart);
            }
        }
    }
    assert_eq!(generate(&mut llm, &prompts, 12, false), before, "what was profiled leaves nothing behind");
}

/// What went wrong is shown.
struct Noted;

impl smelt::Progress for Noted {
    fn phase(&mut self, _: &str) {}
    fn weights(&mut self, _: u64, _: u64) {}
    fn note(&mut self, text: &str) {
        eprintln!("{text}");
    }
}

/// An error on the device destroys the context, and so the process: this runs in its own process.
#[test]
fn device_errors_name_what_failed() {
    if !available() {
        return;
    }
    let error = |blocking: &str| {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "child_of_device_errors", "--nocapture"]).env("SMELT_TEST_CHILD", blocking);
        let output = child.output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        text.lines().find_map(|line| line.strip_prefix("error: ").map(str::to_owned)).unwrap_or(text)
    };
    let blocking = error("blocking");
    assert!(blocking.contains("attention_decode` failed in program `decode@1` at `layers.0."), "{blocking}");
    let later = error("not");
    assert!(later.contains("program `decode@1`") && later.contains("--blocking"), "{later}");
}

/// Runs a step whose block table points far outside of the KV cache, which only the caller can know.
#[test]
fn child_of_device_errors() {
    let Ok(blocking) = std::env::var("SMELT_TEST_CHILD") else { return };
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("x.plan");
    let target = TargetChoice::Named("sm_90a".to_owned());
    let options = CompileOptions { target, max_batch_size: Some(1), ..CompileOptions::default() };
    driver().compile(&folder().join("../models/demo"), &path, &options, &mut Quiet).unwrap();
    let file = Arc::new(PlanFile::open(&path).unwrap());
    let executor = CudaExecutor::new().unwrap();
    let executor = if blocking == "blocking" { executor.blocking() } else { executor };
    let mut session = executor.load(Arc::clone(&file)).unwrap();
    let program = &file.plan().programs[0];
    let symbols = upper_bounds(&program.symbols);
    let size = |port: &Port| {
        let shape = program.buffers[port.buffer as usize].shape.iter();
        shape.map(|dim| dim.eval(&symbols).unwrap() as usize).product::<usize>()
    };
    let values = |port: &Port| match port.name.as_str() {
        "block_table" => vec![i32::MAX; size(port)],
        // one sequence of one token
        "query_starts" => vec![0, 1],
        _ => vec![0; size(port)],
    };
    let inputs: Vec<(&str, Vec<i32>)> = program.inputs.iter().map(|port| (port.name.as_str(), values(port))).collect();
    let inputs = inputs.iter().map(|(name, values)| (*name, InputData::Values(values))).collect::<Vec<_>>();
    let result = session.submit(0, &Bindings { symbols: &symbols, inputs: &inputs });
    let result = result.and_then(|step| session.read(step, "next_tokens"));
    eprintln!("error: {}", result.unwrap_err());
}
