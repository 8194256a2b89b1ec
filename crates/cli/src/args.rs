//! Options that several commands share, and the spellings they accept.

use std::ffi::OsString;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use clap::Args;
use clap::builder::{PossibleValue, PossibleValuesParser, StringValueParser, TypedValueParser};
use smelt::eval::WindowOptions;
use smelt::extend::ir::text::suggestion;
use smelt::{
    ActivationScales, CompileOptions, DType, Driver, Error, Format, PassOptions, PrecisionOptions, RewriteFile, Target,
    TargetChoice, TimingMode, TimingOptions, WeightsChoice,
};

use smelt::plans::Machine;
use smelt::plans::input::{self, TEXT_BYTES};

use crate::environment::cache_folder;
use crate::failure::Failure;
use crate::inputs::{not_read, read_map};
use crate::output::{check_place, reads, reads_calibration};

/// Compilation options.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Compilation")]
pub struct CompileArgs {
    /// Target: auto (the GPU if there is one, otherwise the CPU), cpu or sm_90a (also: gpu, cuda, h100, h200).
    #[arg(long, value_name = "TARGET", default_value = "auto", hide_possible_values = true, value_parser = target_names())]
    pub target: String,
    /// Weight type: auto (the checkpoint's), f32, f16 or bf16.
    #[arg(long, value_name = "DTYPE", default_value = "auto", value_parser = parse_dtype)]
    pub dtype: DTypeChoice,
    /// Format of the linear layers, lm_head excluded.
    #[arg(id = "precision.linears", long = "precision", value_name = "FORMAT", hide_possible_values = true, value_parser = precision_names(), help = precision_help("bf16, f16 or f32 (same as --dtype), "))]
    pub precision: Option<PrecisionChoice>,
    /// Format of lm_head [default: unquantized].
    #[arg(id = "precision.head", long = "lm-head-precision", value_name = "FORMAT", hide_possible_values = true, value_parser = format_names())]
    pub lm_head_precision: Option<Format>,
    /// KV cache format: bf16, f16, f32, fp8 or int8. Scales come from a calibration or the checkpoint; int8 requires
    /// them [default: the weight type].
    #[arg(id = "precision.kv", long = "kv-precision", value_name = "FORMAT", hide_possible_values = true, value_parser = kv_names())]
    pub kv_precision: Option<DType>,
    /// File that assigns a format to each linear layer, one `layers.*.mlp.down fp8` per line; overrides --precision.
    #[arg(id = "precision.map", long = "precision-map", value_name = "FILE")]
    pub precision_map: Option<PathBuf>,
    /// Activation scales, dynamic or static.
    #[arg(long, value_name = "WHICH", default_value = "dynamic", value_parser = parse_scales, help = scales_help())]
    pub activation_scales: ActivationScales,
    /// Calibration file; the activations file is looked for next to it.
    #[arg(id = "precision.calibration", long = "calibration", value_name = "FILE.json", help = calibration_help("; the activations file is looked for next to it"))]
    pub calibration: Option<PathBuf>,
    /// Maximum number of concurrent sequences [default: 8].
    #[arg(long, value_name = "N", value_parser = parse_count::<u32>)]
    pub max_batch_size: Option<u32>,
    /// Maximum prompt length in tokens [default: --max-seq-len].
    #[arg(long, value_name = "N", value_parser = parse_count::<u32>)]
    pub max_input_len: Option<u32>,
    /// Maximum number of generated tokens per sequence.
    #[arg(long, value_name = "N", value_parser = parse_count::<u32>)]
    pub max_output_len: Option<u32>,
    /// Maximum sequence length in tokens [default: input plus output length if both are given, otherwise the model's
    /// context length, at most 8192].
    #[arg(long, value_name = "N", value_parser = parse_count::<u32>)]
    pub max_seq_len: Option<u32>,
    /// Maximum number of tokens per step over all sequences; longer prompts are split (chunked prefill) [default: 512].
    #[arg(long, value_name = "N", value_parser = parse_count::<u32>)]
    pub max_num_tokens: Option<u32>,
    /// KV cache size, such as 2GiB [default: room for every sequence at full length].
    #[arg(id = "kv_cache_bytes", long = "kv-cache", value_name = "SIZE", value_parser = parse_size)]
    pub kv_cache: Option<u64>,
    /// Maximum size of the activation arena in bytes; a plan that needs more is refused.
    #[arg(id = "workspace_bytes", long = "workspace-size", value_name = "BYTES", value_parser = parse_size)]
    pub workspace_size: Option<u64>,
    /// Source of the weights. With dummy, only config.json is read, and the weights are seeded random values.
    #[arg(long, default_value = "checkpoint", value_parser = weights_choices())]
    pub weights: WeightsChoice,
    #[command(flatten)]
    pub ignored: IgnoreArgs,
    #[command(flatten)]
    pub passes: PassArgs,
    /// Timing cache: kernel timings from which kernels are chosen.
    #[arg(long, value_name = "FILE")]
    pub timing_cache: Option<PathBuf>,
    /// How the timing cache is used [default: read if the file exists, written if not].
    #[arg(id = "timing.mode", long = "timing-cache-mode", value_name = "MODE", requires = "timing_cache",
          value_parser = timing_modes())]
    pub timing_cache_mode: Option<TimingMode>,
    /// Device whose timings are read, if the file has several for the target.
    #[arg(id = "timing.device", long = "timing-device", value_name = "NAME", requires = "timing_cache")]
    pub timing_device: Option<String>,
}

/// Tensors of a checkpoint that are ignored.
#[derive(Clone, Debug, Default, Args)]
pub struct IgnoreArgs {
    /// Ignores tensors that the model does not use, by name pattern: * matches any characters, ? matches one; may be
    /// repeated.
    #[arg(id = "ignored_tensors", long = "ignore-tensors", value_name = "GLOB")]
    pub ignore_tensors: Vec<String>,
}

/// How a timing cache is used.
fn timing_modes() -> impl TypedValueParser<Value = TimingMode> {
    choices(&[
        (TimingMode::Read, "read", "Use timings that are in the file, heuristics for the rest"),
        (TimingMode::Write, "write", "Measure missing timings and add them to the file"),
        (TimingMode::Require, "require", "Fail if a timing is missing"),
    ])
}

/// Source of the weights.
pub fn weights_choices() -> impl TypedValueParser<Value = WeightsChoice> {
    choices(&[
        (WeightsChoice::Checkpoint, "checkpoint", "The checkpoint's safetensors"),
        (WeightsChoice::Dummy, "dummy", "Seeded random values"),
    ])
}

/// A parser whose values shells complete. Others than those may be right, too.
#[derive(Clone)]
pub struct Completed<P> {
    parser: P,
    names: fn() -> Vec<String>,
}

impl<P: TypedValueParser> TypedValueParser for Completed<P> {
    type Value = P::Value;

    fn parse_ref(
        &self,
        command: &clap::Command,
        arg: Option<&clap::Arg>,
        value: &std::ffi::OsStr,
    ) -> Result<P::Value, clap::Error> {
        self.parser.parse_ref(command, arg, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new((self.names)().into_iter().map(PossibleValue::new)))
    }
}

/// Text that shells complete with these.
pub fn completed<T: Clone + Send + Sync + 'static>(
    parse: fn(&str) -> Result<T, String>,
    names: fn() -> Vec<String>,
) -> impl TypedValueParser<Value = T> {
    Completed { parser: StringValueParser::new().try_map(move |text| parse(&text)), names }
}

fn target_names() -> impl TypedValueParser<Value = String> {
    completed(
        |text| Ok(text.to_owned()),
        || std::iter::once("auto").chain(Target::ALL.map(Target::name)).map(str::to_owned).collect(),
    )
}

fn format_list() -> Vec<String> {
    Format::ALL.map(|format| format.name().to_owned()).to_vec()
}

/// Formats of linear layers.
pub fn format_names() -> impl TypedValueParser<Value = Format> {
    completed(parse_format, format_list)
}

/// Formats of `--precision`.
pub fn precision_names() -> impl TypedValueParser<Value = PrecisionChoice> {
    completed(parse_precision, || [format_list(), ["mixed", "bf16", "f16", "f32"].map(str::to_owned).to_vec()].concat())
}

fn kv_names() -> impl TypedValueParser<Value = DType> {
    completed(parse_kv_precision, || ["bf16", "f16", "f32", "fp8", "int8"].map(str::to_owned).to_vec())
}

/// Passes. Those of rule files and of other programs are not in the list.
pub fn pass_names() -> impl TypedValueParser<Value = String> {
    completed(
        |text| Ok(text.to_owned()),
        || Driver::new().passes().iter().map(|pass| pass.name().into_owned()).collect(),
    )
}

/// Formats that a checkpoint can be quantized to.
pub fn code_names() -> impl TypedValueParser<Value = PrecisionChoice> {
    completed(
        |text| match text {
            "mixed" => Ok(PrecisionChoice::Mixed),
            _ => text.parse().map(PrecisionChoice::Codes).map_err(|error: String| format!("{error}, or mixed")),
        },
        || [format_list(), vec!["mixed".to_owned()]].concat(),
    )
}

/// Machines with a roofline model.
pub fn machine_names() -> impl TypedValueParser<Value = Machine> {
    completed(parse_machine, || Machine::ALL.map(|machine| machine.name.to_owned()).to_vec())
}

/// Values of a type of the library, each with its name and its help.
fn choices<T: Copy + Send + Sync + 'static>(all: &'static [(T, &str, &str)]) -> impl TypedValueParser<Value = T> {
    let values = all.iter().map(|(_, name, help)| PossibleValue::new(*name).help(*help));
    PossibleValuesParser::new(values).map(move |chosen| {
        let (value, ..) = all.iter().find(|(_, name, _)| *name == chosen).expect("one of the possible values");
        *value
    })
}

/// Which passes run.
#[derive(Clone, Debug, Default, Args)]
pub struct PassArgs {
    /// Disables a pass; may be repeated, or a comma-separated list.
    #[arg(long, value_name = "PASS", value_delimiter = ',', hide_possible_values = true, value_parser = pass_names())]
    pub disable_pass: Vec<String>,
    /// Stops after this many optional passes, to bisect a miscompilation.
    #[arg(long, value_name = "N", value_parser = parse_limit::<usize>)]
    pub opt_bisect_limit: Option<usize>,
    /// File of rewrite rules, `pattern => replacement`, that are added to the pipeline; may be repeated.
    #[arg(long, value_name = "FILE.rules")]
    pub rewrites: Vec<PathBuf>,
}

impl PassArgs {
    /// The passes of a pipeline that run.
    pub fn options(&self) -> PassOptions {
        PassOptions { disabled: self.disable_pass.clone(), bisect_limit: self.opt_bisect_limit }
    }

    /// Reads the rule files.
    pub fn rewrites(&self) -> Result<Vec<RewriteFile>, Error> {
        self.rewrites.iter().for_each(|path| reads(path));
        let read = |path: &PathBuf| match input::read_text(path, TEXT_BYTES) {
            Ok(text) => Ok(RewriteFile { path: path.clone(), text }),
            Err(error) => Err(not_read("--rewrites", path, error)),
        };
        self.rewrites.iter().map(read).collect()
    }

    /// The driver with these rules.
    pub fn driver(&self, driver: &Driver) -> Result<Driver, Error> {
        driver.rewrites(&self.rewrites()?)
    }
}

/// `auto`, or a type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DTypeChoice(pub Option<DType>);

impl CompileArgs {
    /// The unquantized type, which two options may set.
    fn dtype(&self) -> Result<Option<DType>, Error> {
        match (self.dtype.0, self.precision) {
            (Some(dtype), Some(PrecisionChoice::Numbers(other))) if dtype != other => {
                Err(Error::Usage(format!("--dtype {dtype} and --precision {other} contradict each other")))
            }
            (None, Some(PrecisionChoice::Numbers(dtype))) | (Some(dtype), _) => Ok(Some(dtype)),
            (None, _) => Ok(None),
        }
    }

    fn precision(&self) -> Result<PrecisionOptions, Error> {
        let map = self.precision_map.as_deref().map(read_map);
        let linears = match self.precision {
            Some(PrecisionChoice::Codes(format)) => Some(format),
            Some(PrecisionChoice::Numbers(_) | PrecisionChoice::Mixed) | None => None,
        };
        Ok(PrecisionOptions {
            linears,
            head: self.lm_head_precision,
            kv: self.kv_precision,
            map: map.transpose()?,
            activations: self.activation_scales,
            calibration: self.calibration.clone(),
        })
    }

    /// The options as the library takes them.
    pub fn options(&self) -> Result<CompileOptions, Failure> {
        match self.precision {
            Some(PrecisionChoice::Mixed) => Err(Error::Usage(
                "mixed formats are chosen by `smelt compile`; pass the table that it writes as --precision-map"
                    .to_owned(),
            )
            .into()),
            _ => self.options_but_mixed(),
        }
    }

    /// The same, with formats still to be chosen.
    pub fn options_but_mixed(&self) -> Result<CompileOptions, Failure> {
        let options = CompileOptions {
            target: parse_target(&self.target)?,
            dtype: self.dtype()?,
            precision: self.precision()?,
            max_batch_size: self.max_batch_size,
            max_input_len: self.max_input_len,
            max_output_len: self.max_output_len,
            max_seq_len: self.max_seq_len,
            max_num_tokens: self.max_num_tokens,
            max_logit_rows: None,
            kv_cache_bytes: self.kv_cache,
            workspace_bytes: self.workspace_size,
            weights: self.weights,
            ignored_tensors: self.ignored.ignore_tensors.clone(),
            disabled_passes: self.passes.disable_pass.clone(),
            bisect_limit: self.passes.opt_bisect_limit,
            rewrites: self.passes.rewrites()?,
            timing: self.timing_cache.as_ref().map(|file| TimingOptions {
                file: file.clone(),
                mode: self.timing_cache_mode,
                device: self.timing_device.clone(),
            }),
        };
        self.calibration.iter().for_each(|file| reads_calibration(file));
        if let Some(file) = &self.timing_cache {
            // as documented at `TimingOptions::mode`; measured timings are added to the file
            let written = self.timing_cache_mode.map_or(!file.exists(), |mode| mode == TimingMode::Write);
            if written { check_place(file)? } else { reads(file) }
        }
        Ok(options)
    }
}

/// `auto`, or the name of a target, which must be known before anything is read.
pub fn parse_target(text: &str) -> Result<TargetChoice, Error> {
    let name = match text.to_ascii_lowercase().as_str() {
        "auto" => return Ok(TargetChoice::Auto),
        // what people call it; of sm_90, plans need the instructions that the name with an `a` stands for
        "cuda" | "gpu" | "hopper" | "h100" | "h200" | "sm_90" | "sm90" | "sm90a" => Target::Sm90a.name(),
        _ => text,
    };
    let known = name.parse::<Target>().map_err(|unknown| Error::Unsupported(unknown.to_string()))?;
    Ok(TargetChoice::Named(known.name().to_owned()))
}

/// A format of linear layers: quantized, or a floating-point type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrecisionChoice {
    /// Unquantized, of a type.
    Numbers(DType),
    /// Quantized.
    Codes(Format),
    /// A format per linear layer, chosen by measured loss.
    Mixed,
}

/// The name of a type or of a format.
pub fn parse_precision(text: &str) -> Result<PrecisionChoice, String> {
    match parse_dtype(text) {
        Ok(DTypeChoice(Some(dtype))) => Ok(PrecisionChoice::Numbers(dtype)),
        _ if text == "mixed" => Ok(PrecisionChoice::Mixed),
        _ => {
            text.parse().map(PrecisionChoice::Codes).map_err(|error: String| format!("{error}, mixed, bf16, f16, f32"))
        }
    }
}

/// Help for --precision: the formats, after others.
pub fn precision_help(others: &str) -> String {
    let formats = Format::names(|_| true);
    format!("Format of the linear layers, lm_head excluded: {others}{formats}; with mixed, one is chosen per layer")
}

/// Help for --activation-scales.
pub fn scales_help() -> String {
    let formats = Format::names(Format::allows_static_scales);
    format!("Activation scales of {formats}: dynamic (one per token) or static (from the calibration)")
}

/// Help for --calibration, with what follows it.
pub fn calibration_help(more: &str) -> String {
    let formats = Format::names(|format| format.needs_calibration(ActivationScales::Dynamic));
    format!("Calibration file, required by {formats}, and by static scales{more}")
}

/// Formats of the KV cache.
fn parse_kv_precision(text: &str) -> Result<DType, String> {
    match (text, parse_dtype(text)) {
        ("fp8" | "f8e4m3", _) => Ok(DType::F8E4M3),
        ("int8" | "i8", _) => Ok(DType::I8),
        (_, Ok(DTypeChoice(Some(dtype)))) => Ok(dtype),
        _ => Err(format!("unknown format `{text}`, expected bf16, f16, f32, fp8 or int8")),
    }
}

/// The name of a machine with a roofline model.
fn parse_machine(name: &str) -> Result<Machine, String> {
    Machine::find(name).ok_or_else(|| unknown("machine", name, &Machine::ALL.map(|machine| machine.name)))
}

/// The error for a name that is none of these.
pub fn unknown(kind: &str, name: &str, known: &[&str]) -> String {
    let near = suggestion(name, known.iter().copied());
    format!("unknown {kind} `{name}`{near}, expected one of: {}", known.join(", "))
}

/// A finite number above zero.
pub fn parse_positive(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|number| *number > 0.0 && number.is_finite());
    number.ok_or_else(|| format!("expected a number above 0 and at most {:e}", f64::MAX))
}

/// A whole number in a range, which the error names.
fn parse_in<T: TryFrom<u64>>(text: &str, range: RangeInclusive<u64>) -> Result<T, String> {
    let number = text.parse::<u64>().ok().filter(|number| range.contains(number));
    let number = number.and_then(|number| T::try_from(number).ok());
    number.ok_or_else(|| format!("expected a whole number from {} to {}", range.start(), range.end()))
}

/// A count, at least one.
pub fn parse_count<T: TryFrom<u64>>(text: &str) -> Result<T, String> {
    parse_in(text, 1..=u32::MAX.into())
}

/// A number that may be zero.
pub fn parse_limit<T: TryFrom<u64>>(text: &str) -> Result<T, String> {
    parse_in(text, 0..=u32::MAX.into())
}

/// CPU threads: more than machines have would only take memory from each other.
pub fn parse_threads(text: &str) -> Result<usize, String> {
    parse_in(text, 1..=1024)
}

/// Source of activation scales.
pub fn parse_scales(text: &str) -> Result<ActivationScales, String> {
    text.parse()
}

/// The name of a format.
fn parse_format(text: &str) -> Result<Format, String> {
    text.parse()
}

/// `auto`, our names, and those of TensorRT-LLM and PyTorch.
pub fn parse_dtype(text: &str) -> Result<DTypeChoice, String> {
    let dtype = match text {
        "auto" => None,
        "f32" | "fp32" | "float32" | "float" => Some(DType::F32),
        "f16" | "fp16" | "float16" | "half" => Some(DType::F16),
        "bf16" | "bfloat16" => Some(DType::BF16),
        _ => return Err(format!("unknown dtype `{text}`, expected auto, f32, f16 or bf16")),
    };
    Ok(DTypeChoice(dtype))
}

/// `1073741824`, `512MB`, `2GiB`, `1.5g`.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let unit: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        "kb" => 1000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return Err(format!("unknown unit in `{text}`, expected a size such as 512MiB, 2GB or 1073741824")),
    };
    let error = || format!("`{text}` is not a size, expected one such as 512MiB, 2GB or 1073741824");
    let too_large = || format!("`{text}` is too large, expected at most {} bytes", u64::MAX);
    if !number.contains('.') {
        let digits = !number.is_empty();
        let size = number.parse::<u64>().ok().and_then(|count| count.checked_mul(unit));
        return size.ok_or_else(|| if digits { too_large() } else { error() });
    }
    if unit == 1 {
        return Err(format!("`{text}` is a fraction of a byte, expected whole bytes, or a unit as in 1.5GiB"));
    }
    let size = number.parse::<f64>().map_err(|_| error())? * unit as f64;
    if size < u64::MAX as f64 { Ok(size as u64) } else { Err(too_large()) }
}

/// `--max_batch_size=4` to `--max-batch-size=4`: every long option may be spelled with underscores. A prompt is left as
/// it is, whatever it begins with, and so is what follows `--`.
pub fn with_dashes(args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let (mut text_follows, mut options) = (false, true);
    let dashed = args.into_iter().map(|arg| {
        let is_text = std::mem::replace(&mut text_follows, arg == "--prompt" || arg == "-p");
        if is_text || !options {
            return arg;
        }
        options = arg != "--";
        let Some(text) = arg.to_str().filter(|text| text.starts_with("--")) else { return arg };
        let (name, value) = text.split_at(text.find('=').unwrap_or(text.len()));
        OsString::from(format!("{}{value}", name.replace('_', "-")))
    });
    dashed.collect()
}

/// Whether a command line asks for JSON on stdout. After `bench --json` there may be a file, which gets it instead.
pub fn wants_json(args: &[OsString]) -> bool {
    let Some(at) = args.iter().take_while(|arg| *arg != "--").position(|arg| arg == "--json") else { return false };
    let file = args.get(at + 1).is_some_and(|next| !next.to_string_lossy().starts_with('-'));
    let bench = args.iter().any(|arg| arg == "bench" || arg == "benchmark");
    !(bench && file)
}

/// How a text is cut.
#[derive(Clone, Copy, Debug, Args)]
pub struct WindowArgs {
    /// Window length in tokens [default: the plan's maximum sequence length, at most 2048].
    #[arg(long, value_name = "N", value_parser = parse_count::<u32>)]
    context: Option<u32>,
    /// Tokens from the start of one window to the start of the next [default: --context].
    #[arg(long, value_name = "N", value_parser = parse_count::<u32>)]
    stride: Option<u32>,
}

impl From<WindowArgs> for WindowOptions {
    fn from(args: WindowArgs) -> WindowOptions {
        WindowOptions { context: args.context, stride: args.stride }
    }
}

/// Where compiled plans and kernels are cached: an option, otherwise the system's cache directory.
#[derive(Clone, Debug, Args)]
pub struct CacheArgs {
    /// Cache directory for compiled plans, kernels and mixed-precision measurements [default: smelt in the user's cache
    /// directory].
    #[arg(long, value_name = "DIR", env = "SMELT_CACHE_DIR")]
    pub cache_dir: Option<PathBuf>,
    /// Recompiles, and caches nothing.
    #[arg(long)]
    pub no_cache: bool,
}

impl CacheArgs {
    /// The cache directory, if any.
    pub fn folder(&self) -> Option<PathBuf> {
        if self.no_cache {
            return None;
        }
        self.cache_dir.clone().or_else(cache_folder)
    }

    /// The driver with its kernel cache there.
    pub fn driver(&self, driver: &Driver) -> Driver {
        match self.folder() {
            Some(folder) => driver.clone().unit_cache(folder.join("units")),
            None => driver.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        for (text, size) in [("1073741824", 1 << 30), ("2GiB", 2 << 30), ("512mb", 512_000_000), ("1.5k", 1536)] {
            assert_eq!(parse_size(text), Ok(size));
        }
        for text in ["", "GiB", "-1", "3 parsecs", "99999999999999999999", "1e3"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn underscores_become_dashes_in_names_only() {
        let line = "generate my_model --max_batch_size=a_b --model_dir --prompt --a_b -p --c_d --e_f -- --g_h";
        let expected = "generate my_model --max-batch-size=a_b --model-dir --prompt --a_b -p --c_d --e-f -- --g_h";
        let dashed = with_dashes(line.split(' ').map(OsString::from));
        assert_eq!(dashed, expected.split(' ').map(OsString::from).collect::<Vec<_>>());
    }
}
