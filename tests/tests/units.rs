//! Every unit of the oracles' plans and of an 8B-shaped plan is compiled with NVRTC, also on machines without a GPU.
//! Without NVRTC this is reported as skipped.

mod common;
mod gpu_shapes;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use codegen::ProgramShape;
use codegen::cuda::find;
use common::expected::ORACLES;
use common::{compile_twice, demo, oracle};
use smelt::{
    Compilation, CompileOptions, DType, Driver, Format, PlanFile, PrecisionOptions, Quiet, Source, TargetChoice,
    WeightsChoice,
};
use tests::{SeededWeights, Traced, compile, device, folder};

/// A driver with the NVRTC of the tests, and a directory for units; `None` if there is no NVRTC.
fn driver(units: Option<PathBuf>) -> Option<Driver> {
    if let Err(reason) = device::compiler() {
        eprintln!("skipped: {reason}");
        return None;
    }
    let home = std::env::var_os("SMELT_CUDA_HOME").map(Into::into);
    let folders = move || home.iter().cloned().chain(["/usr/local/cuda".into()]).collect();
    let driver = Driver::new().cuda_folders(folders);
    Some(match units {
        Some(folder) => driver.unit_cache(folder),
        None => driver,
    })
}

/// Units that other runs of these tests have compiled.
fn cache() -> Option<PathBuf> {
    Some(std::env::temp_dir().join("smelt-test-units"))
}

fn options(dtype: DType) -> CompileOptions {
    let target = TargetChoice::Named("sm_90a".to_owned());
    CompileOptions { target, dtype: Some(dtype), ..CompileOptions::default() }
}

#[test]
fn files_of_no_use_are_passed_over() {
    let Some(home) = std::env::var_os("SMELT_CUDA_HOME").map(PathBuf::from) else {
        return eprintln!("skipped: SMELT_CUDA_HOME is not set");
    };
    let scratch = tempfile::tempdir().unwrap();
    let broken = scratch.path().join("libnvrtc.so.13");
    std::fs::write(&broken, "no library").unwrap();
    let found = find(&[scratch.path().to_owned(), home.clone()]).unwrap();
    assert!(found.path.is_some_and(|path| path.starts_with(&home)));
    assert!(found.skipped.len() == 1 && found.skipped[0].starts_with(broken.to_str().unwrap()), "{:?}", found.skipped);
}

#[test]
fn plans_of_the_oracles_build_and_open() {
    let Some(driver) = driver(cache()) else { return };
    let scratch = tempfile::tempdir().unwrap();
    let mut units = 0;
    for name in ORACLES {
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let plan = scratch.path().join("oracle.plan");
            driver.compile(&oracle(name), &plan, &options(dtype), &mut Quiet).unwrap();
            let file = PlanFile::open(&plan).unwrap();
            let codes = file.plan().kernels.iter().map(|kernel| kernel.code.as_ref().unwrap());
            units += codes.clone().count();
            // a unit is self-contained, and independent of the machine it was made on
            assert!(codes.clone().all(|code| !code.source.contains("#include") && !code.cubin.is_empty()));
            let root = folder().canonicalize().unwrap().to_string_lossy().into_owned();
            assert!(codes.clone().all(|code| !code.source.contains(&root)));
        }
    }
    eprintln!("units of the oracles' plans: {units} compiled");
}

#[test]
fn an_8b_plan_builds_from_its_config_alone() {
    let Some(driver) = driver(cache()) else { return };
    let scratch = tempfile::tempdir().unwrap();
    let plan = scratch.path().join("8b.plan");
    let config = folder().join("../bench/configs/llama-3.1-8b");
    let compile = CompileOptions { weights: WeightsChoice::Dummy, ..options(DType::BF16) };
    let source = Source::open(&config, &compile).unwrap();
    let mut progress = Quiet;
    let lowered = Compilation::new(&driver, &source, &compile, &mut progress).unwrap().lowered().unwrap();
    let built = lowered.build().unwrap();
    let units = built.units().len();
    let report = built.write(&plan).unwrap();
    let bytes = report.plan_bytes.unwrap();
    assert!(bytes < 16 << 20, "{bytes} bytes");
    assert_eq!(report.stored_weight_bytes, 128 * 4 / 2, "the frequencies alone");
    eprintln!("units of the 8B-shaped plan: {} compiled, plan of {bytes} bytes", units);
    // the same inputs, the same plan
    let again = scratch.path().join("again.plan");
    driver.compile(&config, &again, &compile, &mut Quiet).unwrap();
    assert!(std::fs::read(&plan).unwrap() == std::fs::read(&again).unwrap());
}

/// No unit comes from a cache: the compiler of CUDA C must be deterministic, too.
#[test]
fn the_same_input_gives_the_same_bytes() {
    if let Some(driver) = driver(None) {
        compile_twice(&driver, &demo(), &options(DType::BF16));
    }
}

/// Some of the shapes that the GPU tests run.
#[test]
fn odd_shapes_build() {
    if driver(cache()).is_none() {
        return;
    }
    for case in gpu_shapes::cases().into_iter().step_by(11) {
        let graph = case.graph().unwrap();
        let weights = SeededWeights::of(&graph, case.dummy_weights);
        let compiled =
            compile(&graph, smelt::Target::Sm90a, &weights, 4).map_err(|error| format!("{}: {error}", case.name));
        let selection = compiled.unwrap().selection;
        assert!(!selection.contains("would be slow"), "{}: {selection}", case.name);
    }
}

/// The kernels that ceilings are measured with build, and their plans are sound: without a device nothing is read, which is
/// noticed.
#[test]
fn the_kernels_that_measure_ceilings_build() {
    let Ok(compiler) = device::compiler() else { return eprintln!("skipped: no NVRTC") };
    let refused = codegen::read_rate(&Traced::default(), &compiler, 64 << 20).unwrap_err().to_string();
    assert!(refused.contains("its sums are not those of the memory"), "{refused}");
    let product = "\
graph @product(%given: f32[8192, 8192]) {
  %x = cast %given {to = bf16} : bf16[8192, 8192]
  %weight = constant @\"weight\" : bf16[8192, 8192]
  %y = linear %x, %weight : bf16[8192, 8192]
  return %y
}
";
    let graph = ir::text::parse(product, &ir::OpSet::standard()).unwrap().graph;
    let programs = [ProgramShape {
        name: "product".to_owned(),
        kind: plan::ProgramKind::Decode,
        replacements: Default::default(),
        symbols: Vec::new(),
    }];
    let catalog = codegen::Target::Sm90a.catalog();
    let selection = codegen::select(&graph, &catalog, &programs).unwrap();
    let launches = codegen::chosen(&selection, &programs, 0);
    assert_eq!(launches[1].kernel(), "linear_wgmma");
    // however long launches take that do nothing, the trial has run
    match launches[1].best(&catalog, &Traced::default(), Some(&compiler), 8) {
        Ok(time) => assert!(time.as_secs_f64() < 1.0),
        Err(error) => assert!(error.to_string().contains("took no more time"), "{error}"),
    }
}

/// The kernels of a checkpoint's programs.
fn kernels(driver: &Driver, config: &Path, options: &CompileOptions) -> String {
    let (source, mut progress) = (Source::open(config, options).unwrap(), Quiet);
    let imported = Compilation::new(driver, &source, options, &mut progress).unwrap().import().unwrap();
    imported.optimize().unwrap().select().unwrap().selection().print()
}

/// The launches of a layer for one token of one sequence, without the configurations of the kernels.
fn launches(config: &Path, layer: u32, kv: Option<DType>, driver: &Driver) -> Vec<String> {
    let precision = PrecisionOptions { kv, ..PrecisionOptions::default() };
    let compile = CompileOptions { weights: WeightsChoice::Dummy, precision, ..options(DType::BF16) };
    let kernels = kernels(driver, config, &compile);
    let decode = kernels.split("// ").find(|program| program.starts_with("decode@1")).unwrap();
    let layer = format!("%layers.{layer}.");
    let launches = decode.lines().filter(|line| line.starts_with(&layer) && line.contains(" grid "));
    launches.filter_map(|line| Some(line.split(" {").next()?.to_owned())).collect()
}

/// Three layers as wide as those of Starcoder2 3B. The units are built if there is a compiler: norms that spill
/// registers would be unfused.
#[test]
fn a_layer_of_a_starcoder2_decode_step_has_five_launches() {
    let scratch = tempfile::tempdir().unwrap();
    let config = scratch.path().join("config.json");
    std::fs::write(&config, r#"{"architectures": ["Starcoder2ForCausalLM"], "num_hidden_layers": 3}"#).unwrap();
    assert_eq!(
        launches(&config, 0, None, &driver(cache()).unwrap_or_default()),
        [
            "%layers.0.attn.q_k_v = fused_linear : linear_few",
            "%layers.0.attn.mixed = rope_attention : rope_attention_decode",
            "%layers.0.attn.sum = fused_linear : linear_few",
            "%layers.0.mlp.gelu_tanh = fused_linear : linear_few",
            "%layers.0.mlp.sum = fused_linear : linear_few",
        ]
    );
}

#[test]
fn a_layer_of_an_8b_decode_step_has_five_launches() {
    for (model, kv) in [("llama-3.1-8b", None), ("qwen3-8b", None), ("llama-3.1-8b", Some(DType::F8E4M3))] {
        assert_eq!(
            launches(&folder().join("../bench/configs").join(model), 17, kv, &Driver::new()),
            [
                "%layers.17.attn.q_k_v = fused_linear : linear_few",
                "%layers.17.attn.mixed = rope_attention : rope_attention_decode",
                "%layers.17.attn.sum = fused_linear : linear_few",
                "%layers.17.mlp.gated = fused_linear : linear_few",
                "%layers.17.mlp.sum = fused_linear : linear_few",
            ],
            "{model}, {kv:?}"
        );
    }
}

/// Launches of a step of 8B shape, by op.
fn launches_by_op(format: Format, disabled: &[&str], program: &str) -> BTreeMap<String, usize> {
    let config = folder().join("../bench/configs/llama-3.1-8b");
    let compile = CompileOptions {
        weights: WeightsChoice::Dummy,
        precision: PrecisionOptions { linears: Some(format), ..PrecisionOptions::default() },
        disabled_passes: disabled.iter().map(|name| (*name).to_owned()).collect(),
        ..options(DType::BF16)
    };
    let kernels = kernels(&Driver::new(), &config, &compile);
    // equal programs share a list
    let named =
        |list: &&str| list.lines().next().is_some_and(|line| line.split(", ").any(|name| name.starts_with(program)));
    let list = kernels.split("// ").find(named).unwrap();
    let mut counts = BTreeMap::new();
    for line in list.lines().filter(|line| line.contains(" grid ")) {
        let op = line.split(" = ").nth(1).and_then(|rest| rest.split(" : ").next()).unwrap();
        *counts.entry(op.to_owned()).or_default() += 1;
    }
    counts
}

/// The launches of two quantized operands: one after attention and one after the gate of each layer, and none after a
/// norm, which quantizes its own result.
#[test]
fn norms_of_an_8b_step_make_codes_in_one_launch() {
    for program in ["decode@1", "mixed@"] {
        for format in [Format::Fp8, Format::Fp8Block] {
            let (fused, apart) =
                (launches_by_op(format, &[], program), launches_by_op(format, &["fuse-norm-quantize"], program));
            let total = |counts: &BTreeMap<String, usize>| counts.values().sum::<usize>();
            assert_eq!(total(&apart) - total(&fused), 2 * 32, "{program}: {fused:?}");
            let of = |op: &str| fused.get(op).copied().unwrap_or(0);
            let attention = of("rope_attention") + of("rope_append_kv") + of("paged_attention");
            assert_eq!((of("rms_norm_quantize"), of("quantize_blocks")), (64, 64), "{program}");
            assert_eq!(
                (of("fused_linear") + of("linear"), attention),
                (4 * 32 + 1, if program == "decode@1" { 32 } else { 64 })
            );
        }
    }
}
