//! What the host does for each step, on a device that takes no time: many requests that come and go, steady steps,
//! admission from a long queue. `cargo bench -p engine` prints the figures as JSON.

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::VecDeque;
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use engine::{Engine, GenerationParams, Request, RequestId, Settings};
use plan::{
    Arg, Bindings, Buffer, DType, Dim, ExecError, Kernel, KvGroup, Launch, Limits, Model, Plan, PlanFile, PlanWriter,
    Port, PortData, Program, ProgramKind, Session, Step, StepId, Symbol, SymbolDecl, Work, upper_bounds,
};

const BLOCK_TOKENS: u32 = 64;
const VOCAB: u32 = 32_000;

/// Counts what is allocated.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: it is the system's allocator, with a count.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: passed on.
        unsafe { System.dealloc(place, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// A device that has chosen the next tokens as soon as it is asked.
#[derive(Default)]
struct Immediate {
    steps: u64,
    rows: VecDeque<(StepId, usize)>,
}

impl Session for Immediate {
    fn runs_ahead(&self) -> bool {
        true
    }

    fn submit(&mut self, _program: usize, bindings: &Bindings<'_>) -> Result<StepId, ExecError> {
        black_box(bindings);
        self.steps += 1;
        let rows = Symbol::new("R").and_then(|symbol| bindings.symbols.get(&symbol).copied()).unwrap_or(0);
        self.rows.push_back((StepId(self.steps), rows as usize));
        if self.rows.len() > 2 {
            self.rows.pop_front();
        }
        Ok(StepId(self.steps))
    }

    fn wait(&mut self, _step: StepId) -> Result<(), ExecError> {
        Ok(())
    }

    fn read(&mut self, step: StepId, _port: &str) -> Result<PortData, ExecError> {
        let rows = self.rows.iter().find(|(known, _)| *known == step).map_or(0, |(_, rows)| *rows);
        Ok(PortData::I32(vec![7; rows]))
    }
}

/// A plan of one launch that nobody runs.
fn plan(sequences: u32, tokens: u32, max_seq_len: u32, blocks: u32) -> Plan {
    let program = |name: String, kind, sizes: [(u64, u64); 3]| {
        let symbols: Vec<Symbol> = ["T", "B", "R"].iter().map(|name| Symbol::new(name).expect("a letter")).collect();
        let dim = |at: usize| Dim::symbol(&symbols[at]);
        let number = |value: u32| Dim::from(u64::from(value));
        let shapes = [
            ("tokens", DType::I32, vec![dim(0)]),
            ("positions", DType::I32, vec![dim(0)]),
            ("query_starts", DType::I32, vec![dim(1) + number(1)]),
            ("block_table", DType::I32, vec![dim(1), number(max_seq_len.div_ceil(BLOCK_TOKENS))]),
            ("rows", DType::I32, vec![dim(2)]),
            ("next_tokens", DType::I32, vec![dim(2)]),
            ("logits", DType::F32, vec![dim(2), number(VOCAB)]),
        ];
        let ports = |range: std::ops::Range<usize>| -> Vec<Port> {
            range.map(|at| Port { name: shapes[at].0.to_owned(), buffer: at as u32 }).collect()
        };
        let (inputs, outputs) = (ports(0..5), ports(5..7));
        let symbols = symbols.iter().zip(sizes);
        let symbols: Vec<SymbolDecl> =
            symbols.map(|(symbol, (min, max))| SymbolDecl { symbol: symbol.clone(), min, max }).collect();
        let bounds = upper_bounds(&symbols);
        let mut arena_bytes = 0;
        let buffers = shapes.iter().map(|(name, dtype, shape)| {
            let bytes = 4 * shape.iter().map(|dim| dim.eval(&bounds).expect("all are bound")).product::<u64>();
            let offset = arena_bytes;
            arena_bytes += bytes.next_multiple_of(256);
            Buffer { name: (*name).to_owned(), dtype: *dtype, shape: shape.clone(), offset, bytes, live: (0, 0) }
        });
        let buffers = buffers.collect();
        let launch = Launch {
            kernel: 0,
            site: "next_tokens".to_owned(),
            inputs: (0..5).map(Arg::Buffer).collect(),
            outputs: (5..7).map(Arg::Buffer).collect(),
            maps: Vec::new(),
            scalars: Vec::new(),
            grid: number(1),
            ir: String::new(),
            work: Work { flops: number(0), read: number(0), written: number(0) },
        };
        Program { name, kind, symbols, buffers, arena_bytes, inputs, outputs, steps: vec![Step::Launch(launch)] }
    };
    let (batch, all) = (u64::from(sequences), u64::from(tokens));
    let mut programs = vec![program("mixed".to_owned(), ProgramKind::Mixed, [(1, all), (1, batch), (1, batch)])];
    let mut size = 1;
    loop {
        let fixed = size.min(batch);
        programs.push(program(format!("decode@{fixed}"), ProgramKind::Decode, [(fixed, fixed); 3]));
        if size >= batch {
            break;
        }
        size *= 2;
    }
    let model = Model { architecture: "None".to_owned(), vocab_size: VOCAB, parameters: 0, bos: None, eos: vec![0] };
    Plan {
        target: "cpu".to_owned(),
        model,
        limits: Limits {
            max_batch_size: sequences,
            max_input_len: max_seq_len,
            max_seq_len,
            max_num_tokens: tokens,
            max_logit_rows: sequences,
        },
        weights: Vec::new(),
        kv: vec![KvGroup {
            dtype: DType::F32,
            layers: 1,
            kv_heads: 1,
            head_dim: 16,
            block_tokens: BLOCK_TOKENS,
            blocks,
        }],
        kernels: vec![Kernel { name: "none".to_owned(), params: Vec::new(), code: None }],
        programs,
        files: Vec::new(),
        config: Vec::new(),
        inputs: Vec::new(),
        world_size: 1,
    }
}

fn engine(plan: &Plan) -> Engine {
    let folder = plan::partial::PartialFolder::temporary().expect("a folder");
    let path = folder.path().join("none.plan");
    PlanWriter::create(&path).expect("a file").finish(plan).expect("it is written");
    let file = Arc::new(PlanFile::open(&path).expect("it was written"));
    Engine::with_settings(file, Box::new(Immediate::default()), Settings::default()).expect("its programs fit")
}

fn request(id: u32, prompt: u32, max_tokens: u32) -> Request {
    // no two prompts begin alike
    let prompt = (0..prompt).map(|at| 1 + (id.wrapping_mul(2_654_435_761) >> 12).wrapping_add(at * 7) % (VOCAB - 1));
    let params = GenerationParams { max_tokens, ..GenerationParams::default() };
    Request { prompt: prompt.collect(), params, ..Request::default() }
}

/// Requests of 64 tokens that generate 32, of which one in ten is cancelled, in a pool for 64 of them.
fn many(count: u32) -> f64 {
    let mut engine = engine(&plan(256, 8192, 2048, 128));
    let start = Instant::now();
    let (mut added, mut ended) = (0, 0);
    let mut open: VecDeque<RequestId> = VecDeque::new();
    while ended < count {
        while added < count && engine.stats().waiting < 512 {
            let id = engine.add(request(added, 64, 32)).expect("it fits");
            added += 1;
            if added % 10 == 0 {
                open.push_back(id);
            }
        }
        if open.len() > 40 {
            open.drain(..5).for_each(|id| engine.cancel(id));
        }
        ended += engine.step().iter().filter(|event| event.done).count() as u32;
    }
    let seconds = start.elapsed().as_secs_f64();
    let stats = engine.stats();
    assert_eq!((stats.blocks_used, stats.running, stats.waiting), (0, 0, 0));
    seconds
}

/// Microseconds and allocations of a decode step of so many sequences.
fn steady(sequences: u32) -> (f64, f64) {
    let mut engine = engine(&plan(sequences, 8192, 2048, 256 * 32));
    for id in 0..sequences {
        engine.add(request(id, 32, 1900)).expect("it fits");
    }
    (0..100).for_each(|_| drop(engine.step()));
    let (start, allocated) = (Instant::now(), ALLOCATIONS.load(Ordering::Relaxed));
    const STEPS: u32 = 1000;
    for _ in 0..STEPS {
        assert_eq!(black_box(engine.step()).len(), sequences as usize);
    }
    let allocated = ALLOCATIONS.load(Ordering::Relaxed) - allocated;
    (start.elapsed().as_secs_f64() * 1e6 / f64::from(STEPS), allocated as f64 / f64::from(STEPS))
}

/// Microseconds of a step that ends one request and admits another, while so many wait.
fn admission(waiting: u32) -> f64 {
    let mut engine = engine(&plan(1, 8192, 2048, 64));
    for id in 0..waiting {
        engine.add(request(id, 8, 1)).expect("it fits");
    }
    const STEPS: u32 = 5000;
    let start = Instant::now();
    for id in 0..STEPS {
        engine.add(request(waiting + id, 8, 1)).expect("it fits");
        black_box(engine.step());
    }
    start.elapsed().as_secs_f64() * 1e6 / f64::from(STEPS)
}

fn main() {
    let count = if std::env::args().any(|arg| arg == "--quick") { 100_000 } else { 1_000_000 };
    let round = |value: f64| (value * 100.0).round() / 100.0;
    let [one, some, all] = [1, 32, 256].map(steady);
    println!("{{");
    println!("  \"schema_version\": 1,");
    println!(
        "  \"steady_step_us\": {{\"1\": {}, \"32\": {}, \"256\": {}}},",
        round(one.0),
        round(some.0),
        round(all.0)
    );
    println!("  \"steady_step_allocations\": {{\"1\": {}, \"32\": {}, \"256\": {}}},", one.1, some.1, all.1);
    println!("  \"admission_us\": {{\"10\": {}, \"100000\": {}}},", round(admission(10)), round(admission(100_000)));
    println!("  \"requests\": {count}, \"requests_s\": {}", round(many(count)));
    println!("}}");
}
