//! Options of a compilation.

use std::path::PathBuf;

use passes::quantize::{ActivationScales, Format};
use plan::DType;

/// Options of a compilation. `None` leaves a choice to smelt: see [`crate::CompileReport`] for the result.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct CompileOptions {
    /// The target.
    pub target: TargetChoice,
    /// Weight type; that of the checkpoint by default.
    pub dtype: Option<DType>,
    /// Maximum number of concurrent sequences.
    pub max_batch_size: Option<u32>,
    /// Maximum prompt length in tokens.
    pub max_input_len: Option<u32>,
    /// Maximum number of generated tokens per sequence.
    pub max_output_len: Option<u32>,
    /// Maximum sequence length in tokens, prompt and output.
    pub max_seq_len: Option<u32>,
    /// Maximum number of packed tokens per step.
    pub max_num_tokens: Option<u32>,
    /// Maximum number of rows per step whose logits are computed.
    pub max_logit_rows: Option<u32>,
    /// KV cache size in bytes.
    pub kv_cache_bytes: Option<u64>,
    /// Maximum size of the arena in bytes.
    pub workspace_bytes: Option<u64>,
    /// Source of the weights.
    pub weights: WeightsChoice,
    /// Tensors of the checkpoint to ignore, by name pattern: `*` matches any characters, `?` matches one. The model
    /// must not need them.
    pub ignored_tensors: Vec<String>,
    /// Disabled passes.
    pub disabled_passes: Vec<String>,
    /// Number of optional passes to run.
    pub bisect_limit: Option<usize>,
    /// Rewrite rules that are added to the pipeline.
    pub rewrites: Vec<RewriteFile>,
    /// Formats of linear layers.
    pub precision: PrecisionOptions,
    /// Kernel timings that select kernels; without, heuristics do.
    pub timing: Option<TimingOptions>,
}

impl CompileOptions {
    /// The same at the checkpoint's own precision, as a reference: for the same machine, with the same limits.
    pub fn reference(&self) -> CompileOptions {
        CompileOptions {
            dtype: None,
            precision: PrecisionOptions::default(),
            // wider types need more memory, and have timings of their own
            kv_cache_bytes: None,
            workspace_bytes: None,
            timing: None,
            ..self.clone()
        }
    }
}

/// Formats of linear layers; those that are not named stay unquantized.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct PrecisionOptions {
    /// Of all except lm_head.
    pub linears: Option<Format>,
    /// Of lm_head.
    pub head: Option<Format>,
    /// KV cache format; the weight type by default.
    pub kv: Option<DType>,
    /// A table that overrides the format of some layers.
    pub map: Option<PrecisionMap>,
    /// Source of activation scales, for formats that allow a choice.
    pub activations: ActivationScales,
    /// A calibration of the model, next to its activations file.
    pub calibration: Option<PathBuf>,
}

/// A table of linear layers and their formats.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PrecisionMap {
    /// Its path.
    pub path: PathBuf,
    /// The table.
    pub text: String,
}

impl PrecisionMap {
    /// A table of these linear layers, which is not from a file.
    pub(crate) fn of<'a>(formats: impl IntoIterator<Item = (&'a String, &'a Format)>) -> PrecisionMap {
        let lines = formats.into_iter().map(|(name, format)| format!("{name} {format}\n"));
        PrecisionMap { path: PathBuf::from("precision"), text: lines.collect() }
    }
}

/// A file of rewrite rules, `pattern => replacement`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RewriteFile {
    /// Its path: messages show the path, plans the file name.
    pub path: PathBuf,
    /// The rules.
    pub text: String,
}

/// A timing cache, and how it is used.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TimingOptions {
    /// The timing cache.
    pub file: PathBuf,
    /// How it is used; by default it is read if it exists, and written if not.
    pub mode: Option<TimingMode>,
    /// The device whose timings are read, if the file has several for the target.
    pub device: Option<String>,
}

/// How a compilation uses a timing cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TimingMode {
    /// Use existing timings, heuristics elsewhere.
    Read,
    /// Measure missing timings on this machine and add them to the file.
    Write,
    /// Fail if a timing is missing.
    Require,
}

/// The target of a compilation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum TargetChoice {
    /// The best that this machine has.
    #[default]
    Auto,
    /// A target by name.
    Named(String),
}

/// Source of the weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum WeightsChoice {
    /// The checkpoint's safetensors.
    #[default]
    Checkpoint,
    /// Seeded random values: only `config.json` is read, and the plan holds the seeds.
    Dummy,
}
