//! Random graphs over all ops: well-typed, with values that stay finite, and made of pieces that fusions match.
//!
//! Any byte string gives some graph, so that generators need know nothing of graphs, and can shorten them.

use ir::ops::{
    Add, AddLayerNorm, AddRmsNorm, AppendKv, Argmax, Cast, Clamp, Concat, Dequantize, Embedding, Epilogues,
    FusedLinear, GatherRows, Gelu, GeluTanh, LayerNorm, Linear, Mul, Offset, PagedAttention, Quantize, QuantizeBlocks,
    Quantized, Relu, RmsNorm, Rope, RopeAppendKv, RopeFrequencies, RopeScaling, Scale, Sigmoid, Silu, SiluMul, Softcap,
    Split, Swiglu, Tanh,
};
use ir::{DType, Graph, KvDecl, Op, OpDef, TensorType, Value};
use plan::{Dim, Symbol, SymbolDecl};

/// One piece of a graph: its kind, its earlier operands, and a detail such as a dtype or a bias.
pub type Piece = (u8, u8, u8, u8);

/// Width of all values, so that any piece can follow any other.
const WIDTH: u64 = 8;
const HEAD_DIM: u32 = 4;
/// Key and value heads of the KV groups.
const KV_HEADS: [u32; 2] = [1, 2];
const FLOATS: [DType; 3] = [DType::F32, DType::BF16, DType::F16];

/// The pieces. Another one is another line here and a function below.
const PIECES: [fn(&mut Builder, Piece); 22] = [
    Builder::embedding,
    Builder::sum,
    Builder::norm_of_sum,
    Builder::layer_norm,
    Builder::product,
    Builder::linear,
    Builder::activated_linear,
    Builder::linear_over_codes,
    Builder::codes_of_a_norm,
    Builder::codes_by_one_scale,
    Builder::parallel_linears,
    Builder::gated,
    Builder::gated_halves,
    Builder::packed_gate,
    Builder::elementwise,
    Builder::spelled_out,
    Builder::cast,
    Builder::nothing_done,
    Builder::rows,
    Builder::rotated,
    Builder::attention,
    Builder::packed_attention,
];

/// The graph of these pieces. With `narrow`, values have several dtypes; without, all values of a step are f32, as the
/// CPU requires. Some values are outputs, others may be dead.
pub fn random_graph(pieces: &[Piece], narrow: bool) -> Graph {
    let mut builder = Builder::new(pieces, narrow);
    builder.embedding((0, 0, 0, 0));
    for piece in pieces {
        PIECES[usize::from(piece.0) % PIECES.len()](&mut builder, *piece);
    }
    let Builder { mut graph, values, last, .. } = builder;
    let shown = values.into_iter().rev().step_by(3).chain(last);
    for (index, value) in shown.enumerate() {
        graph.add_output(&format!("out{index}"), value);
    }
    graph
}

/// The same graph with every value in f32. Fused ops round less often: in f32 that is not visible, while in 16 bits,
/// the norms and products of a deep graph amplify it without bound.
pub fn in_f32(graph: &Graph) -> Graph {
    let widened = |line: &str| {
        let line = line.replace("bf16", "f32").replace("f16", "f32");
        // other ops name a dtype only where it is another than their operand's
        let keeps = line.contains(" = cast ") || line.contains(" = dequantize ") || line.contains("quantized = [x");
        let dropped = |line: String| {
            line.replace("to = f32, quantize_to", "quantize_to").replace(", to = f32}", "}").replace(" {to = f32}", "")
        };
        if keeps { line } else { dropped(line) }
    };
    let text: Vec<String> = ir::text::print(graph).lines().map(widened).collect();
    let parsed = ir::text::parse(&text.join("\n"), &ir::OpSet::standard());
    parsed.unwrap_or_else(|error| panic!("a graph in f32 is well-typed: {error}")).graph
}

struct Builder {
    graph: Graph,
    narrow: bool,
    /// Floating-point rows, `[T, WIDTH]` or `[R, WIDTH]`.
    values: Vec<Value>,
    /// Values that nothing reads: results of `argmax`, and quantized sums.
    last: Vec<Value>,
    constants: u64,
    /// Layers of the KV groups that have been used.
    layers: [u32; 2],
}

impl Builder {
    fn new(pieces: &[Piece], narrow: bool) -> Builder {
        let symbol = |name| Symbol::new(name).expect("a letter is a symbol");
        let [t, b, r] = ["T", "B", "R"].map(|name| Dim::symbol(&symbol(name)));
        let symbols =
            [("T", 16), ("B", 3), ("R", 4)].map(|(name, max)| SymbolDecl { symbol: symbol(name), min: 1, max });
        let dtype = FLOATS[pieces.first().map_or(0, |piece| usize::from(piece.3)) % 3];
        let layers = pieces.len().max(1) as u32;
        let kv = KV_HEADS.map(|kv_heads| KvDecl { dtype, layers, kv_heads, head_dim: HEAD_DIM, block_tokens: 4 });
        let mut graph = Graph::new("random", symbols.to_vec(), kv.to_vec());
        let inputs = [
            ("tokens", vec![t.clone()]),
            ("positions", vec![t]),
            ("query_starts", vec![b.clone() + 1.into()]),
            ("block_table", vec![b, 6.into()]),
            ("rows", vec![r]),
        ];
        for (name, shape) in inputs {
            graph.add_input(name, TensorType { dtype: DType::I32, shape });
        }
        Builder { graph, narrow, values: Vec::new(), last: Vec::new(), constants: 0, layers: [0; 2] }
    }

    fn input(&self, name: &str) -> Value {
        self.graph.find(name).expect("all graphs have the same inputs")
    }

    /// A weight; every fifth is an existing one, under another name.
    fn constant(&mut self, dtype: DType, shape: &[u64]) -> Value {
        self.constants += 1;
        let size: Vec<String> = shape.iter().map(u64::to_string).collect();
        let key = format!("w{}.{dtype:?}.{}", self.constants / 5 * 5, size.join("x"));
        self.graph.add_constant(&key, TensorType::new(dtype, shape.iter().copied()))
    }

    fn add(&mut self, op: impl OpDef, operands: &[Value]) -> Value {
        let id = self.graph.add(Op::new(op), operands, &[]).expect("random graphs are well-typed");
        self.graph.result(id)
    }

    fn dtype(&self, value: Value) -> DType {
        self.graph.tensor(value).map_or(DType::F32, |ty| ty.dtype)
    }

    /// An earlier value.
    fn pick(&self, index: u8) -> Value {
        self.values[usize::from(index) % self.values.len()]
    }

    /// An earlier value of the same type, perhaps itself.
    fn like(&self, value: Value, index: u8) -> Value {
        let alike: Vec<Value> =
            self.values.iter().copied().filter(|other| self.graph.ty(*other) == self.graph.ty(value)).collect();
        alike[usize::from(index) % alike.len()]
    }

    /// An earlier value with a row per token.
    fn pick_tokens(&self, index: u8) -> Value {
        let tokens = self.graph.tensor(self.input("tokens")).map(|ty| ty.shape[0].clone());
        let has_tokens = |value: &Value| self.graph.tensor(*value).map(|ty| ty.shape[0].clone()) == tokens;
        let rows: Vec<Value> = self.values.iter().copied().filter(has_tokens).collect();
        rows[usize::from(index) % rows.len()]
    }

    /// The result dtype of an op over `x`.
    fn to(&self, x: Value, detail: u8) -> Option<DType> {
        let to = FLOATS[usize::from(detail) % 3];
        (self.narrow && detail % 2 == 1 && to != self.dtype(x)).then_some(to)
    }

    /// `x` in another dtype, if it has that.
    fn rounded(&mut self, x: Value, to: DType) -> Value {
        if self.dtype(x) == to { x } else { self.add(Cast { to }, &[x]) }
    }

    fn project(&mut self, x: Value, width: u64, to: Option<DType>, detail: u8) -> Value {
        let weight = self.constant(FLOATS[usize::from(detail) % 3], &[width, WIDTH]);
        let mut operands = vec![x, weight];
        if detail % 4 == 3 {
            operands.push(self.constant(DType::F32, &[width]));
        }
        self.add(Linear { to }, &operands)
    }

    /// Values of a deep graph stay finite when products and sums are normalized.
    fn norm(&mut self, x: Value, detail: u8) -> Value {
        let weight = self.constant(DType::F16, &[WIDTH]);
        self.add(RmsNorm { eps: 1e-5, head_dim: None, to: self.to(x, detail) }, &[x, weight])
    }

    /// The norm of each head, as for queries and keys.
    fn head_norm(&mut self, x: Value) -> Value {
        let weight = self.constant(DType::F16, &[u64::from(HEAD_DIM)]);
        self.add(RmsNorm { eps: 1e-5, head_dim: Some(HEAD_DIM), to: None }, &[x, weight])
    }

    fn embedding(&mut self, (_, _, _, detail): Piece) {
        let table = self.constant(FLOATS[usize::from(detail) % 3], &[16, WIDTH]);
        let x = self.add(Embedding {}, &[self.input("tokens"), table]);
        let x = if self.narrow { x } else { self.rounded(x, DType::F32) };
        self.values.push(x);
    }

    fn sum(&mut self, (_, a, b, _): Piece) {
        let a = self.pick(a);
        let sum = self.add(Add {}, &[a, self.like(a, b)]);
        self.values.push(sum);
    }

    fn norm_of_sum(&mut self, (_, a, b, detail): Piece) {
        let a = self.pick(a);
        let b = self.like(a, b);
        if detail.is_multiple_of(3) {
            let weight = self.constant(DType::F32, &[WIDTH]);
            let sum = self.add(AddRmsNorm { eps: 1e-5, to: self.to(a, detail) }, &[a, b, weight]);
            return self.values.extend([sum, Value { result: 1, ..sum }]);
        }
        let sum = self.add(Add {}, &[a, b]);
        let normed = self.norm(sum, detail);
        self.values.extend([sum, normed]);
    }

    /// Of a value or of a sum, with and without a bias.
    fn layer_norm(&mut self, (_, a, b, detail): Piece) {
        let a = self.pick(a);
        let b = self.like(a, b);
        let (eps, to) = (1e-5, self.to(a, detail));
        let factors: Vec<Value> = (0..1 + detail % 2).map(|_| self.constant(DType::F16, &[WIDTH])).collect();
        if detail.is_multiple_of(5) {
            let sum = self.add(AddLayerNorm { eps, to }, &[&[a, b], factors.as_slice()].concat());
            return self.values.extend([sum, Value { result: 1, ..sum }]);
        }
        let x = if detail.is_multiple_of(3) { a } else { self.add(Add {}, &[a, b]) };
        let normed = self.add(LayerNorm { eps, to }, &[&[x], factors.as_slice()].concat());
        self.values.push(normed);
    }

    fn product(&mut self, (_, a, b, detail): Piece) {
        let a = self.pick(a);
        let product = self.add(Mul {}, &[a, self.like(a, b)]);
        let normed = self.norm(product, detail);
        self.values.push(normed);
    }

    fn linear(&mut self, (_, a, b, detail): Piece) {
        let x = self.pick(a);
        let y = self.project(x, WIDTH, self.to(x, b), detail);
        self.values.push(y);
    }

    /// An MLP without a gate, up to its activation.
    fn activated_linear(&mut self, (_, a, b, detail): Piece) {
        let x = self.pick(a);
        let y = self.project(x, WIDTH, self.to(x, b), detail);
        let scaled = if b.is_multiple_of(3) { self.add(Scale { by: 0.5 }, &[y]) } else { y };
        let active = match detail % 4 {
            0 => self.add(Gelu {}, &[scaled]),
            1 => self.add(GeluTanh {}, &[scaled]),
            2 => self.add(Relu {}, &[scaled]),
            _ => self.add(Silu {}, &[scaled]),
        };
        self.values.push(active);
    }

    /// Quantized operands, of rows of a table: values with other roundings may be quantized either way.
    fn codes_of_a_norm(&mut self, (_, a, b, detail): Piece) {
        self.embedding((0, 0, 0, detail));
        let Some(x) = self.values.pop() else { return };
        let normed = self.norm(x, b);
        let blocks = QuantizeBlocks { to: DType::I8, rows: None, cols: a.is_multiple_of(2).then_some(4) };
        let codes = self.add(blocks.clone(), &[normed]);
        let numbers = self.constant(DType::F16, &[WIDTH, WIDTH]);
        let weight = self.add(blocks, &[numbers]);
        let scales = [codes, weight].map(|codes| Value { result: 1, ..codes });
        let quantized = Quantized { x: true, weight: true, zero_point: false };
        let product = FusedLinear {
            prologue: None,
            quantized,
            epilogue: Epilogues::default(),
            to: Some(self.dtype(x)),
            quantize_to: None,
        };
        let y = self.add(product, &[codes, weight, scales[0], scales[1]]);
        self.values.push(y);
    }

    /// A quantized norm or linear layer, with a scale so small that one step is within tolerance.
    fn codes_by_one_scale(&mut self, (_, a, b, detail): Piece) {
        self.embedding((0, 0, 0, detail));
        let Some(x) = self.values.pop() else { return };
        let y = if a.is_multiple_of(2) { self.norm(x, b) } else { self.project(x, WIDTH, self.to(x, b), detail) };
        let large = self.constant(DType::F32, &[1, 1]);
        let scale = self.add(Scale { by: 1e-4 }, &[large]);
        let codes = self.add(Quantize { to: DType::I8 }, &[y, scale]);
        let numbers = self.constant(DType::F16, &[WIDTH, WIDTH]);
        let weight = self.add(QuantizeBlocks { to: DType::I8, rows: None, cols: None }, &[numbers]);
        let quantized = Quantized { x: true, weight: true, zero_point: false };
        let sum = FusedLinear {
            prologue: None,
            quantized,
            epilogue: Epilogues::default(),
            to: Some(DType::F32),
            quantize_to: None,
        };
        let sum = self.add(sum, &[codes, weight, scale, Value { result: 1, ..weight }]);
        self.last.push(sum);
    }

    /// Only weights are quantized: activations with other roundings may be quantized either way.
    fn linear_over_codes(&mut self, (_, a, b, detail): Piece) {
        let x = self.pick(a);
        let numbers = self.constant(FLOATS[usize::from(detail) % 3], &[WIDTH, WIDTH]);
        let to = [DType::I8, DType::F8E4M3, DType::I4][usize::from(detail / 3) % 3];
        let (codes, scale) = match b % 3 {
            0 => {
                let codes = self.add(QuantizeBlocks { to, rows: None, cols: Some(4) }, &[numbers]);
                (codes, Value { result: 1, ..codes })
            }
            _ => {
                let scale = self.constant(DType::F32, &[WIDTH, 1]);
                (self.add(Quantize { to }, &[numbers, scale]), scale)
            }
        };
        let y = if detail.is_multiple_of(2) {
            let quantized = Quantized { weight: true, ..Quantized::default() };
            self.add(
                FusedLinear {
                    prologue: None,
                    quantized,
                    epilogue: Epilogues::default(),
                    to: self.to(x, b),
                    quantize_to: None,
                },
                &[x, codes, scale],
            )
        } else {
            let numbers = self.add(Dequantize { to: DType::F32 }, &[codes, scale]);
            self.add(Linear { to: self.to(x, b) }, &[x, numbers])
        };
        let normed = self.norm(y, detail);
        self.values.push(normed);
    }

    fn parallel_linears(&mut self, (_, a, b, detail): Piece) {
        let x = self.pick(a);
        for _ in 0..2 + b % 2 {
            let y = self.project(x, WIDTH, self.to(x, b), detail);
            self.values.push(y);
        }
    }

    fn gated(&mut self, (_, a, b, detail): Piece) {
        let a = self.pick(a);
        let b = self.like(a, b);
        let silu = self.add(Silu {}, &[a]);
        let operands = if detail.is_multiple_of(2) { [silu, b] } else { [b, silu] };
        let gated = self.add(Mul {}, &operands);
        let normed = self.norm(gated, detail);
        self.values.push(normed);
        if detail.is_multiple_of(8) {
            self.values.push(silu); // a second user, or none
        }
    }

    fn gated_halves(&mut self, (_, a, b, detail): Piece) {
        let x = self.pick(a);
        let parts = [(); 2].map(|()| self.constant(FLOATS[usize::from(b) % 3], &[WIDTH, WIDTH]));
        let weight = self.add(Concat {}, &parts);
        let gate_up = self.add(Linear { to: self.to(x, b) }, &[x, weight]);
        let gate = self.add(Split { sizes: vec![WIDTH as u32; 2] }, &[gate_up]);
        let gated = self.add(SiluMul {}, &[gate, Value { result: 1, ..gate }]);
        let normed = self.norm(gated, detail);
        self.values.push(normed);
    }

    fn packed_gate(&mut self, (_, a, b, detail): Piece) {
        let x = self.pick(a);
        let weight = self.constant(DType::F32, &[2 * WIDTH, WIDTH]);
        let narrow = self.add(Cast { to: FLOATS[usize::from(b) % 3] }, &[weight]);
        let gate_up = self.add(Linear { to: None }, &[x, narrow]);
        let gated = self.add(Swiglu {}, &[gate_up]);
        let normed = self.norm(gated, detail);
        self.values.push(normed);
    }

    /// A few elementwise ops in sequence, their last value normalized.
    fn elementwise(&mut self, (_, a, b, detail): Piece) {
        let mut x = self.pick(a);
        for turn in 0..1 + b % 3 {
            x = match detail.wrapping_add(7 * turn) % 9 {
                0 => self.add(Scale { by: f32::from(b % 3) / 2.0 }, &[x]),
                1 => self.add(Offset { by: f32::from(b % 3) }, &[x]),
                2 => self.add(Sigmoid {}, &[x]),
                3 => self.add(Tanh {}, &[x]),
                4 => self.add(Relu {}, &[x]),
                5 => self.add(Gelu {}, &[x]),
                6 => self.add(GeluTanh {}, &[x]),
                7 => self.add(Softcap { cap: 4.0 }, &[x]),
                _ => self.add(Clamp { low: -1.0, high: 2.0 }, &[x]),
            };
        }
        let normed = self.norm(x, detail);
        self.values.push(normed);
    }

    /// `silu` written with a sigmoid.
    fn spelled_out(&mut self, (_, a, _, detail): Piece) {
        let x = self.pick(a);
        let sigmoid = self.add(Sigmoid {}, &[x]);
        let operands = if detail.is_multiple_of(2) { [sigmoid, x] } else { [x, sigmoid] };
        let silu = self.add(Mul {}, &operands);
        self.values.push(silu);
    }

    fn cast(&mut self, (_, a, _, detail): Piece) {
        let x = self.pick(a);
        let to = if self.narrow { FLOATS[usize::from(detail) % 3] } else { DType::F32 };
        let cast = self.add(Cast { to }, &[x]);
        self.values.push(cast);
    }

    /// Casts, joins and splits without effect.
    fn nothing_done(&mut self, (_, a, _, detail): Piece) {
        let x = self.pick(a);
        let dtype = self.dtype(x);
        let mut same = self.add(Cast { to: dtype }, &[x]);
        if self.narrow && detail.is_multiple_of(2) {
            let wide = self.add(Cast { to: DType::F32 }, &[same]);
            same = self.add(Cast { to: dtype }, &[wide]);
        }
        let joined = self.add(Concat {}, &[same]);
        let split = self.add(Split { sizes: vec![WIDTH as u32] }, &[joined]);
        self.values.push(split);
    }

    fn rows(&mut self, (_, a, _, detail): Piece) {
        let x = self.pick_tokens(a);
        let gathered = self.add(GatherRows {}, &[x, self.input("rows")]);
        let argmax = self.add(Argmax { classes: WIDTH as u32 - u32::from(detail % 3) }, &[gathered]);
        self.values.push(gathered);
        self.last.push(argmax);
    }

    fn frequencies(&mut self, detail: u8) -> Value {
        let scaling = match detail % 3 {
            0 => RopeScaling::Default,
            1 => RopeScaling::Linear { factor: 2.0 },
            _ => RopeScaling::Llama3 {
                factor: 8.0,
                low_freq_factor: 1.0,
                high_freq_factor: 4.0,
                original_max_position: 64,
            },
        };
        let dim = if detail.is_multiple_of(2) { HEAD_DIM } else { HEAD_DIM / 2 };
        self.add(RopeFrequencies { dim, theta: 100.0, scaling }, &[])
    }

    fn rotated(&mut self, (_, a, b, detail): Piece) {
        let x = self.pick_tokens(a);
        let frequencies = self.frequencies(b);
        let rope = Rope { head_dim: HEAD_DIM, to: self.to(x, detail) };
        let rotated = self.add(rope, &[x, self.input("positions"), frequencies]);
        self.values.push(rotated);
    }

    /// An unused layer of the KV cache.
    fn layer(&mut self, detail: u8) -> (u32, u32) {
        let group = usize::from(detail) % 2;
        self.layers[group] += 1;
        (group as u32, self.layers[group] - 1)
    }

    fn attend(&mut self, q: Value, cache: Value, (group, layer): (u32, u32)) {
        let step = ["positions", "query_starts", "block_table"].map(|name| self.input(name));
        let kv_heads = KV_HEADS[group as usize];
        let attention = PagedAttention { group, layer, head_dim: HEAD_DIM, kv_heads, scale: 0.5 };
        let mixed = self.add(attention, &[q, cache, step[0], step[1], step[2]]);
        self.values.push(mixed);
    }

    /// Attention as in a checkpoint: three linear layers, two RoPE ops, with and without biases.
    fn attention(&mut self, (_, a, b, detail): Piece) {
        let x = self.pick_tokens(a);
        let (group, layer) = self.layer(b);
        let kv_width = u64::from(KV_HEADS[group as usize] * HEAD_DIM);
        let [q, k, v] = [WIDTH, kv_width, kv_width].map(|width| self.project(x, width, self.to(x, b), detail));
        let step = ["positions", "query_starts", "block_table"].map(|name| self.input(name));
        let frequencies = self.frequencies(b);
        let [q, k] = if detail.is_multiple_of(3) { [q, k].map(|x| self.head_norm(x)) } else { [q, k] };
        let q = self.add(Rope { head_dim: HEAD_DIM, to: self.to(q, detail / 2) }, &[q, step[0], frequencies]);
        let frequencies = self.frequencies(if detail.is_multiple_of(5) { b / 2 } else { b });
        let k = self.add(Rope { head_dim: HEAD_DIM, to: None }, &[k, step[0], frequencies]);
        let cache = self.add(AppendKv { group, layer }, &[k, v, step[0], step[1], step[2]]);
        self.attend(q, cache, (group, layer));
    }

    /// Attention over one packed row, its parts split off or not.
    fn packed_attention(&mut self, (_, a, b, detail): Piece) {
        let x = self.pick_tokens(a);
        let (group, layer) = self.layer(b);
        let (kv_heads, heads) = (KV_HEADS[group as usize], WIDTH as u32 / HEAD_DIM);
        let qkv = self.project(x, u64::from((heads + 2 * kv_heads) * HEAD_DIM), self.to(x, b), detail);
        let [positions, starts, table] = ["positions", "query_starts", "block_table"].map(|name| self.input(name));
        let frequencies = self.frequencies(b);
        let to = self.to(qkv, detail / 2);
        if detail.is_multiple_of(2) {
            let norm_eps = detail.is_multiple_of(3).then_some(1e-5);
            let weights = norm_eps.map(|_| [0; 2].map(|_| self.constant(DType::F16, &[u64::from(HEAD_DIM)])));
            let fused = RopeAppendKv { group, layer, head_dim: HEAD_DIM, heads, kv_heads, norm_eps, to };
            let operands =
                [qkv, positions, starts, table, frequencies].into_iter().chain(weights.into_iter().flatten());
            let q = self.add(fused, &operands.collect::<Vec<_>>());
            return self.attend(q, Value { result: 1, ..q }, (group, layer));
        }
        let kv_width = kv_heads * HEAD_DIM;
        let q = self.add(Split { sizes: vec![WIDTH as u32, kv_width, kv_width] }, &[qkv]);
        let [k, v] = [1, 2].map(|result| Value { result, ..q });
        let k = self.add(Rope { head_dim: HEAD_DIM, to: None }, &[k, positions, frequencies]);
        let cache = self.add(AppendKv { group, layer }, &[k, v, positions, starts, table]);
        let q = self.add(Rope { head_dim: HEAD_DIM, to }, &[q, positions, frequencies]);
        self.attend(q, cache, (group, layer));
    }
}
