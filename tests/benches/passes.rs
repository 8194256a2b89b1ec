//! What each step of a compilation takes for 10, 100 and 1000 layers: the text form, the verifier, every pass of the
//! pipeline, lowering, memory planning. `cargo xtask bench --passes` runs it and keeps the medians.

use std::time::Duration;

use codegen::{ProgramShape, Request, Target, place, select};
use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use ir::{DerivedWeights, Graph, OpSet, Stage, text, verify};
use passes::pipeline::{self, Entry};
use passes::{Pass, PassContext};
use tests::{SeededWeights, folder, limits, lower, model_graph};

const LAYERS: [u32; 3] = [10, 100, 1000];
const TARGET: Target = Target::Sm90a;

/// One step at one size.
fn step<T, S>(criterion: &mut Criterion, name: &str, layers: u32, setup: impl Fn() -> S, run: impl Fn(S) -> T) {
    criterion.benchmark_group(name).bench_function(BenchmarkId::from_parameter(layers), |bencher| {
        bencher.iter_batched(&setup, &run, BatchSize::PerIteration);
    });
}

fn compilation(criterion: &mut Criterion) {
    let model = folder().join("../bench/configs/llama-3.1-8b");
    for layers in LAYERS {
        let imported = model_graph(&model, Some(layers), TARGET).expect("the config is read");
        let ops = OpSet::standard();
        let printed = text::print(&imported);
        step(criterion, "print", layers, || (), |()| text::print(&imported));
        step(criterion, "parse", layers, || (), |()| text::parse(&printed, &ops).expect("it was printed"));
        step(criterion, "verify", layers, || (), |()| drop(verify(&imported, Stage::Imported)));
        let fused = passes_of_the_pipeline(criterion, layers, imported);
        code_generation(criterion, layers, &fused);
    }
}

/// Each pass on the graph as it finds it. Returns the graph behind the last.
fn passes_of_the_pipeline(criterion: &mut Criterion, layers: u32, mut graph: Graph) -> Graph {
    let weights = SeededWeights::of(&graph, true);
    let weights = DerivedWeights::over(&weights);
    let context = PassContext::new(&weights);
    let mut seen: Vec<String> = Vec::new();
    for pass in pipeline::standard().entries().iter().filter_map(pass) {
        let run = |mut graph: Graph| {
            pass.run(&mut graph, &context).expect("the pass works");
            graph
        };
        let name = pass.name().into_owned();
        let times = seen.iter().filter(|known| **known == name).count();
        let label = if times == 0 { name.clone() } else { format!("{name} ({})", times + 1) };
        step(criterion, &label, layers, || graph.clone(), run);
        graph = run(graph);
        seen.push(name);
    }
    graph
}

fn pass(entry: &Entry) -> Option<&dyn Pass> {
    match entry {
        Entry::Pass(pass) => Some(pass.as_ref()),
        Entry::Reach(_) | Entry::Slot(_) => None,
    }
}

fn code_generation(criterion: &mut Criterion, layers: u32, graph: &Graph) {
    let weights = SeededWeights::of(graph, true);
    let catalog = TARGET.catalog();
    let shapes = ProgramShape::all(graph, &limits(graph));
    step(criterion, "select", layers, || (), |()| select(graph, &catalog, &shapes).expect("there are kernels"));
    let whole = || lower(&smelt::Driver::new(), graph, TARGET, &weights, 1).expect("it lowers");
    step(criterion, "lower", layers, || (), |()| whole());
    let arenas = whole().plan.programs.into_iter().map(|program| {
        let request = |buffer: &plan::Buffer| Request { bytes: buffer.bytes, live: buffer.live };
        program.buffers.iter().map(request).collect::<Vec<Request>>()
    });
    let arenas: Vec<Vec<Request>> = arenas.collect();
    step(criterion, "place", layers, || (), |()| arenas.iter().map(|arena| place(arena, 256).bytes).max());
}

fn settings() -> Criterion {
    let criterion = Criterion::default().sample_size(10).without_plots();
    criterion.warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_secs(1))
}

criterion_group! { name = benches; config = settings(); targets = compilation }
criterion_main!(benches);
