//! Plans with valid hashes and invalid contents: none may be run, and none may make the program panic, hang or touch
//! memory that is not its own.

mod common;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use common::{assert_says, demo, load, oracle, sample};
use plan::{
    Arg, Bindings, Code, DType, Dim, ExecError, Executor, InputData, Launch, Layout, Param, Plan, PlanFile, PlanWriter,
    Port, Program, ProgramKind, RandomPart, Scalar, Step, Symbol, TensorMap, WeightData, upper_bounds,
};
use runtime::CpuExecutor;
use smelt::{CompileOptions, Driver, Error, ErrorKind, Generation, Quiet};
use tempfile::TempDir;

/// A plan that runs, and the bytes of its file.
struct Sound {
    bytes: Vec<u8>,
    plan: Plan,
    weights: Vec<u8>,
}

static SOUND: LazyLock<Sound> = LazyLock::new(|| {
    let scratch = Scratch::new();
    let options = CompileOptions {
        max_batch_size: Some(2),
        max_seq_len: Some(128),
        max_num_tokens: Some(16),
        ..CompileOptions::default()
    };
    Driver::new().compile(&oracle("llama-mha"), &scratch.plan, &options, &mut Quiet).unwrap();
    run(&scratch.plan).unwrap();
    let file = PlanFile::open(&scratch.plan).unwrap();
    let bytes = fs::read(&scratch.plan).unwrap();
    Sound { bytes, plan: file.plan().clone(), weights: file.weights().to_vec() }
});

/// A temporary directory with a path for a plan.
struct Scratch {
    plan: PathBuf,
    folder: TempDir,
}

impl Scratch {
    fn new() -> Scratch {
        let folder = tempfile::tempdir().unwrap();
        Scratch { plan: folder.path().join("x.plan"), folder }
    }

    fn holding(bytes: &[u8]) -> Scratch {
        let scratch = Scratch::new();
        fs::write(&scratch.plan, bytes).unwrap();
        scratch
    }

    /// A file with valid hashes, whatever the plan contains.
    fn with_plan(plan: &Plan) -> Scratch {
        let scratch = Scratch::new();
        let mut writer = PlanWriter::create(&scratch.plan).unwrap();
        writer.append(&SOUND.weights).unwrap();
        writer.finish(plan).unwrap();
        scratch
    }
}

/// Loads a plan and generates three tokens.
fn run(path: &Path) -> Result<Vec<Generation>, Error> {
    sample(&mut load(path, CompileOptions::default())?)
}

/// Asserts that a plan is refused when it is loaded, as bad input and without a panic. `what` describes the change.
fn assert_refused(scratch: &Scratch, what: &str) -> String {
    let result = catch_unwind(AssertUnwindSafe(|| load(&scratch.plan, CompileOptions::default())));
    let Ok(result) = result else { panic!("{what}: panic") };
    let Err(error) = result else { panic!("{what}: the plan was loaded") };
    let message = error.to_string();
    let kinds = [ErrorKind::BadInput, ErrorKind::Unsupported, ErrorKind::DoesNotFit];
    assert!(kinds.contains(&error.kind()), "{what}: {:?}: {message}", error.kind());
    assert!(message.len() <= 4096, "{what}: an error of {} bytes", message.len());
    message
}

fn read_u64(bytes: &[u8], at: usize) -> usize {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize
}

/// The offset of the metadata.
fn metadata_at(bytes: &[u8]) -> usize {
    read_u64(bytes, 80)
}

#[test]
fn something_else_is_no_plan() {
    let long = Plan { target: "a target with a name that is too long".to_owned(), ..SOUND.plan.clone() };
    assert_refused(&Scratch::with_plan(&long), "a long target");
    let hint = "not a plan: it lacks the magic number of a plan; make one with `smelt compile DIR -o FILE.plan`";
    for bytes in [&b""[..], b"S", b"{\"architectures\": []}", &[0; 8192]] {
        assert_says(&assert_refused(&Scratch::holding(bytes), "something else"), &["x.plan", hint]);
    }
    let folder = PlanFile::open(&demo()).unwrap_err();
    assert_says(&folder.to_string(), &["models/demo", hint]);
    let missing = PlanFile::open(&Scratch::new().folder.path().join("y.plan")).unwrap_err();
    assert_says(&missing.to_string(), &["y.plan", "No such file"]);
}

/// A part of a plan, and its damage.
type Lie<T> = (&'static str, fn(&mut T));

fn decode(plan: &mut Plan) -> &mut Program {
    plan.programs.iter_mut().find(|program| program.kind == ProgramKind::Decode).unwrap()
}

fn mixed(plan: &mut Plan) -> &mut Program {
    plan.programs.iter_mut().find(|program| program.kind == ProgramKind::Mixed).unwrap()
}

/// The first launch of a kernel in the program of the prompt.
fn launch<'a>(plan: &'a mut Plan, kernel: &str) -> &'a mut Launch {
    let index = plan.kernels.iter().position(|known| known.name == kernel).unwrap() as u32;
    let mut launches = mixed(plan).steps.iter_mut().map(|Step::Launch(launch)| launch);
    launches.find(|launch| launch.kernel == index).unwrap()
}

fn param<'a>(plan: &'a mut Plan, kernel: &str, name: &str) -> &'a mut Scalar {
    let kernel = plan.kernels.iter_mut().find(|known| known.name == kernel).unwrap();
    &mut kernel.params.iter_mut().find(|param| param.name == name).unwrap().value
}

fn buffer<'a>(program: &'a mut Program, name: &str) -> &'a mut plan::Buffer {
    program.buffers.iter_mut().find(|buffer| buffer.name == name).unwrap()
}

const DATA: &[Lie<Plan>] = &[
    ("a weight past the end", |plan| plan.weights[0].data = WeightData::Stored { offset: 1 << 30 }),
    ("a weight at the end of memory", |plan| plan.weights[0].data = WeightData::Stored { offset: u64::MAX - 255 }),
    ("a weight between alignments", |plan| plan.weights[0].data = WeightData::Stored { offset: 2 }),
    ("a weight whose size overflows", |plan| plan.weights[0].shape = vec![1 << 33, 1 << 33]),
    ("a weight without elements", |plan| plan.weights[0].shape = vec![1 << 60, 0]),
    ("a weight of another shape", |plan| plan.weights[0].shape = vec![64, 320]),
    ("a weight of rank zero", |plan| plan.weights[2].shape = vec![]),
    ("a weight of integers", |plan| plan.weights.iter_mut().for_each(|weight| weight.dtype = DType::I32)),
    ("no weights", |plan| plan.weights.clear()),
    ("random parts of another size", |plan| {
        plan.weights[0].data = WeightData::Random(vec![RandomPart::named("w", u64::MAX, 0.0, 1.0); 2]);
    }),
    ("random weights of 128 TiB", |plan| {
        plan.weights[0].shape = vec![1 << 45];
        plan.weights[0].data = WeightData::Random(vec![RandomPart::named("w", 1 << 45, 0.0, 1.0)]);
    }),
    ("random weights of 2^48 bytes each", |plan| {
        for weight in &mut plan.weights {
            (weight.dtype, weight.shape) = (DType::F32, vec![1 << 46]);
            weight.data = WeightData::Random(vec![RandomPart::named("w", 1 << 46, 0.0, 1.0)]);
        }
    }),
    ("a weight of many axes", |plan| plan.weights[0].shape.extend([1; 7])),
    ("packed codes as a table", |plan| {
        (plan.weights[0].dtype, plan.weights[0].layout) = (DType::I4, Layout::Packed);
    }),
    ("codes a byte each, where they are packed", |plan| {
        linear_weight(plan).dtype = DType::I4;
    }),
    ("no KV cache", |plan| plan.kv.clear()),
    ("a KV cache without blocks", |plan| plan.kv[0].blocks = 0),
    ("a KV cache that overflows", |plan| (plan.kv[0].blocks, plan.kv[0].layers) = (u32::MAX, u32::MAX)),
    ("a KV cache of 90 TiB", |plan| (plan.kv[0].blocks, plan.kv[0].layers) = (1 << 28, 12)),
    ("a KV cache of integers", |plan| plan.kv[0].dtype = DType::I32),
    ("fewer layers in the cache", |plan| plan.kv[0].layers = 2),
    ("narrower heads in the cache", |plan| plan.kv[0].head_dim = 8),
    ("fewer heads in the cache", |plan| plan.kv[0].kv_heads = 3),
    ("shorter blocks", |plan| plan.kv[0].block_tokens = 1),
    ("a limit of zero", |plan| plan.limits.max_num_tokens = 0),
    ("endless sequences", |plan| plan.limits.max_seq_len = u32::MAX),
    ("another vocabulary", |plan| plan.model.vocab_size = u32::MAX),
    ("two devices", |plan| plan.world_size = 2),
    ("no kernels", |plan| plan.kernels.clear()),
    ("an unknown kernel", |plan| plan.kernels[0].name = "launch_missiles".to_owned()),
    ("kernels that change places", |plan| plan.kernels.rotate_left(1)),
    ("a kernel without its parameter", |plan| plan.kernels.iter_mut().for_each(|kernel| kernel.params.clear())),
    ("a parameter of another kind", |plan| *param(plan, "argmax", "classes") = Scalar::Text("all".to_owned())),
    ("more classes than columns", |plan| *param(plan, "argmax", "classes") = Scalar::Int(1 << 40)),
    ("no columns in a task", |plan| *param(plan, "linear", "columns_per_task") = Scalar::Int(0)),
    ("one column in a task", |plan| *param(plan, "linear", "columns_per_task") = Scalar::Int(1)),
    ("countless heads", |plan| *param(plan, "rope_append_kv", "heads") = Scalar::Int(i64::MAX)),
    ("an epsilon that is a list of words", |plan| {
        plan.kernels[1].params = vec![Param { name: "eps".to_owned(), value: Scalar::Text("1e-5, 1".to_owned()) }];
    }),
];

/// The weight of the first product.
fn linear_weight(plan: &mut Plan) -> &mut plan::Weight {
    let Arg::Weight(index) = launch(plan, "linear").inputs[1] else { panic!("the second input is a buffer") };
    &mut plan.weights[index as usize]
}

const PROGRAMS: &[Lie<Plan>] = &[
    ("no programs", |plan| plan.programs.clear()),
    ("no program for prompts", |plan| plan.programs.retain(|program| program.kind == ProgramKind::Decode)),
    ("no steps", |plan| mixed(plan).steps.clear()),
    ("a first step too few", |plan| drop(mixed(plan).steps.remove(0))),
    ("a last step too few", |plan| drop(mixed(plan).steps.pop())),
    ("steps in another order", |plan| mixed(plan).steps.reverse()),
    ("a step that comes twice", |plan| {
        let first = mixed(plan).steps[0].clone();
        mixed(plan).steps.insert(0, first);
    }),
    ("no symbols", |plan| mixed(plan).symbols.clear()),
    ("a symbol that comes twice", |plan| {
        let symbol = mixed(plan).symbols[0].clone();
        mixed(plan).symbols.push(symbol);
    }),
    ("another symbol", |plan| mixed(plan).symbols[0].symbol = Symbol::new("Q").unwrap()),
    ("endless steps", |plan| mixed(plan).symbols.iter_mut().for_each(|decl| decl.max = 1 << 40)),
    ("endless batches", |plan| decode(plan).symbols.iter_mut().for_each(|decl| decl.max = 1 << 40)),
    ("batches of no size", |plan| {
        plan.programs
            .iter_mut()
            .flat_map(|program| &mut program.symbols)
            .for_each(|decl| (decl.min, decl.max) = (9, 3));
    }),
    ("no arena", |plan| mixed(plan).arena_bytes = 0),
    ("a boundless arena", |plan| mixed(plan).arena_bytes = u64::MAX),
    ("a buffer past the arena", |plan| mixed(plan).buffers[7].offset = 1 << 40),
    ("a buffer at the end of memory", |plan| mixed(plan).buffers[7].offset = u64::MAX - 255),
    ("a buffer between alignments", |plan| mixed(plan).buffers[7].offset += 1),
    ("a buffer that is too short", |plan| mixed(plan).buffers[7].bytes -= 1),
    ("a buffer whose size overflows", |plan| mixed(plan).buffers[7].shape = vec![Dim::from(1 << 40); 2]),
    ("a buffer without elements", |plan| mixed(plan).buffers[7].shape = vec![Dim::from(1 << 60), Dim::from(0)]),
    ("a buffer of an unknown size", |plan| {
        mixed(plan).buffers[7].shape[0] = Dim::symbol(&Symbol::new("Z").unwrap());
    }),
    ("a buffer that lives backwards", |plan| mixed(plan).buffers[7].live = (9, 3)),
    ("a buffer that lives for ever", |plan| mixed(plan).buffers[7].live.1 = u32::MAX),
    ("a buffer of many axes", |plan| mixed(plan).buffers[7].shape.extend(vec![Dim::from(1); 7])),
    ("an input that comes twice", |plan| {
        let port = mixed(plan).inputs[0].clone();
        mixed(plan).inputs.push(port);
    }),
    ("buffers that share bytes", |plan| {
        let place = buffer(mixed(plan), "positions").offset;
        buffer(mixed(plan), "query_starts").offset = place;
    }),
    ("tokens that are no integers", |plan| buffer(mixed(plan), "tokens").dtype = DType::F32),
    ("a narrow block table", |plan| buffer(mixed(plan), "block_table").shape[1] = Dim::from(1)),
    ("an input that is missing", |plan| drop(mixed(plan).inputs.remove(3))),
    ("an input of another name", |plan| mixed(plan).inputs[0].name = "words".to_owned()),
    ("inputs that change places", |plan| {
        let inputs = &mut mixed(plan).inputs;
        (inputs[0].buffer, inputs[2].buffer) = (inputs[2].buffer, inputs[0].buffer);
    }),
    ("a port without a buffer", |plan| mixed(plan).outputs[0].buffer = u32::MAX),
    ("no outputs", |plan| mixed(plan).outputs.clear()),
    ("outputs that change places", |plan| {
        let outputs = &mut mixed(plan).outputs;
        (outputs[0].buffer, outputs[1].buffer) = (outputs[1].buffer, outputs[0].buffer);
    }),
];

const LAUNCHES: &[Lie<Launch>] = &[
    ("a kernel past the end", |launch| launch.kernel = u32::MAX),
    ("no inputs", |launch| launch.inputs.clear()),
    ("no outputs", |launch| launch.outputs.clear()),
    ("one input too many", |launch| launch.inputs.push(launch.inputs[0])),
    ("inputs in another order", |launch| launch.inputs.rotate_left(1)),
    ("a buffer past the end", |launch| launch.inputs[0] = Arg::Buffer(u32::MAX)),
    ("a weight past the end", |launch| launch.inputs[0] = Arg::Weight(u32::MAX)),
    ("a weight of another size", |launch| launch.inputs[0] = Arg::Weight(1)),
    ("a layer past the end", |launch| launch.inputs[0] = Arg::Kv { group: 0, layer: u32::MAX }),
    ("a group past the end", |launch| launch.outputs[0] = Arg::Kv { group: 1, layer: 0 }),
    ("a weight as output", |launch| launch.outputs[0] = Arg::Weight(0)),
    ("an input as output", |launch| launch.outputs[0] = Arg::Buffer(0)),
    ("an output twice", |launch| launch.outputs = vec![launch.outputs[0]; 2]),
    ("a boundless grid", |launch| launch.grid = Dim::from(u64::MAX)),
    ("a large grid", |launch| launch.grid = launch.grid.clone() + Dim::from(1 << 36)),
    ("a grid of one more", |launch| launch.grid = launch.grid.clone() + Dim::from(1)),
    ("an empty grid", |launch| launch.grid = Dim::from(0)),
    ("a grid without a value", |launch| launch.grid = Dim::symbol(&Symbol::new("Z").unwrap())),
    ("an op of two lines", |launch| launch.ir.push('\n')),
    ("an endless op", |launch| launch.ir = "x".repeat(Launch::MAX_IR_BYTES + 1)),
    ("work without a value", |launch| launch.work.flops = Dim::symbol(&Symbol::new("Z").unwrap())),
    ("boundless reads", |launch| launch.work.read = Dim::symbol(&plan::context()) * Dim::from(u64::MAX)),
    ("boundless writes", |launch| launch.work.written = Dim::from(u64::MAX) + Dim::symbol(&plan::context())),
];

#[test]
fn plans_that_lie_about_data_are_refused() {
    for (what, lie) in DATA {
        let mut plan = SOUND.plan.clone();
        lie(&mut plan);
        assert_refused(&Scratch::with_plan(&plan), what);
    }
}

#[test]
fn plans_that_lie_about_programs_are_refused() {
    for (what, lie) in PROGRAMS {
        let mut plan = SOUND.plan.clone();
        lie(&mut plan);
        assert_refused(&Scratch::with_plan(&plan), what);
    }
}

#[test]
fn launches_with_wrong_arguments_are_refused() {
    let kernels: Vec<String> = SOUND.plan.kernels.iter().map(|kernel| kernel.name.clone()).collect();
    for kernel in &kernels {
        for (what, lie) in LAUNCHES {
            let mut plan = SOUND.plan.clone();
            lie(launch(&mut plan, kernel));
            if plan == SOUND.plan {
                continue; // one input has one order
            }
            assert_refused(&Scratch::with_plan(&plan), &format!("{kernel}: {what}"));
        }
    }
}

/// A CPU reads no tiles: their size was once mistaken for that of a readable weight.
#[test]
fn tiles_are_not_for_a_cpu() {
    for (dtype, layout, name) in [
        (DType::I4, Layout::Tiled, "tiled"),
        (DType::I8, Layout::TiledHalves, "tiled_halves"),
        (DType::BF16, Layout::Tiled, "tiled"),
    ] {
        let mut plan = SOUND.plan.clone();
        let weight = linear_weight(&mut plan);
        (weight.dtype, weight.layout) = (dtype, layout);
        let weight = weight.name.clone();
        let message = assert_refused(&Scratch::with_plan(&plan), name);
        assert_says(&message, &[&weight, &format!("is {name}, expected row_major or packed on a CPU")]);
    }
}

/// Scales of unquantized weights, in groups of each width: narrow ones once made a product read past its row.
#[test]
fn only_codes_have_scales() {
    for (quantized, operand, message) in
        [("weight", 1, "expected an unquantized weight"), ("x", 0, "expected x of f32")]
    {
        for groups in [1, 2, 4, 8] {
            let mut plan = SOUND.plan.clone();
            let Plan { kernels, programs, weights, .. } = &mut plan;
            let linear = kernels.iter().position(|kernel| kernel.name == "linear").unwrap();
            kernels[linear]
                .params
                .push(Param { name: "quantized".to_owned(), value: Scalar::Text(quantized.to_owned()) });
            for program in programs {
                let values = upper_bounds(&program.symbols);
                for Step::Launch(launch) in
                    program.steps.iter_mut().filter(|Step::Launch(launch)| launch.kernel as usize == linear)
                {
                    let Arg::Weight(weight) = launch.inputs[1] else { panic!("the second input is a buffer") };
                    let rows = match launch.inputs[operand] {
                        Arg::Buffer(buffer) => program.buffers[buffer as usize].shape[0].eval(&values).unwrap(),
                        _ => weights[weight as usize].shape[0],
                    };
                    let shape = vec![rows, weights[weight as usize].shape[1] / groups];
                    let parts = vec![RandomPart::named("scale", shape.iter().product(), 1.0, 0.0)];
                    launch.inputs.insert(2, Arg::Weight(weights.len() as u32));
                    let (layout, data) = (Layout::RowMajor, WeightData::Random(parts));
                    weights.push(plan::Weight { name: "scale".to_owned(), dtype: DType::F32, shape, layout, data });
                }
            }
            assert_says(&assert_refused(&Scratch::with_plan(&plan), quantized), &[message, "f32 with scales"]);
        }
    }
}

#[test]
fn random_weights_that_no_machine_holds_do_not_fit() {
    let mut plan = SOUND.plan.clone();
    plan.weights[0].shape = vec![1 << 23, 1 << 22];
    plan.weights[0].data = WeightData::Random(vec![RandomPart::named("w", 1 << 45, 0.0, 1.0)]);
    let scratch = Scratch::with_plan(&plan);
    let Err(error) = load(&scratch.plan, CompileOptions::default()) else { panic!("the plan was loaded") };
    assert_eq!(error.kind(), ErrorKind::DoesNotFit, "{error}");
    assert_says(&error.to_string(), &["the random weights of the plan take", "this machine has"]);
}

/// Small plans with many problems, or for which a loop over pairs would take long: each is refused at once, with a
/// bounded error. The time is that of a slow machine without optimization; some took hours.
#[test]
fn bombs_do_not_go_off() {
    const MANY: usize = 100_000;
    let unit = |name: &str| plan::Buffer {
        name: name.to_owned(),
        dtype: DType::I8,
        shape: vec![Dim::from(1)],
        offset: 0,
        bytes: 1,
        live: (0, 1),
    };
    type Bomb<'a> = (&'a str, Box<dyn Fn(&mut Plan) + 'a>, &'a [&'a str]);
    let bombs: [Bomb<'_>; 11] = [
        (
            "buffers in one place",
            Box::new(|plan| mixed(plan).buffers.extend(vec![unit("b"); MANY])),
            &["overlap", " more"],
        ),
        (
            "buffers without a place",
            Box::new(|plan| mixed(plan).buffers.extend(vec![plan::Buffer { offset: 1, ..unit("b") }; MANY])),
            &["outside the arena", " more"],
        ),
        (
            "weights without a size",
            Box::new(|plan| {
                plan.weights.extend(vec![plan::Weight { shape: vec![0], ..plan.weights[0].clone() }; MANY])
            }),
            &["an impossible size", " more"],
        ),
        (
            "an output many times",
            Box::new(|plan| {
                let out = mixed(plan).outputs[0].buffer;
                launch(plan, "linear").outputs = vec![Arg::Buffer(out); MANY]
            }),
            &["more than 256 arguments"],
        ),
        (
            "many sizes",
            Box::new(|plan| launch(plan, "linear").scalars = vec![Dim::from(1); MANY]),
            &["more than 256 arguments"],
        ),
        (
            "many parameters",
            Box::new(|plan| plan.kernels[0].params = vec![Param { name: "p".to_owned(), value: Scalar::Int(1) }; MANY]),
            &["100000 parameters, expected at most 64"],
        ),
        (
            "many ports",
            Box::new(|plan| {
                mixed(plan).inputs.extend((0..MANY).map(|index| Port { name: index.to_string(), buffer: u32::MAX }))
            }),
            &["names no buffer", " more"],
        ),
        (
            "a long name",
            Box::new(|plan| plan.weights[0].name = "w".repeat(1 << 20)),
            &["the name of a weight has 1048576 bytes"],
        ),
        (
            "a long symbol",
            Box::new(|plan| mixed(plan).symbols[0].symbol = Symbol::new(&"T".repeat(1 << 20)).unwrap()),
            &["the name of a symbol"],
        ),
        ("a long site", Box::new(|plan| launch(plan, "linear").site = "s".repeat(1 << 20)), &["the name of a launch"]),
        ("a long kernel", Box::new(|plan| plan.kernels[0].name = "k".repeat(1 << 20)), &["the name of a kernel"]),
    ];
    for (what, bomb, parts) in bombs {
        let mut plan = SOUND.plan.clone();
        bomb(&mut plan);
        let scratch = Scratch::with_plan(&plan);
        let start = std::time::Instant::now();
        let message = assert_refused(&scratch, what);
        let took = start.elapsed();
        assert_says(&message, parts);
        assert!(took.as_secs() < 20, "{what}: {took:?}");
    }
}

/// Runs every program at its upper bounds, with this number in all inputs.
fn run_filled(value: i32) -> Result<(), ExecError> {
    let scratch = Scratch::holding(&SOUND.bytes);
    let file = Arc::new(PlanFile::open(&scratch.plan)?);
    let mut session = CpuExecutor::new(Some(2))?.load(Arc::clone(&file))?;
    for (index, program) in file.plan().programs.iter().enumerate() {
        let symbols = upper_bounds(&program.symbols);
        let size = |port: &Port| {
            let dims = program.buffers[port.buffer as usize].shape.iter();
            dims.map(|dim| dim.eval(&symbols).unwrap() as usize).product()
        };
        let inputs: Vec<(&str, Vec<i32>)> =
            program.inputs.iter().map(|port| (port.name.as_str(), vec![value; size(port)])).collect();
        let inputs = inputs.iter().map(|(name, values)| (*name, InputData::Values(values))).collect::<Vec<_>>();
        session.submit(index, &Bindings { symbols: &symbols, inputs: &inputs })?;
    }
    Ok(())
}

/// Data-dependent indices are checked where they are used.
#[test]
fn inputs_that_point_nowhere_are_refused() {
    // a step of padding alone
    run_filled(0).unwrap();
    for value in [-1, i32::MIN, i32::MAX] {
        assert!(matches!(run_filled(value), Err(ExecError::Kernel { .. })), "{value}");
    }
}

/// A file with other metadata, and matching hashes. (Random bytes in metadata are a kind of `cargo xtask mutate`.)
fn forged(metadata: &[u8]) -> Scratch {
    let mut bytes = SOUND.bytes[..metadata_at(&SOUND.bytes)].to_vec();
    bytes[88..96].copy_from_slice(&(metadata.len() as u64).to_le_bytes());
    bytes[96..128].copy_from_slice(blake3::hash(metadata).as_bytes());
    let hash = blake3::hash(&bytes[..128]);
    bytes[128..160].copy_from_slice(hash.as_bytes());
    Scratch::holding(&[&bytes, metadata].concat())
}

#[test]
fn a_size_without_end_is_refused() {
    let mut plan = SOUND.plan.clone();
    let mark = "ceil(7919 * T, 8)";
    mixed(&mut plan).buffers[7].shape[0] = mark.parse().unwrap();
    let scratch = Scratch::with_plan(&plan);
    let bytes = fs::read(&scratch.plan).unwrap();
    let metadata = &bytes[metadata_at(&bytes)..];
    let at = metadata.windows(mark.len()).position(|window| window == mark.as_bytes()).unwrap();
    let sizes =
        ["max(".repeat(1000), "max(".repeat(1 << 20), "T + ".repeat(1 << 20), "ceil(T, 0)".to_owned(), "\0".to_owned()];
    for text in sizes {
        // a string of bincode: its length, marked as one of four bytes, and its bytes
        let length = [&[252], &(text.len() as u32).to_le_bytes()[..]].concat();
        let forgery = [&metadata[..at - 1], &length, text.as_bytes(), &metadata[at + mark.len()..]].concat();
        assert_says(&assert_refused(&forged(&forgery), &text[..1]), &["x.plan: the plan is corrupt: metadata"]);
    }
}

/// The header of an ELF file for CUDA.
fn cubin() -> Vec<u8> {
    let mut image = vec![0; 64];
    image[..6].copy_from_slice(b"\x7fELF\x02\x01");
    image[18] = 190;
    image
}

/// The valid plan as a GPU plan, with a change, as a file.
fn gpu_plan(change: impl FnOnce(&mut Plan)) -> Result<PlanFile, String> {
    let mut plan = Plan { target: "sm_90a".to_owned(), ..SOUND.plan.clone() };
    for kernel in &mut plan.kernels {
        kernel.code = Some(Code { source: String::new(), cubin: cubin(), threads: 128, shared_bytes: 0 });
    }
    change(&mut plan);
    PlanFile::open(&Scratch::with_plan(&plan).plan).map_err(|error| error.to_string())
}

#[test]
fn code_and_launches_of_gpu_plans_are_checked() {
    gpu_plan(|_| {}).unwrap();
    type Change = fn(&mut Plan);
    let code: [Change; 4] = [
        |plan| plan.kernels[0].code = None,
        |plan| plan.kernels[0].code.as_mut().unwrap().threads = 0,
        |plan| plan.kernels[0].code.as_mut().unwrap().threads = 1025,
        |plan| plan.kernels[0].code.as_mut().unwrap().shared_bytes = (227 << 10) + 1,
    ];
    for change in code {
        assert_says(&gpu_plan(change).err().unwrap(), &["has no code for the target, or an impossible block"]);
    }
    let images: [(Change, &str); 3] = [
        (|plan| plan.kernels[0].code.as_mut().unwrap().cubin.clear(), "not a 64-bit ELF file"),
        (|plan| plan.kernels[0].code.as_mut().unwrap().cubin[18] = 62, "not an ELF file for CUDA"),
        (|plan| plan.kernels[0].code.as_mut().unwrap().cubin[32..].fill(0xff), "truncated"),
    ];
    for (change, reason) in images {
        assert_says(&gpu_plan(change).err().unwrap(), &["the machine code of kernel `", "is damaged: ", reason]);
    }
    assert_says(
        &gpu_plan(|plan| launch(plan).grid = Dim::from(1 << 31)).err().unwrap(),
        &["the grid of `", "or is too large"],
    );
    // on the CPU it would not run
    let stowaway = Scratch::with_plan(&{
        let mut plan = SOUND.plan.clone();
        let code = Code { source: String::new(), cubin: vec![1], threads: 1, shared_bytes: 0 };
        plan.kernels[0].code = Some(code);
        plan
    });
    assert_refused(&stowaway, "code in a plan for the CPU");

    fn launch(plan: &mut Plan) -> &mut Launch {
        let Step::Launch(launch) = &mut plan.programs[0].steps[1];
        launch
    }
    fn map(plan: &mut Plan, input: u32, box_rows: u32, box_cols: u32) {
        launch(plan).maps = vec![TensorMap { input, box_rows, box_cols }];
    }
    // the first input is a buffer of f32, the second a row-major weight
    let maps: [Change; 4] = [
        |plan| map(plan, 99, 64, 64),
        |plan| map(plan, 0, 64, 64),
        |plan| map(plan, 1, 64, 64),
        |plan| map(plan, 0, 0, 0),
    ];
    for change in maps {
        assert_says(&gpu_plan(change).err().unwrap(), &["a tensor map", "impossible shape"]);
    }
    // a buffer of 16-bit elements, as kernels load it
    fn loaded(plan: &mut Plan, change: fn(&mut plan::Buffer)) {
        let Arg::Buffer(index) = launch(plan).inputs[0] else { panic!("the first input is a weight") };
        map(plan, 0, 64, 64);
        let buffer = &mut plan.programs[0].buffers[index as usize];
        buffer.dtype = DType::BF16;
        change(buffer);
    }
    gpu_plan(|plan| loaded(plan, |_| {})).unwrap();
    let maps: [Change; 4] = [
        |plan| loaded(plan, |buffer| buffer.shape[1] = Dim::from(12)),
        |plan| loaded(plan, |buffer| buffer.shape.push(Dim::from(1))),
        |plan| loaded(plan, |buffer| buffer.shape[1] = Dim::symbol(&Symbol::new("T").unwrap())),
        |plan| {
            loaded(plan, |_| {});
            let Arg::Buffer(index) = launch(plan).inputs[0] else { panic!("the first input is a weight") };
            // the caller's address is not that of a map made at load
            plan.programs[0].inputs.push(Port { name: "filled".to_owned(), buffer: index });
        },
    ];
    for change in maps {
        assert_says(&gpu_plan(change).err().unwrap(), &["a tensor map", "impossible shape"]);
    }
    gpu_plan(|plan| launch(plan).scalars = vec![Dim::from(1)]).unwrap();
    for size in [1 << 30, 1 << 40] {
        let size = |plan: &mut Plan| launch(plan).scalars = vec![Dim::from(size)];
        assert_says(&gpu_plan(size).err().unwrap(), &["a size", "has no value, or is larger than its operands"]);
    }
    let tiled = |plan: &mut Plan| plan.weights[0].layout = Layout::Tiled;
    assert_says(&gpu_plan(tiled).err().unwrap(), &["impossible size"]);
}
