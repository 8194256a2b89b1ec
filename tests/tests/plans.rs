//! Plan files: the same bytes from the same inputs, and nothing but errors from damaged or forged ones.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use plan::{Arg, Bindings, Dim, Executor, Plan, PlanFile, PlanWriter, Scalar, Step, Symbol, WeightData};
use runtime::CpuExecutor;
use smelt::{CompileOptions, Driver, Quiet};

fn oracle() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("oracle/llama-gqa-tied-llama3-rope")
}

fn compile(dir: &Path, out: &Path, threads: usize) {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    let options = CompileOptions { max_batch_size: Some(2), ..CompileOptions::default() };
    pool.install(|| Driver::new().compile(dir, Some(out), &options, None, &mut Quiet)).unwrap();
}

/// Opens and loads; a plan that cannot be used gives an error, and nothing panics.
fn load(path: &Path) -> Result<(), String> {
    let run = || {
        let file = Arc::new(PlanFile::open(path).map_err(|error| error.to_string())?);
        CpuExecutor::new(Some(1)).unwrap().load(file).map(drop).map_err(|error| error.to_string())
    };
    catch_unwind(AssertUnwindSafe(run)).expect("no panic")
}

#[test]
fn the_same_input_gives_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("elsewhere");
    std::fs::create_dir(&copy).unwrap();
    for entry in std::fs::read_dir(oracle()).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
    }
    let (a, b) = (folder.path().join("a.plan"), folder.path().join("b.plan"));
    compile(&oracle(), &a, 1);
    compile(&copy, &b, 4);
    let bytes = std::fs::read(&a).unwrap();
    assert!(bytes == std::fs::read(&b).unwrap());
    let place = oracle().parent().unwrap().to_str().unwrap().as_bytes().to_vec();
    assert!(!bytes.windows(place.len()).any(|window| window == place), "the plan holds a path");
}

#[test]
fn every_damaged_byte_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.plan");
    compile(&oracle(), &path, 2);
    let good = std::fs::read(&path).unwrap();
    load(&path).unwrap();
    // all of the header's fields, then places all over zeros, weights and metadata
    let places = (0..200).chain((200..good.len()).step_by(good.len() / 150)).chain(good.len() - 40..good.len());
    for place in places {
        let mut bad = good.clone();
        bad[place] ^= 1 << (place % 8);
        std::fs::write(&path, &bad).unwrap();
        let error = load(&path).expect_err("a flipped bit");
        assert!(error.contains("plan"), "byte {place}: {error}");
    }
    for length in (0..64).chain((64..good.len()).step_by(good.len() / 60)) {
        std::fs::write(&path, &good[..length]).unwrap();
        load(&path).expect_err("a plan that was cut off");
    }
    std::fs::write(&path, [&good[..], b"x"].concat()).unwrap();
    load(&path).expect_err("a plan with something behind it");
}

#[test]
fn plans_for_others_are_refused_in_one_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.plan");
    compile(&oracle(), &path, 2);
    let good = std::fs::read(&path).unwrap();
    let mut newer = good;
    newer[8] = 99;
    let plan = PlanFile::open(&path).unwrap().plan().clone();
    std::fs::write(&path, newer).unwrap();
    assert!(load(&path).unwrap_err().contains("plan format 99, this program reads 1: compile the checkpoint again"));
    let gpu = Plan { target: "sm_90a".to_owned(), weights: Vec::new(), programs: Vec::new(), ..plan };
    PlanWriter::create(&path).unwrap().finish(&gpu).unwrap();
    assert!(load(&path).unwrap_err().contains("for target `sm_90a`"));
}

/// Changes a plan, keeps its weights' bytes, and writes it with hashes that fit.
fn forge(good: &PlanFile, path: &Path, change: &dyn Fn(&mut Plan)) {
    let mut plan = good.plan().clone();
    change(&mut plan);
    let mut writer = PlanWriter::create(path).unwrap();
    writer.append(good.weights()).unwrap();
    writer.finish(&plan).unwrap();
}

/// Runs every program at its upper bounds, with this number in all inputs. Zeros are a step of padding alone.
fn run_all(path: &Path, value: i32) -> Result<(), String> {
    let run = || {
        let file = Arc::new(PlanFile::open(path).map_err(|error| error.to_string())?);
        let executor = CpuExecutor::new(Some(2)).unwrap();
        let mut session = executor.load(Arc::clone(&file)).map_err(|error| error.to_string())?;
        for (index, program) in file.plan().programs.iter().enumerate() {
            let symbols = plan::upper_bounds(&program.symbols);
            let ports: Vec<(&str, Vec<i32>)> = program
                .inputs
                .iter()
                .map(|port| {
                    let shape = &program.buffers[port.buffer as usize].shape;
                    let elements: u64 = shape.iter().map(|dim| dim.eval(&symbols).unwrap()).product();
                    (port.name.as_str(), vec![value; elements as usize])
                })
                .collect();
            let inputs = ports.iter().map(|(name, values)| (*name, values.as_slice())).collect();
            let bindings = Bindings { symbols: symbols.clone(), inputs };
            session.submit(index, &bindings).map_err(|error| error.to_string())?;
        }
        Ok(())
    };
    catch_unwind(AssertUnwindSafe(run)).expect("no panic")
}

#[test]
fn forged_plans_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.plan");
    compile(&oracle(), &path, 2);
    let good = PlanFile::open(&path).unwrap();
    let forged = folder.path().join("forged.plan");
    let launch = |plan: &mut Plan, change: &dyn Fn(&mut plan::Launch)| {
        for Step::Launch(launch) in plan.programs.iter_mut().flat_map(|program| &mut program.steps) {
            change(launch);
        }
    };
    let changes: Vec<(&str, Box<dyn Fn(&mut Plan)>)> = vec![
        ("a weight behind the section", Box::new(|plan| plan.weights[0].data = WeightData::Stored { offset: 1 << 40 })),
        ("a weight off its alignment", Box::new(|plan| plan.weights[0].data = WeightData::Stored { offset: 4 })),
        ("a huge weight", Box::new(|plan| plan.weights[0].shape = vec![u64::MAX, u64::MAX])),
        ("random parts that do not add up", Box::new(|plan| plan.weights[0].data = WeightData::Random(Vec::new()))),
        ("another weight shape", Box::new(|plan| plan.weights.iter_mut().for_each(|weight| weight.shape.reverse()))),
        ("an integer weight", Box::new(|plan| plan.weights.iter_mut().for_each(|w| w.dtype = plan::DType::I32))),
        ("no KV blocks", Box::new(|plan| plan.kv[0].blocks = 0)),
        ("a huge KV cache", Box::new(|plan| plan.kv[0].head_dim = u32::MAX)),
        ("other KV heads", Box::new(|plan| plan.kv[0].kv_heads += 1)),
        ("a buffer behind the arena", Box::new(|plan| plan.programs[0].buffers[0].offset = 1 << 30)),
        ("a tiny arena", Box::new(|plan| plan.programs[0].arena_bytes = 1)),
        ("a huge arena", Box::new(|plan| plan.programs[0].arena_bytes = u64::MAX)),
        (
            "buffers on top of each other",
            Box::new(|plan| {
                plan.programs[0].buffers.iter_mut().for_each(|buffer| buffer.offset = 0);
            }),
        ),
        ("a buffer larger than its bytes", Box::new(|plan| plan.programs[0].buffers[3].bytes = 0)),
        (
            "a symbol nobody binds",
            Box::new(|plan| {
                plan.programs[0].buffers[0].shape = vec![Dim::symbol(&Symbol::new("Z").unwrap())];
            }),
        ),
        (
            "bounds the wrong way round",
            Box::new(|plan| {
                plan.programs[0].symbols[0].min = 9;
                plan.programs[0].symbols[0].max = 1;
            }),
        ),
        ("larger bounds", Box::new(|plan| plan.programs[2].symbols.iter_mut().for_each(|decl| decl.max *= 1000))),
        ("an unknown kernel", Box::new(|plan| plan.kernels[0].name = "rm -r".to_owned())),
        (
            "other kernels",
            Box::new(|plan| {
                let names: Vec<String> = plan.kernels.iter().map(|kernel| kernel.name.clone()).collect();
                plan.kernels.iter_mut().zip(names.iter().cycle().skip(1)).for_each(|(k, name)| k.name.clone_from(name));
            }),
        ),
        ("kernels without parameters", Box::new(|plan| plan.kernels.iter_mut().for_each(|k| k.params.clear()))),
        (
            "other parameters",
            Box::new(|plan| {
                let params = plan.kernels.iter_mut().flat_map(|kernel| &mut kernel.params);
                params.for_each(|param| param.value = Scalar::Int(i64::MAX));
            }),
        ),
        ("a kernel that is not there", Box::new(|plan| launch(plan, &|launch| launch.kernel = 1000))),
        ("arguments that are not there", Box::new(|plan| launch(plan, &|launch| launch.inputs[0] = Arg::Weight(9999)))),
        ("too few arguments", Box::new(|plan| launch(plan, &|launch| launch.inputs.clear()))),
        ("outputs that are inputs", Box::new(|plan| launch(plan, &|launch| launch.outputs.clone_from(&launch.inputs)))),
        ("swapped arguments", Box::new(|plan| launch(plan, &|launch| launch.inputs.reverse()))),
        ("billions of tasks", Box::new(|plan| launch(plan, &|launch| launch.grid = Dim::from(1 << 40)))),
        ("a port without a buffer", Box::new(|plan| plan.programs[0].inputs[0].buffer = 1000)),
        ("several devices", Box::new(|plan| plan.world_size = 2)),
        ("no limits", Box::new(|plan| plan.limits.max_num_tokens = 0)),
    ];
    for (what, change) in changes {
        forge(&good, &forged, &*change);
        run_all(&forged, 0).expect_err(what);
    }
    // a plan that nobody touched runs, but not on inputs that point outside of everything
    forge(&good, &forged, &|_| {});
    run_all(&forged, 0).unwrap();
    run_all(&forged, -1).unwrap_err();
    run_all(&forged, i32::MAX).unwrap_err();
}
