//! Graphs from text: round trips, errors with positions, rewriting, evaluation.

use ir::ops::{Add, Cast, Constant, Mul, Silu};
use ir::{Environment, Graph, HostTensor, KvState, OpId, OpSet, Patch, Rule, evaluate, rewrite, text};
use plan::DType;

const BLOCK: &str = "\
graph @block<T in 1..8, B in 1..2>(%x: f32[T, 4], %positions: i32[T], %query_starts: i32[B + 1], %block_table: i32[B, 2]) {
  kv 0 : bf16 {layers = 1, kv_heads = 1, head_dim = 2, block_tokens = 4}
  %w = constant @\"norm.weight\" : bf16[4]
  %n = rms_norm %x, %w {eps = 1e-5} : f32[T, 4]
  %f = rope_frequencies {dim = 2, theta = 500000.0, scaling = llama3(8.0, 1.0, 4.0, 64)} : f32[1]
  %k, %v = split %n {sizes = [2, 2]} : f32[T, 2], f32[T, 2]
  %kr = rope %k, %positions, %f {head_dim = 2} : f32[T, 2]
  %e = append_kv %kr, %v, %positions, %query_starts, %block_table {group = 0, layer = 0} : effect
  %o = paged_attention %n, %e, %positions, %query_starts, %block_table {group = 0, layer = 0, head_dim = 2, kv_heads = 1, scale = 0.5} : f32[T, 4]
  return out = %o, %n
}
";

fn parse(source: &str) -> Graph {
    text::parse(source, &OpSet::standard()).unwrap_or_else(|error| panic!("{error}")).graph
}

#[test]
fn text_round_trips() {
    let graph = parse(BLOCK);
    assert_eq!(text::print(&graph), BLOCK);
    ir::verify(&graph, ir::Stage::Fused).unwrap();
}

#[test]
fn errors_name_their_place() {
    let cases = [
        ("graph @g(%x: f32[2]) {\n  %y = ad %x : f32[2]\n  return %y\n}", 2, 8, "unknown op `ad`"),
        ("graph @g(%x: f32[2]) {\n  %y = add %x : f32[2]\n  return %y\n}", 2, 8, "expected 2 operands, found 1"),
        ("graph @g(%x: f32[2]) {\n  %y = silu %z : f32[2]\n  return %y\n}", 2, 13, "`%z` is not defined above"),
        ("graph @g(%x: f32[2]) {\n  %y = silu %x : f32[3]\n  return %y\n}", 2, 18, "expected type f32[2]"),
        ("graph @g(%x: f32[2]) {\n  %x = silu %x : f32[2]\n  return %x\n}", 2, 3, "already defined"),
        ("graph @g(%x: f32[2]) {\n  return %x\n", 2, 12, "expected `}`"),
        ("graph @g(%x: f3[2]) {\n  return %x\n}", 1, 14, "unknown dtype `f3`"),
        ("graph @g(%x: f32[2]) {\n  %y = cast %x {} : f32[2]\n  return %y\n}", 2, 16, "expected attribute `to`"),
    ];
    for (source, line, column, message) in cases {
        let error = text::parse(source, &OpSet::standard()).unwrap_err();
        assert!(error.message.contains(message), "{source}\n{error}");
        assert_eq!((error.line, error.column), (line, column), "{error}");
    }
}

fn run(graph: &Graph, inputs: &[(&str, HostTensor)]) -> Vec<HostTensor> {
    let mut env = Environment::empty();
    env.inputs = inputs.iter().map(|(name, tensor)| ((*name).to_owned(), tensor.clone())).collect();
    evaluate(graph, &env, &mut KvState::new(graph.kv())).unwrap()
}

fn swap_mul(graph: &Graph, id: OpId) -> Option<Patch> {
    graph.cast::<Mul>(id)?;
    let [a, b] = graph.operands_of(id)?;
    let mut patch = Patch::new();
    let swapped = patch.add(graph, Mul {}, &[b.into(), a.into()]);
    patch.replace(graph.result(id), swapped);
    Some(patch)
}

/// `x + x → silu(x)`: wrong on purpose, so that the test sees its effect.
fn double_to_silu(graph: &Graph, id: OpId) -> Option<Patch> {
    graph.cast::<Add>(id)?;
    let [a, b] = graph.operands_of(id)?;
    (a == b).then_some(())?;
    let mut patch = Patch::new();
    let silu = patch.add(graph, Silu {}, &[a.into()]);
    patch.replace(graph.result(id), silu);
    Some(patch)
}

fn change_type(graph: &Graph, id: OpId) -> Option<Patch> {
    graph.cast::<Add>(id)?;
    let [a, _] = graph.operands_of(id)?;
    let mut patch = Patch::new();
    let cast = patch.add(graph, Cast { to: DType::BF16 }, &[a.into()]);
    patch.replace(graph.result(id), cast);
    Some(patch)
}

const SUM: &str = "graph @g(%x: f32[2]) {\n  %y = add %x, %x : f32[2]\n  %z = mul %y, %x : f32[2]\n  return %z\n}\n";

#[test]
fn patches_keep_names_and_order() {
    let mut graph = parse(SUM);
    assert_eq!(rewrite(&mut graph, &[Rule { name: "double", apply: &double_to_silu }]), Ok(1));
    assert_eq!(text::print(&graph), SUM.replace("add %x, %x", "silu %x"));
    let outputs = run(&graph, &[("x", HostTensor::f32([2], vec![0.0, 1.0]))]);
    assert!((outputs[0].floats()[1] - 0.731_058_6).abs() < 1e-6);
}

/// `silu(x) → constant`: wrong on purpose, so that a value of a step becomes constant.
fn silu_to_constant(graph: &Graph, id: OpId) -> Option<Patch> {
    graph.cast::<Silu>(id)?;
    let ty = graph.tensor(graph.result(id))?.clone();
    let mut patch = Patch::new();
    let constant = patch.add(graph, Constant { key: "w".to_owned(), ty }, &[]);
    patch.replace(graph.result(id), constant);
    Some(patch)
}

#[test]
fn what_is_constant_follows_the_operands() {
    let mut graph = parse(
        "graph @g(%x: f32[2]) {\n  %a = silu %x : f32[2]\n  %b = add %a, %a : f32[2]\n  %c = mul %b, %a : f32[2]\n  \
         %d = add %c, %x : f32[2]\n  return %d\n}\n",
    );
    let constant = |graph: &Graph, name: &str| graph.is_constant(graph.find(name).unwrap());
    assert!(["x", "a", "b", "c", "d"].iter().all(|name| !constant(&graph, name)));
    assert_eq!(rewrite(&mut graph, &[Rule { name: "constant", apply: &silu_to_constant }]), Ok(1));
    assert_eq!(["x", "a", "b", "c", "d"].map(|name| constant(&graph, name)), [false, true, true, true, false]);
}

#[test]
fn endless_and_ill_typed_rules_are_reported_by_name() {
    let mut graph = parse(SUM);
    let error = rewrite(&mut graph, &[Rule { name: "swap", apply: &swap_mul }]).unwrap_err();
    assert!(error.to_string().contains("rule `swap` still applies after"), "{error}");
    let mut graph = parse(SUM);
    let error = rewrite(&mut graph, &[Rule { name: "cast", apply: &change_type }]).unwrap_err();
    assert!(error.to_string().contains("the type of `%y` would change from f32[2] to bf16[2]"), "{error}");
}

#[test]
fn values_are_rounded_to_their_dtype() {
    let graph = parse("graph @g(%x: f32[1]) {\n  %y = cast %x {to = bf16} : bf16[1]\n  return %y\n}\n");
    let outputs = run(&graph, &[("x", HostTensor::f32([1], vec![1.000_976_6]))]);
    assert_eq!(outputs[0].floats(), [1.0]);
}
