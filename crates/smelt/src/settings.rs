//! Options and a checkpoint to the settings of one compilation, and the bound on its arena. Pure functions.

use std::fmt::Write;

use codegen::Target;
use frontend::{ImportOptions, ModelConfig};
use plan::{DType, KvGroup, Limits, Plan, Program, Step};

use crate::{ActivationScales, CompileOptions, Error, WeightsChoice};

/// Longest sequence by default: longer ones must be requested, since they cost KV blocks.
const DEFAULT_SEQ_LEN: u32 = 8192;
const DEFAULT_BATCH_SIZE: u32 = 8;
/// Tokens per step by default: enough rows to reuse a weight many times while it is cached.
const DEFAULT_NUM_TOKENS: u32 = 512;
/// Rows of logits by default: as many as a step may sample, or more if all logits are requested.
const DEFAULT_LOGIT_ROWS: u32 = 64;

/// The settings of one compilation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    pub target: Target,
    pub dtype: DType,
    pub limits: Limits,
    pub kv_blocks: u32,
    pub import: ImportOptions,
    /// Unexpected effects of requested limits.
    pub note: Option<String>,
    /// The same for limits that are derived from the model.
    pub warning: Option<String>,
}

impl Settings {
    /// Fills in the options that are not set.
    pub fn resolve(
        target: Target,
        options: &CompileOptions,
        model: &ModelConfig,
        stored: DType,
    ) -> Result<Settings, Error> {
        let dtype = options.dtype.unwrap_or(stored);
        if !dtype.is_float() {
            return Err(Error::Usage(format!("weights cannot be of dtype {dtype}, expected f32, f16 or bf16")));
        }
        let limits = resolve_limits(options, model)?;
        let (note, warning) = match (model.window, limits.max_seq_len) {
            (Some(window), length) if length == window && !is_length_given(options) => {
                let reason = format!("longer ones would need the sliding window of {window}, which is not supported");
                (None, Some(format!("sequences have at most {length} tokens: {reason}")))
            }
            (Some(window), length) => {
                let reason = format!("the sliding window of {window} tokens is never reached");
                (Some(format!("{reason}: sequences have at most {length}")), None)
            }
            (None, _) => (None, None),
        };
        let import = ImportOptions {
            weights: dtype,
            activations: target.activations(dtype),
            kv: options.precision.kv.unwrap_or(dtype),
            block_tokens: target.block_tokens(),
            max_num_tokens: limits.max_num_tokens,
            max_batch_size: limits.max_batch_size,
            max_logit_rows: limits.max_logit_rows,
            max_seq_len: limits.max_seq_len,
            sampled_ids: None,
        };
        let kv_blocks = resolve_kv_blocks(options, model, &limits, &import)?;
        Ok(Settings { target, dtype, limits, kv_blocks, import, note, warning })
    }

    /// The effective configuration, sorted by key.
    pub fn effective(&self, options: &CompileOptions) -> Vec<(String, String)> {
        let weights = match options.weights {
            WeightsChoice::Checkpoint => "checkpoint",
            WeightsChoice::Dummy => "dummy",
        };
        let limits = &self.limits;
        let mut config = vec![
            ("activations", self.import.activations.to_string()),
            ("disabled_passes", options.disabled_passes.join(",")),
            ("dtype", self.dtype.to_string()),
            ("kv_blocks", self.kv_blocks.to_string()),
            ("kv_dtype", self.import.kv.to_string()),
            ("max_batch_size", limits.max_batch_size.to_string()),
            ("max_input_len", limits.max_input_len.to_string()),
            ("max_num_tokens", limits.max_num_tokens.to_string()),
            ("max_seq_len", limits.max_seq_len.to_string()),
            ("target", self.target.to_string()),
            ("weights", weights.to_owned()),
        ];
        let precision = [("precision", options.precision.linears), ("lm_head_precision", options.precision.head)];
        config.extend(precision.into_iter().filter_map(|(key, format)| Some((key, format?.to_string()))));
        let scales = Some(options.precision.activations).filter(|scales| *scales != ActivationScales::default());
        config.extend(scales.map(|scales| ("activation_scales", scales.to_string())));
        let ignored = Some(&options.ignored_tensors).filter(|ignored| !ignored.is_empty());
        config.extend(ignored.map(|ignored| ("ignored_tensors", ignored.join(","))));
        config.extend(options.bisect_limit.map(|limit| ("opt_bisect_limit", limit.to_string())));
        config.extend(options.max_logit_rows.map(|_| ("max_logit_rows", limits.max_logit_rows.to_string())));
        config.sort_unstable();
        config.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
    }
}

/// Whether the options set the sequence length.
fn is_length_given(options: &CompileOptions) -> bool {
    options.max_seq_len.is_some() || (options.max_input_len.is_some() && options.max_output_len.is_some())
}

fn resolve_limits(options: &CompileOptions, model: &ModelConfig) -> Result<Limits, Error> {
    let longest = model.max_position_embeddings;
    let usage = |message: String| Err(Error::Usage(message));
    let given = [
        ("max_batch_size", options.max_batch_size),
        ("max_input_len", options.max_input_len),
        ("max_output_len", options.max_output_len),
        ("max_seq_len", options.max_seq_len),
        ("max_num_tokens", options.max_num_tokens),
    ];
    if let Some((option, _)) = given.into_iter().find(|(_, value)| *value == Some(0)) {
        return usage(format!("`{option}` is 0, expected at least 1"));
    }
    let sum = match (options.max_input_len, options.max_output_len) {
        (None, None) => None,
        (input, output) => Some(input.unwrap_or(1).saturating_add(output.unwrap_or(1))),
    };
    let whole = longest.min(model.window.unwrap_or(longest));
    let default = whole.min(sum.unwrap_or(0).max(DEFAULT_SEQ_LEN));
    let given = is_length_given(options).then_some(options.max_seq_len.or(sum)).flatten();
    let max_seq_len = given.unwrap_or(default);
    if max_seq_len > longest {
        return usage(format!("sequences of {max_seq_len} tokens: the model's context length is {longest}"));
    }
    if let Some(window) = model.window.filter(|window| max_seq_len > *window) {
        return Err(Error::Unsupported(format!(
            "sequences of {max_seq_len} tokens: the model has a sliding window of {window}, which is not supported in \
             longer ones: expected `max_seq_len` {window} or less"
        )));
    }
    if sum.is_some_and(|sum| sum > max_seq_len) {
        return usage(format!(
            "`max_input_len` and `max_output_len` need {} tokens, but sequences have at most {max_seq_len}",
            sum.unwrap_or(0)
        ));
    }
    let max_batch_size = options.max_batch_size.unwrap_or(DEFAULT_BATCH_SIZE);
    let max_num_tokens = options.max_num_tokens.unwrap_or(DEFAULT_NUM_TOKENS.max(max_batch_size));
    if max_num_tokens < max_batch_size {
        return usage(format!(
            "`max_num_tokens` {max_num_tokens} is below `max_batch_size` {max_batch_size}: each sequence needs a token"
        ));
    }
    // positions and rows are i32 in kernels
    if max_num_tokens > 1 << 24 || max_batch_size > 1 << 16 {
        return usage("expected `max_num_tokens` of at most 16777216 and `max_batch_size` of at most 65536".to_owned());
    }
    Ok(Limits {
        max_batch_size,
        max_input_len: options.max_input_len.unwrap_or(max_seq_len),
        max_seq_len,
        max_num_tokens,
        max_logit_rows: max_num_tokens.min(options.max_logit_rows.unwrap_or(DEFAULT_LOGIT_ROWS).max(max_batch_size)),
    })
}

fn resolve_kv_blocks(
    options: &CompileOptions,
    model: &ModelConfig,
    limits: &Limits,
    import: &ImportOptions,
) -> Result<u32, Error> {
    let group = KvGroup {
        dtype: import.kv,
        layers: model.layers,
        kv_heads: model.kv_heads,
        head_dim: model.head_dim,
        block_tokens: import.block_tokens,
        blocks: 1,
    };
    let full = u64::from(limits.max_batch_size) * u64::from(limits.max_seq_len.div_ceil(group.block_tokens));
    let blocks = match options.kv_cache_bytes {
        None => full,
        // blocks beyond every sequence at full length would stay unused
        Some(bytes) => (bytes / group.pool_bytes()).min(full),
    };
    if blocks == 0 {
        return Err(Error::DoesNotFit(format!(
            "`kv_cache_bytes` {} is smaller than one block: {} tokens take {} bytes",
            options.kv_cache_bytes.unwrap_or(0),
            group.block_tokens,
            group.pool_bytes()
        )));
    }
    u32::try_from(blocks).map_err(|_| Error::Usage(format!("{blocks} KV blocks exceed 32-bit indices")))
}

/// Bytes of the largest arena of any program.
pub(crate) fn workspace(plan: &Plan) -> u64 {
    plan.programs.iter().map(|program| program.arena_bytes).max().unwrap_or(0)
}

/// Checks the bound, or says what would be needed and what needs it.
pub(crate) fn check_workspace(plan: &Plan, bound: Option<u64>) -> Result<(), Error> {
    let needed = workspace(plan);
    let Some(bound) = bound.filter(|bound| *bound < needed) else { return Ok(()) };
    let mut text =
        format!("`workspace_bytes` {bound} is too small, {needed} bytes are needed; arena of each program:\n");
    // Writing to a String cannot fail.
    for program in &plan.programs {
        let _ = writeln!(text, "{:>12}  {}", program.arena_bytes, program.name);
    }
    if let Some(program) = plan.programs.iter().find(|program| program.arena_bytes == needed) {
        write_fullest_step(&mut text, program);
    }
    text.push_str("(a smaller `max_num_tokens` or `max_batch_size` needs less)");
    Err(Error::DoesNotFit(text))
}

fn write_fullest_step(text: &mut String, program: &Program) {
    let step = program.fullest_step().step;
    let site = program.steps.get(step as usize).map_or("", |Step::Launch(launch)| &launch.site);
    let _ = writeln!(text, "live at the memory peak of {}, `{site}`:", program.name);
    for buffer in program.alive(step) {
        let shape: Vec<String> = buffer.shape.iter().map(ToString::to_string).collect();
        let _ = writeln!(text, "{:>12}  {} : {}[{}]", buffer.bytes, buffer.name, buffer.dtype, shape.join(", "));
    }
}
