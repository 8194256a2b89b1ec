//! What holds for every size and every graph, tried on random ones: normal forms, round trips, passes and kernels that
//! keep what a graph means.

use std::collections::BTreeMap;

use ir::ops::{Add, AddRmsNorm, Cast, Concat, Embedding, Linear, Mul, RmsNorm, Silu, SiluMul, Split, Swiglu};
use ir::{DType, Graph, Op, OpDef, OpSet, TensorType, Value, text};
use passes::pipeline;
use plan::{Dim, Symbol, SymbolDecl, SymbolValues};
use proptest::prelude::*;
use tests::{Scenario, SeededWeights, Tolerance, compare, compile, execute, interpret, run_passes};

fn symbol(name: &str) -> Symbol {
    Symbol::new(name).expect("a letter is a symbol")
}

/// A size as a tree, before any normal form.
#[derive(Clone, Debug)]
enum Size {
    Const(u64),
    Symbol(&'static str),
    Add(Box<Size>, Box<Size>),
    Mul(Box<Size>, Box<Size>),
    CeilDiv(Box<Size>, u64),
    Max(Box<Size>, Box<Size>),
}

impl Size {
    fn dim(&self) -> Dim {
        match self {
            Size::Const(value) => Dim::from(*value),
            Size::Symbol(name) => Dim::symbol(&symbol(name)),
            Size::Add(a, b) => a.dim() + b.dim(),
            Size::Mul(a, b) => a.dim() * b.dim(),
            Size::CeilDiv(a, divisor) => a.dim().ceil_div(*divisor),
            Size::Max(a, b) => a.dim().at_least(&b.dim()),
        }
    }

    fn eval(&self, values: &SymbolValues) -> u64 {
        match self {
            Size::Const(value) => *value,
            Size::Symbol(name) => values[&symbol(name)],
            Size::Add(a, b) => a.eval(values) + b.eval(values),
            Size::Mul(a, b) => a.eval(values) * b.eval(values),
            Size::CeilDiv(a, divisor) => a.eval(values).div_ceil(*divisor),
            Size::Max(a, b) => a.eval(values).max(b.eval(values)),
        }
    }
}

fn sizes() -> impl Strategy<Value = Size> {
    let leaf =
        prop_oneof![(0..5u64).prop_map(Size::Const), prop::sample::select(&["T", "B", "R"]).prop_map(Size::Symbol)];
    leaf.prop_recursive(4, 16, 2, |inner| {
        let pair = || (inner.clone().prop_map(Box::new), inner.clone().prop_map(Box::new));
        prop_oneof![
            pair().prop_map(|(a, b)| Size::Add(a, b)),
            pair().prop_map(|(a, b)| Size::Mul(a, b)),
            (inner.clone().prop_map(Box::new), 1..9u64).prop_map(|(a, divisor)| Size::CeilDiv(a, divisor)),
            pair().prop_map(|(a, b)| Size::Max(a, b)),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn sizes_mean_what_they_were_built_from(size in sizes(), t in 0..40u64, b in 0..40u64, r in 0..40u64) {
        let values = SymbolValues::from([(symbol("T"), t), (symbol("B"), b), (symbol("R"), r)]);
        let (dim, expected) = (size.dim(), size.eval(&values));
        prop_assert_eq!(dim.eval(&values), Ok(expected));
        let constants: BTreeMap<Symbol, Dim> = values.into_iter().map(|(name, value)| (name, value.into())).collect();
        prop_assert_eq!(dim.substitute(&constants), Dim::from(expected));
    }

    #[test]
    fn sizes_read_back_equal(size in sizes()) {
        let dim = size.dim();
        prop_assert_eq!(dim.to_string().parse::<Dim>(), Ok(dim));
    }

    #[test]
    fn sizes_have_one_normal_form(a in sizes(), b in sizes(), c in sizes()) {
        let (a, b, c) = (a.dim(), b.dim(), c.dim());
        prop_assert_eq!(a.clone() + b.clone(), b.clone() + a.clone());
        prop_assert_eq!(a.clone() * b.clone(), b.clone() * a.clone());
        prop_assert_eq!(a.at_least(&b), b.at_least(&a));
        prop_assert_eq!((a.clone() + b.clone()) + c.clone(), a.clone() + (b.clone() + c.clone()));
        prop_assert_eq!((a.clone() * b.clone()) * c.clone(), a.clone() * (b.clone() * c.clone()));
        prop_assert_eq!(a.at_least(&b).at_least(&c), a.at_least(&b.at_least(&c)));
        prop_assert_eq!(a.clone() * (b.clone() + c.clone()), a.clone() * b + a * c);
    }
}

/// One step in building a random graph: what to add, over which earlier values.
type Choice = (u8, u8, u8);

/// Width of every value of a random graph, so that any op fits any of them.
const WIDTH: u64 = 8;

struct Builder {
    graph: Graph,
    /// All `f32[T, WIDTH]`.
    values: Vec<Value>,
    constants: usize,
}

impl Builder {
    fn new() -> Builder {
        let symbols = vec![SymbolDecl { symbol: symbol("T"), min: 1, max: 16 }];
        let mut graph = Graph::new("random", symbols, Vec::new());
        let ids = TensorType { dtype: DType::I32, shape: vec![Dim::symbol(&symbol("T"))] };
        let tokens = graph.add_input("tokens", ids);
        let mut builder = Builder { graph, values: Vec::new(), constants: 0 };
        let table = builder.constant(DType::F32, &[16, WIDTH]);
        let x = builder.add(Embedding {}, &[tokens, table]);
        builder.values.push(x);
        builder
    }

    fn constant(&mut self, dtype: DType, shape: &[u64]) -> Value {
        self.constants += 1;
        self.graph.add_constant(&format!("w{}", self.constants), TensorType::new(dtype, shape.iter().copied()))
    }

    fn add(&mut self, op: impl OpDef, operands: &[Value]) -> Value {
        let id = self.graph.add(Op::new(op), operands, &[]).expect("random graphs are well-typed");
        self.graph.result(id)
    }

    fn norm(&mut self, x: Value) -> Value {
        let gain = self.constant(DType::F32, &[WIDTH]);
        self.add(RmsNorm { eps: 1e-5, to: None }, &[x, gain])
    }

    fn step(&mut self, (what, a, b): Choice) {
        let pick = |index: u8| self.values[usize::from(index) % self.values.len()];
        let (a, b) = (pick(a), pick(b));
        let value = match what % 10 {
            0 => self.add(Add {}, &[a, b]),
            1 => self.norm(a),
            2 => self.add(Silu {}, &[a]),
            // products and sums are normalized: values of a deep graph stay finite
            3 => {
                let product = self.add(Mul {}, &[a, b]);
                self.norm(product)
            }
            4 => {
                let weight = self.constant(DType::BF16, &[WIDTH, WIDTH]);
                self.add(Linear { to: None }, &[a, weight])
            }
            5 => {
                let activated = self.add(Silu {}, &[a]);
                let gated = self.add(Mul {}, &[b, activated]);
                self.norm(gated)
            }
            6 => {
                let gain = self.constant(DType::F16, &[WIDTH]);
                let sum = self.add(AddRmsNorm { eps: 1e-5, to: None }, &[a, b, gain]);
                self.values.push(sum);
                Value { result: 1, ..sum }
            }
            7 => {
                let parts = [(); 2].map(|()| self.constant(DType::F32, &[WIDTH, WIDTH]));
                let weight = self.add(Concat {}, &parts);
                let gate_up = self.add(Linear { to: None }, &[a, weight]);
                let gate = self.add(Split { sizes: vec![WIDTH as u32; 2] }, &[gate_up]);
                let gated = self.add(SiluMul {}, &[gate, Value { result: 1, ..gate }]);
                self.norm(gated)
            }
            8 => {
                let weight = self.constant(DType::F32, &[2 * WIDTH, WIDTH]);
                let narrow = self.add(Cast { to: DType::BF16 }, &[weight]);
                let gate_up = self.add(Linear { to: None }, &[a, narrow]);
                let gated = self.add(Swiglu {}, &[gate_up]);
                self.norm(gated)
            }
            _ => {
                let same = self.add(Cast { to: DType::F32 }, &[a]);
                let joined = self.add(Concat {}, &[same]);
                self.add(Split { sizes: vec![WIDTH as u32] }, &[joined])
            }
        };
        self.values.push(value);
    }
}

/// A graph of these choices; the last value and some before it are outputs, the others may be dead.
fn random_graph(choices: &[Choice]) -> Graph {
    let mut builder = Builder::new();
    choices.iter().for_each(|choice| builder.step(*choice));
    let Builder { mut graph, values, .. } = builder;
    for (index, value) in values.iter().enumerate().rev().step_by(3) {
        graph.add_output(&format!("out{index}"), *value);
    }
    graph
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_graphs_keep_their_meaning(choices in prop::collection::vec(any::<Choice>(), 1..14)) {
        let graph = random_graph(&choices);
        let printed = text::print(&graph);
        let parsed = text::parse(&printed, &OpSet::standard()).expect("what was printed parses");
        prop_assert_eq!(text::print(&parsed.graph), printed);

        let weights = SeededWeights::of(&graph, false);
        let scenario = Scenario::new("random graph", &BTreeMap::new(), &graph).expect("inputs can be made");
        let expected = interpret(&graph, &weights, &scenario).expect("the graph has a value");
        // All values are f32: fusing rounds nowhere else, so that not even the numerics of rounding passes show.
        let same = |after: &Graph, tolerance| {
            let found = interpret(after, &weights, &scenario)?;
            compare(&graph, &expected, &found, tolerance)
        };
        prop_assert_eq!(same(&parsed.graph, Tolerance::Exact), Ok(()));
        for info in passes::PassList::standard().iter() {
            let alone = passes::Pipeline::of(vec![info.pass.clone()]);
            let (after, _) = run_passes(&alone, &graph, &weights).map_err(TestCaseError::fail)?;
            prop_assert_eq!(same(&after, Tolerance::Exact), Ok(()), "{}", info.pass.name());
        }
        let (after, _) = run_passes(&pipeline::standard(), &graph, &weights).map_err(TestCaseError::fail)?;
        prop_assert_eq!(same(&after, Tolerance::Exact), Ok(()));
        let (again, _) = run_passes(&pipeline::standard(), &after, &weights).map_err(TestCaseError::fail)?;
        prop_assert_eq!(text::print(&again), text::print(&after));

        let compiled = compile(&graph, codegen::Target::Cpu, &weights, 1).map_err(TestCaseError::fail)?;
        let executor = runtime::CpuExecutor::new(Some(2)).map_err(|error| TestCaseError::fail(error.to_string()))?;
        let found = execute(&executor, &graph, compiled.file.clone(), &scenario).map_err(TestCaseError::fail)?;
        // Norms of norms enlarge what sums in another order differ by; a buffer in the wrong place differs by 1.
        prop_assert_eq!(compare(&graph, &expected, &found, Tolerance::Relative(1e-3)), Ok(()));
    }
}
