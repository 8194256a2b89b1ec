//! Random elementwise graphs: regions mean what their ops mean, and the CPU kernel agrees with the interpreter, to the
//! last bit.

use std::collections::BTreeMap;
use std::sync::Arc;

use ir::ops::{
    Add, Cast, Clamp, Embedding, Gelu, GeluTanh, Linear, Map, Mul, Offset, Relu, Scale, Sigmoid, Silu, SiluMul,
    Softcap, Tanh,
};
use ir::{DType, Graph, Op, OpDef, OpSet, TensorType, Value, text};
use passes::{FuseElementwise, Pipeline, pipeline};
use plan::{Dim, Executor, Formula, PlanFile, PlanWriter, Scalar, Symbol, SymbolDecl};
use proptest::prelude::*;
use tests::{Scenario, SeededWeights, Tolerance, compare, compile, execute, interpret, run_passes};

/// The op to add, its earlier operands, and its constant.
type Choice = (u8, u8, u8, i8);

struct Builder {
    graph: Graph,
    /// All `f32[T, width]`.
    values: Vec<Value>,
    width: u64,
}

impl Builder {
    /// Starts with the rows of an f32 and of a bf16 table.
    fn new(width: u64) -> Builder {
        let symbol = Symbol::new("T").expect("a letter is a symbol");
        let tokens = TensorType { dtype: DType::I32, shape: vec![Dim::symbol(&symbol)] };
        let mut graph = Graph::new("random", vec![SymbolDecl { symbol, min: 1, max: 32 }], Vec::new());
        let tokens = graph.add_input("tokens", tokens);
        let mut builder = Builder { graph, values: Vec::new(), width };
        for dtype in [DType::F32, DType::BF16] {
            let table = builder.constant(dtype, &[16, width]);
            let rows = builder.add(Embedding {}, &[tokens, table]);
            let wide = if dtype == DType::F32 { rows } else { builder.add(Cast { to: DType::F32 }, &[rows]) };
            builder.values.push(wide);
        }
        builder
    }

    fn constant(&mut self, dtype: DType, shape: &[u64]) -> Value {
        let key = format!("w{}", self.graph.len());
        self.graph.add_constant(&key, TensorType::new(dtype, shape.iter().copied()))
    }

    fn add(&mut self, op: impl OpDef, operands: &[Value]) -> Value {
        let id = self.graph.add(Op::new(op), operands, &[]).expect("random graphs are well-typed");
        self.graph.result(id)
    }

    fn step(&mut self, (what, a, b, number): Choice) {
        let pick = |index: u8| self.values[usize::from(index) % self.values.len()];
        let (a, b) = (pick(a), pick(b));
        let by = f32::from(number) / 64.0;
        let value = match what % 16 {
            0 => self.add(Add {}, &[a, b]),
            // tanh keeps deep products finite
            1 => {
                let product = self.add(Mul {}, &[a, b]);
                self.add(Tanh {}, &[product])
            }
            2 => self.add(SiluMul {}, &[a, b]),
            3 => self.add(Silu {}, &[a]),
            4 => self.add(Sigmoid {}, &[a]),
            5 => self.add(Relu {}, &[a]),
            6 => self.add(Gelu {}, &[a]),
            7 => self.add(GeluTanh {}, &[a]),
            8 => self.add(Softcap { cap: by.abs() + 0.5 }, &[a]),
            9 => self.add(Clamp { low: by - 1.0, high: by + 1.0 }, &[a]),
            10 => self.add(Scale { by }, &[a]),
            11 => self.add(Offset { by }, &[a]),
            12 => {
                let row = self.constant(DType::F32, &[self.width]);
                self.add(Add {}, &[row, a])
            }
            13 => {
                let narrow = self.constant(DType::BF16, &[self.width]);
                let row = self.add(Cast { to: DType::F32 }, &[narrow]);
                self.add(Mul {}, &[a, row])
            }
            // a path around: ops that depend on it cannot join those that it depends on
            14 => {
                let weight = self.constant(DType::F32, &[self.width, self.width]);
                let mixed = self.add(Linear { to: None }, &[a, weight]);
                self.add(Tanh {}, &[mixed])
            }
            _ => {
                let f: Formula = "[add(x0, x1), sigmoid(v0), f32(v1), f32(v0)]".parse().expect("a formula");
                let first = self.add(Map { f }, &[a, b]);
                self.values.push(first);
                Value { result: 1, ..first }
            }
        };
        self.values.push(value);
    }

    /// The last value and some before it are outputs, the others may be dead.
    fn finish(mut self) -> Graph {
        for (index, value) in self.values.iter().enumerate().rev().step_by(4) {
            self.graph.add_output(&format!("out{index}"), *value);
        }
        self.graph
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn regions_mean_what_their_ops_mean(
        width in prop::sample::select(&[1, 7, 8, 300]),
        choices in prop::collection::vec(any::<Choice>(), 1..40),
    ) {
        let mut builder = Builder::new(width);
        choices.iter().for_each(|choice| builder.step(*choice));
        let graph = builder.finish();
        let weights = SeededWeights::of(&graph, false);
        let scenario = Scenario::new("random region", &BTreeMap::new(), &graph).map_err(TestCaseError::fail)?;
        let expected = interpret(&graph, &weights, &scenario).map_err(TestCaseError::fail)?;

        // All values are f32: a region has the same roundings as its ops.
        let alone = Pipeline::of(vec![Arc::new(FuseElementwise)]);
        let (fused, _) = run_passes(&alone, &graph, &weights).map_err(TestCaseError::fail)?;
        let found = interpret(&fused, &weights, &scenario).map_err(TestCaseError::fail)?;
        prop_assert_eq!(compare(&graph, &expected, &found, Tolerance::Exact), Ok(()));
        prop_assert!(fused.len() <= graph.len());
        let printed = text::print(&fused);
        let parsed = text::parse(&printed, &OpSet::standard()).map_err(|error| TestCaseError::fail(error.to_string()))?;
        prop_assert_eq!(text::print(&parsed.graph), printed);

        let (whole, _) = run_passes(&pipeline::standard(), &graph, &weights).map_err(TestCaseError::fail)?;
        let expected = interpret(&whole, &weights, &scenario).map_err(TestCaseError::fail)?;
        let compiled = compile(&graph, codegen::Target::Cpu, &weights, 1).map_err(TestCaseError::fail)?;
        let executor = runtime::CpuExecutor::new(Some(2)).map_err(|error| TestCaseError::fail(error.to_string()))?;
        let found = execute(&executor, &graph, Arc::clone(&compiled.file), &scenario).map_err(TestCaseError::fail)?;
        // linear layers sum in another order than the interpreter; without one, bits are equal
        let has_linear = graph.ops().any(|id| graph.cast::<Linear>(id).is_some());
        let tolerance = if has_linear { Tolerance::Relative(1e-4) } else { Tolerance::Exact };
        prop_assert_eq!(compare(&graph, &expected, &found, tolerance), Ok(()));
    }
}

/// The plan of a region with another formula, as an executor loads it.
fn load_with(formula: Scalar) -> Result<(), String> {
    let text = "graph @g<T in 1..8>(%tokens: i32[T]) {\n  %table = constant @\"table\" : bf16[8, 4]\n  \
                %row = constant @\"row\" : f32[4]\n  %x = embedding %tokens, %table : bf16[T, 4]\n  \
                %y = map %x, %row {f = [add(x0, x1), f32(v0)]} : f32[T, 4]\n  return %y\n}\n";
    let graph = text::parse(text, &OpSet::standard()).map_err(|error| error.to_string())?.graph;
    let sound = compile(&graph, codegen::Target::Cpu, &SeededWeights::of(&graph, false), 1)?.file;
    let mut plan = sound.plan().clone();
    let kernel = plan.kernels.iter_mut().find(|kernel| kernel.name == "map").ok_or("the plan has no region")?;
    kernel.params[0].value = formula;
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let path = folder.path().join("forged.plan");
    let mut writer = PlanWriter::create(&path).map_err(|error| error.to_string())?;
    writer.append(sound.weights()).map_err(|error| error.to_string())?;
    writer.finish(&plan).map_err(|error| error.to_string())?;
    let file = PlanFile::open(&path).map_err(|error| error.to_string())?;
    let executor = runtime::CpuExecutor::new(Some(1)).map_err(|error| error.to_string())?;
    executor.load(Arc::new(file)).map(drop).map_err(|error| error.to_string())
}

#[test]
fn forged_formulas_are_refused_when_the_plan_is_loaded() {
    let text = |text: &str| Scalar::Text(text.to_owned());
    assert_eq!(load_with(text("[mul(x1, x0), tanh(v0), f32(v1)]")), Ok(()));
    for (formula, expected) in [
        (Scalar::Int(1), "expected a formula `f`"),
        (text(""), "expected a formula in `[` and `]`"),
        (text("[f32(x0)]"), "expected 1 inputs and 1 outputs, found 2 and 1"),
        (text("[add(x0, x1), f32(v0), f32(v0)]"), "expected 2 inputs and 2 outputs"),
        (text("[add(x0, x2), f32(v0)]"), "expected 3 inputs"),
        (text("[add(x0, x1), bf16(v0)]"), "expected a formula with an f32 result, found bf16"),
        (text("[add(x0, v0), f32(x1)]"), "`v0` is used before it is computed"),
        (text("[system(x0), f32(x1)]"), "unknown function `system`"),
        (text("[add(x0, x4000000000), f32(v0)]"), "expected at most 8 operands"),
        (text(&"[".repeat(100_000)), "expected a formula of at most 8192 characters"),
    ] {
        let error = load_with(formula.clone()).expect_err(&format!("{formula:?} was loaded"));
        assert!(error.contains(expected), "{formula:?}: {error}");
    }
}
