//! The contents of a plan. Data only: any value may be built, `check` validates it.

use serde::{Deserialize, Serialize};

use crate::{DType, Dim, Layout, RandomPart, SymbolDecl, Tiles, Work};

/// Everything that a device needs to run a model, except the bytes of stored weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Which executor runs it: `cpu`, or a GPU architecture such as `sm_90a`.
    pub target: String,
    /// The model.
    pub model: Model,
    /// The limits that the buffers are sized for.
    pub limits: Limits,
    /// Weights as kernels read them, in file order.
    pub weights: Vec<Weight>,
    /// The groups of the KV cache.
    pub kv: Vec<KvGroup>,
    /// Distinct kernels with their configuration; launches name them by index.
    pub kernels: Vec<Kernel>,
    /// The graph under several substitutions of its symbols.
    pub programs: Vec<Program>,
    /// Tokenizer files of the checkpoint, unchanged; and the formats of linear layers, if any is quantized.
    pub files: Vec<TextFile>,
    /// The effective configuration of the compilation, sorted by key.
    pub config: Vec<(String, String)>,
    /// The inputs of the compilation.
    pub inputs: Vec<Input>,
    /// Devices that run the plan together.
    pub world_size: u32,
}

/// What a request depends on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Model {
    /// `architectures[0]` of `config.json`.
    pub architecture: String,
    /// Rows of the embedding table: token ids are below it.
    pub vocab_size: u32,
    /// Scalar weights of the checkpoint.
    pub parameters: u64,
    /// Prepended to a prompt by tokenizers that do so.
    pub bos: Option<u32>,
    /// Generation stops at any of these.
    pub eos: Vec<u32>,
}

/// Limits of one step and one sequence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Sequences per step.
    pub max_batch_size: u32,
    /// Tokens per prompt.
    pub max_input_len: u32,
    /// Tokens per sequence, prompt and output.
    pub max_seq_len: u32,
    /// Packed tokens per step.
    pub max_num_tokens: u32,
    /// Rows per step whose logits are computed.
    pub max_logit_rows: u32,
}

/// One tensor that kernels read, in the layout that they require.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Weight {
    /// The name from the graph, for people.
    pub name: String,
    /// Type of an element.
    pub dtype: DType,
    /// Sizes, outermost first.
    pub shape: Vec<u64>,
    /// The memory layout.
    pub layout: Layout,
    /// The source of the bytes.
    pub data: WeightData,
}

impl Weight {
    /// Number of elements without padding, unless it overflows.
    pub fn elements(&self) -> Option<u64> {
        self.shape.iter().try_fold(1, |elements: u64, size| elements.checked_mul(*size))
    }

    /// Bytes of the tensor in its layout, unless they overflow.
    pub fn bytes(&self) -> Option<u64> {
        match (self.layout, &self.shape[..]) {
            (Layout::RowMajor, _) => self.elements()?.checked_mul(self.dtype.bytes()),
            (Layout::Packed, [_, cols]) if self.dtype == DType::I4 && cols % 2 == 0 => Some(self.elements()? / 2),
            (Layout::TiledHalves, [rows, _]) if rows % Tiles::ROWS != 0 => None,
            (Layout::Tiled | Layout::TiledHalves, [rows, cols]) => Some(Tiles::of(self.dtype, *rows, *cols)?.bytes()),
            _ => None,
        }
    }
}

/// The source of a weight's bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum WeightData {
    /// At this offset of the file's weight section.
    Stored {
        /// Bytes from the start of the section, a multiple of [`crate::WEIGHT_ALIGN`].
        offset: u64,
    },
    /// Seeded random parts, concatenated, generated when the plan is loaded.
    Random(Vec<RandomPart>),
}

/// Layers whose keys and values have one shape and share one pool of blocks. A block holds `block_tokens` tokens of
/// one sequence in all layers of the group; within a layer it is laid out `[kv_heads][key, value][tokens][head_dim]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KvGroup {
    /// Type of a stored key or value element.
    pub dtype: DType,
    /// Layers in the group.
    pub layers: u32,
    /// Key and value heads of a layer.
    pub kv_heads: u32,
    /// Head dimension.
    pub head_dim: u32,
    /// Tokens per block.
    pub block_tokens: u32,
    /// Number of blocks of the pool.
    pub blocks: u32,
}

impl KvGroup {
    /// Elements of one block in one layer.
    pub fn block_elements(&self) -> u64 {
        2 * u64::from(self.kv_heads) * u64::from(self.block_tokens) * u64::from(self.head_dim)
    }

    /// Bytes per token in all layers.
    pub fn bytes_per_token(&self) -> u64 {
        let row = 2 * u64::from(self.kv_heads) * u64::from(self.head_dim);
        u64::from(self.layers) * row * self.dtype.bytes()
    }

    /// Bytes of the pool in all layers.
    pub fn pool_bytes(&self) -> u64 {
        u64::from(self.blocks) * u64::from(self.block_tokens) * self.bytes_per_token()
    }
}

/// A kernel in one configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Kernel {
    /// The name in the kernel catalog of the target.
    pub name: String,
    /// Its configuration.
    pub params: Vec<Param>,
    /// Its code, for targets whose kernels are compiled into the plan.
    pub code: Option<Code>,
}

/// A kernel's code for a GPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Code {
    /// CUDA C, without includes. Its one entry has the kernel's name.
    pub source: String,
    /// Its compiled form.
    pub cubin: Vec<u8>,
    /// Threads per block.
    pub threads: u32,
    /// Bytes of dynamic shared memory per block.
    pub shared_bytes: u32,
}

impl Kernel {
    /// The value of a parameter.
    pub fn param(&self, name: &str) -> Option<&Scalar> {
        self.params.iter().find(|param| param.name == name).map(|param| &param.value)
    }
}

/// A named value of a kernel's configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Param {
    /// The name of the parameter.
    pub name: String,
    /// The value.
    pub value: Scalar,
}

/// A value of a kernel's configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Scalar {
    /// A count or a size.
    Int(i64),
    /// A real number.
    Float(f64),
    /// A word.
    Text(String),
}

/// What a program is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProgramKind {
    /// One new token for each of a fixed number of sequences: `T = B = R`, all constant.
    Decode,
    /// Any mix of prompt chunks and single tokens up to the bounds.
    Mixed,
}

/// The graph under one substitution of its symbols.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Program {
    /// `decode@8`, `mixed@512`.
    pub name: String,
    /// What it is for.
    pub kind: ProgramKind,
    /// The symbols that a step binds, with their bounds in this program (`min == max` where substituted).
    pub symbols: Vec<SymbolDecl>,
    /// Tensors of a step, each at a fixed offset of the arena.
    pub buffers: Vec<Buffer>,
    /// Bytes of the arena.
    pub arena_bytes: u64,
    /// Buffers that the caller fills before a step.
    pub inputs: Vec<Port>,
    /// Buffers that the caller may read after a step.
    pub outputs: Vec<Port>,
    /// The steps, in order.
    pub steps: Vec<Step>,
}

/// A tensor of a step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Buffer {
    /// The value's name in the graph.
    pub name: String,
    /// Type of an element.
    pub dtype: DType,
    /// Sizes, evaluated when a step runs; row-major.
    pub shape: Vec<Dim>,
    /// Bytes from the start of the arena.
    pub offset: u64,
    /// Bytes reserved: the size at the symbols' upper bounds.
    pub bytes: u64,
    /// Steps during which it is live: from the one that writes it to the last that reads it. Inputs are live from the
    /// first step, outputs to the last.
    pub live: (u32, u32),
}

/// A named input or output buffer of a program.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Port {
    /// What the caller calls it.
    pub name: String,
    /// The buffer.
    pub buffer: u32,
}

/// One step of a program.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Step {
    /// Runs a kernel.
    Launch(Launch),
}

/// One run of a kernel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Launch {
    /// Index into [`Plan::kernels`].
    pub kernel: u32,
    /// The graph value that it computes, for messages and profiles.
    pub site: String,
    /// What it reads.
    pub inputs: Vec<Arg>,
    /// What it writes.
    pub outputs: Vec<Arg>,
    /// Tensor maps over inputs, for kernels whose loads go through them.
    pub maps: Vec<TensorMap>,
    /// Sizes that the kernel receives at run time, each an i32.
    pub scalars: Vec<Dim>,
    /// Independent tasks (blocks on a GPU), each of which writes its own part of the outputs.
    pub grid: Dim,
    /// The op as the graph prints it, for people: one line, at most [`Launch::MAX_IR_BYTES`].
    pub ir: String,
    /// Its cost, for predictions.
    pub work: Work,
}

impl Launch {
    /// Maximum length of the text of an op.
    pub const MAX_IR_BYTES: usize = 16 << 10;
}

/// A tensor map over a matrix: boxes of `[box_rows, box_cols]` with rows of 128 bytes, which TMA writes to shared
/// memory with the 128-byte swizzle, and with zeros outside of the matrix. For a buffer, of 16-bit or quantized 8-bit
/// elements, the copy swizzles; a tiled weight is swizzled in memory already, and a box is a column of its units. (CUDA
/// driver API, `cuTensorMapEncodeTiled`.)
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorMap {
    /// Index into [`Launch::inputs`].
    pub input: u32,
    /// Rows of a box.
    pub box_rows: u32,
    /// Columns of a box.
    pub box_cols: u32,
}

/// An argument of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Arg {
    /// Index into [`Program::buffers`].
    Buffer(u32),
    /// Index into [`Plan::weights`].
    Weight(u32),
    /// The blocks of one layer of a KV group.
    Kv {
        /// Index into [`Plan::kv`].
        group: u32,
        /// Layer within the group.
        layer: u32,
    },
}

/// A file inside the plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TextFile {
    /// Name without folders, such as `tokenizer.json`.
    pub name: String,
    /// Contents.
    pub bytes: Vec<u8>,
}

/// An input of the compilation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Input {
    /// Name without folders.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// BLAKE3 of the file; of the header alone for safetensors, whose data the weight section's hashes cover.
    pub hash: [u8; 32],
}
