//! What a compilation is asked for.

use std::path::PathBuf;

use passes::quantize::{ActivationScales, Format};
use plan::DType;

/// What a compilation is asked for. `None` leaves a choice to smelt: see [`crate::CompileReport`] for what it chose.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct CompileOptions {
    /// The machine.
    pub target: TargetChoice,
    /// Type of the weights; that of the checkpoint by default.
    pub dtype: Option<DType>,
    /// Sequences of a step.
    pub max_batch_size: Option<u32>,
    /// Tokens of a prompt.
    pub max_input_len: Option<u32>,
    /// Generated tokens of a sequence.
    pub max_output_len: Option<u32>,
    /// Tokens of a sequence, prompt and generated.
    pub max_seq_len: Option<u32>,
    /// Packed tokens of a step.
    pub max_num_tokens: Option<u32>,
    /// Rows of a step whose logits are computed.
    pub max_logit_rows: Option<u32>,
    /// Bytes of the KV cache.
    pub kv_cache_bytes: Option<u64>,
    /// Bytes that the arena may have.
    pub workspace_bytes: Option<u64>,
    /// Where weights come from.
    pub weights: WeightsChoice,
    /// Tensors of the checkpoint that are left out, by patterns of their names: `*` stands for any characters, `?` for
    /// one. The model must not need them.
    pub ignored_tensors: Vec<String>,
    /// Passes to leave out.
    pub disabled_passes: Vec<String>,
    /// Passes that are not required stop after this many.
    pub bisect_limit: Option<usize>,
    /// Rules that join the passes.
    pub rewrites: Vec<RewriteFile>,
    /// Number formats of linears.
    pub precision: PrecisionOptions,
    /// Timings of kernels that decide which are used; without, heuristics do.
    pub timing: Option<TimingOptions>,
}

impl CompileOptions {
    /// The same at the precision of the checkpoint, to compare with: for the same machine, with the same limits.
    pub fn reference(&self) -> CompileOptions {
        CompileOptions {
            dtype: None,
            precision: PrecisionOptions::default(),
            // wider numbers take more, and have timings of their own
            kv_cache_bytes: None,
            workspace_bytes: None,
            timing: None,
            ..self.clone()
        }
    }
}

/// Number formats of linears; those that nothing names keep the numbers they have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct PrecisionOptions {
    /// Of all but the head.
    pub linears: Option<Format>,
    /// Of the head.
    pub head: Option<Format>,
    /// Of keys and values in their cache; that of the weights by default.
    pub kv: Option<DType>,
    /// A table that changes the format of some.
    pub map: Option<PrecisionMap>,
    /// Where the scales of activations come from, in formats that leave a choice.
    pub activations: ActivationScales,
    /// A calibration of the model, beside which its activations are.
    pub calibration: Option<PathBuf>,
}

/// A table of linears and their formats.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PrecisionMap {
    /// Where it was.
    pub path: PathBuf,
    /// The table.
    pub text: String,
}

impl PrecisionMap {
    /// A table of these linears, which nobody wrote to a file.
    pub(crate) fn of<'a>(formats: impl IntoIterator<Item = (&'a String, &'a Format)>) -> PrecisionMap {
        let lines = formats.into_iter().map(|(name, format)| format!("{name} {format}\n"));
        PrecisionMap { path: PathBuf::from("precision"), text: lines.collect() }
    }
}

/// A file of rewriting rules, `pattern => replacement`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RewriteFile {
    /// Where it was: messages name the path, plans the file.
    pub path: PathBuf,
    /// The rules.
    pub text: String,
}

/// A file of timings, and what it is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TimingOptions {
    /// The timing cache.
    pub file: PathBuf,
    /// What is done with it; by default it is read where it exists, and written where not.
    pub mode: Option<TimingMode>,
    /// Whose timings are read, where the file has those of several devices for the target.
    pub device: Option<String>,
}

/// What a compilation does with a timing cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TimingMode {
    /// Timings decide where there are some, heuristics elsewhere.
    Read,
    /// What is missing is measured on this machine and added to the file.
    Write,
    /// What is missing is an error.
    Require,
}

/// The machine to compile for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum TargetChoice {
    /// The best that this machine has.
    #[default]
    Auto,
    /// A target by name.
    Named(String),
}

/// Where weights come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum WeightsChoice {
    /// The checkpoint's safetensors.
    #[default]
    Checkpoint,
    /// Seeded random values: only `config.json` is read, and the plan holds the seeds.
    Dummy,
}
