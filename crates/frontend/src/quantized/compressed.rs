//! compressed-tensors, as llm-compressor writes it: groups of modules, each with a scheme for weights and activations.

use plan::DType;
use safetensors::tensor::Dtype;
use serde_json::Value;

use super::targets::Targets;
use super::view::IN_ORDER;
use super::{Activations, CacheScheme, Form, LinearShape, Method, Packed, Part, Parts};
use crate::json::Object;
use crate::report::{Report, listed};

struct CompressedTensors {
    groups: Vec<Group>,
    ignored: Targets,
    cache: Option<CacheScheme>,
}

/// Modules with one scheme.
struct Group {
    targets: Targets,
    weights: Weights,
    inputs: Activations<()>,
    /// Whether quantized values are packed into words of 32 bits.
    packed: bool,
}

/// How weights are stored.
struct Weights {
    codes: DType,
    symmetric: bool,
    scales: Scales,
}

/// Which elements share a scale.
#[derive(Clone, Copy)]
enum Scales {
    Tensor,
    Row,
    Group(u64),
    Block([u64; 2]),
}

const FORMATS: [&str; 4] = ["int-quantized", "float-quantized", "naive-quantized", "pack-quantized"];
const PACKED: &str = "pack-quantized";
/// Groups name their formats.
const MIXED: &str = "mixed-precision";

pub(super) fn read(config: Object<'_>, report: &mut Report) -> Option<Box<dyn Method>> {
    let problems = report.problems();
    // online rotations, and sparse weights
    for (key, neutral) in [("transform_config", "{}"), ("sparsity_config", "dense")] {
        let changes = config
            .nested(key, report)
            .filter(|nested| nested.get("format").and_then(Value::as_str).is_none_or(|format| format != neutral));
        if let Some(value) = changes.and(config.get(key)) {
            report.unsupported(config.found(key, value, "which changes the mathematics: expected none"));
        }
    }
    let cache = config.nested("kv_cache_scheme", report).zip(config.get("kv_cache_scheme"));
    let cache = cache.map(|(scheme, value)| CacheScheme {
        said: config.said("kv_cache_scheme", value),
        codes: scheme_codes(scheme, report).filter(|codes| codes.bytes() == 1 && *codes != DType::I4),
    });
    let named = config.nested("config_groups", report);
    if named.is_none() && cache.is_none() {
        report.bad_input(match config.present("config_groups") {
            Some(empty) => config.found("config_groups", empty, "expected quantization schemes, or `kv_cache_scheme`"),
            None => config.missing("config_groups", "expected quantization schemes"),
        });
    }
    let format = config.present("format").and_then(|_| config.text("format", report)).unwrap_or(MIXED);
    // without groups all weights are unquantized, whatever the format's name
    if named.is_some() && format != MIXED {
        check_format(config, format, report);
    }
    let mut groups = Vec::new();
    for (name, _) in named.iter().flat_map(Object::entries) {
        if let Some(group) = named.and_then(|named| named.nested(name, report)) {
            groups.extend(Group::read(group, format, report));
        }
    }
    let ignored = Targets::read(config, "ignore", report);
    let method = CompressedTensors { groups, ignored, cache };
    (report.problems() == problems).then(|| Box::new(method) as Box<dyn Method>)
}

fn check_format(config: Object<'_>, format: &str, report: &mut Report) {
    if !FORMATS.contains(&format) {
        let rest = format_args!("expected one of {}", listed(&FORMATS));
        report.unsupported(config.found("format", &format.into(), rest));
    }
}

impl Group {
    fn read(config: Object<'_>, format: &str, report: &mut Report) -> Option<Group> {
        let targets = Targets::read(config, "targets", report);
        let own = config.present("format").and_then(|_| config.text("format", report));
        own.into_iter().for_each(|format| check_format(config, format, report));
        let Some(weights) = config.nested("weights", report) else {
            report.unsupported(config.missing("weights", "expected quantized weights"));
            return None;
        };
        if let Some(outputs) = config.present("output_activations") {
            report.unsupported(config.found("output_activations", outputs, "expected null"));
        }
        let weights = Weights::read(weights, report);
        let inputs = match config.nested("input_activations", report) {
            None => Some(Activations::Numbers),
            Some(inputs) => read_inputs(inputs, report),
        };
        Some(Group { targets, weights: weights?, inputs: inputs?, packed: own.unwrap_or(format) == PACKED })
    }
}

/// The quantized format of a scheme, if it is a known one.
fn scheme_codes(config: Object<'_>, report: &mut Report) -> Option<DType> {
    let kind = config.text("type", report).unwrap_or("int");
    match (kind, config.size("num_bits", 1..=64, report).unwrap_or(8)) {
        ("int", 4) => Some(DType::I4),
        ("int", 8) => Some(DType::I8),
        ("float", 8) => Some(DType::F8E4M3),
        _ => None,
    }
}

/// The same; unknown ones are reported.
fn read_codes(config: Object<'_>, report: &mut Report) -> Option<DType> {
    let codes = scheme_codes(config, report);
    if codes.is_none() {
        let (kind, bits) = (config.get("type").and_then(Value::as_str).unwrap_or("int"), config.get("num_bits"));
        let rest = format_args!("with `type` {kind}: expected 4-bit or 8-bit int, or 8-bit float");
        report.unsupported(config.found("num_bits", bits.unwrap_or(&Value::Null), rest));
    }
    codes
}

fn read_inputs(config: Object<'_>, report: &mut Report) -> Option<Activations<()>> {
    let to = read_codes(config, report)?;
    if config.flag("symmetric", report) == Some(false) {
        report.unsupported(config.found("symmetric", &false.into(), "expected activations without zero points"));
        return None;
    }
    // `dynamic` may also be the word "local"
    let dynamic = config.present("dynamic").cloned().unwrap_or(Value::Bool(false));
    let strategy = config.present("strategy").and_then(Value::as_str).unwrap_or("tensor");
    let group = config.present("group_size").and_then(Value::as_u64).and_then(|size| u32::try_from(size).ok());
    match (dynamic.as_bool(), strategy, group) {
        (Some(true), "token", _) => Some(Activations::Dynamic { to, cols: None }),
        (Some(true), "group", Some(cols)) if cols.is_power_of_two() => {
            Some(Activations::Dynamic { to, cols: Some(cols) })
        }
        (Some(false), "tensor", _) => Some(Activations::Static { to, scale: () }),
        _ => {
            let rest = format_args!(
                "with `dynamic` {dynamic}: expected activations with a static scale (tensor), or dynamic ones (token, or \
                 group with a `group_size` of a power of two)"
            );
            report.unsupported(config.found("strategy", &strategy.into(), rest));
            None
        }
    }
}

impl Weights {
    fn read(config: Object<'_>, report: &mut Report) -> Option<Weights> {
        let codes = read_codes(config, report)?;
        let group = config.present("group_size").and_then(Value::as_i64);
        let strategy = config.present("strategy").and_then(Value::as_str);
        let strategy = strategy.unwrap_or(match group {
            None => "tensor",
            Some(-1) => "channel",
            Some(_) => "group",
        });
        let scales = match (strategy, group) {
            ("tensor", _) => Some(Scales::Tensor),
            ("channel", _) => Some(Scales::Row),
            ("group", Some(size)) if size > 0 => Some(Scales::Group(size as u64)),
            ("block", _) => read_block(config, report).map(Scales::Block),
            _ => {
                let rest = "expected tensor, channel, group with a `group_size`, or block";
                report.unsupported(config.found("strategy", &strategy.into(), rest));
                None
            }
        };
        Some(Weights { codes, symmetric: config.flag("symmetric", report).unwrap_or(true), scales: scales? })
    }
}

/// Rows and columns of a block: `[128, 128]`, or `"128x128"` in old files.
fn read_block(config: Object<'_>, report: &mut Report) -> Option<[u64; 2]> {
    let sizes = |value: &Value| {
        let sizes: Option<Vec<u64>> = match value {
            Value::String(text) => text.split('x').map(|size| size.parse().ok()).collect(),
            value => value.as_array()?.iter().map(Value::as_u64).collect(),
        };
        <[u64; 2]>::try_from(sizes?).ok().filter(|block| block.iter().all(|size| size.is_power_of_two()))
    };
    let key = "block_structure";
    if config.present(key).is_none() {
        report.bad_input(config.missing(key, "expected rows and columns of a block"));
    }
    config.expect(key, "two powers of two, such as [128, 128]", sizes, report)
}

impl CompressedTensors {
    /// The group of a module: one that names it, or one for all linear layers.
    fn group(&self, module: &str, report: &mut Report) -> Option<&Group> {
        let named = self.groups.iter().find(|group| group.targets.name(module, report));
        named.or_else(|| self.groups.iter().find(|group| group.targets.linears()))
    }
}

impl Method for CompressedTensors {
    fn name(&self) -> &'static str {
        "compressed-tensors"
    }

    fn dummies(&self) -> Option<&'static str> {
        let [Group { weights, inputs, .. }] = &self.groups[..] else { return None };
        match (weights.codes, weights.scales, inputs) {
            (DType::I4, _, Activations::Numbers) => Some("int4"),
            (DType::I8, _, Activations::Numbers) => Some("int8-weight"),
            (DType::F8E4M3, Scales::Block(_), _) => Some("fp8-block"),
            (DType::F8E4M3, ..) => Some("fp8"),
            _ => None,
        }
    }

    fn marks(&self) -> &'static [&'static str] {
        &["weight_scale", "weight_packed"]
    }

    fn wants(&self, module: &str, report: &mut Report) -> bool {
        !self.ignored.linears() && !self.ignored.name(module, report) && self.group(module, report).is_some()
    }

    fn has_linears(&self) -> bool {
        !self.groups.is_empty()
    }

    fn cache(&self) -> Option<&CacheScheme> {
        self.cache.as_ref()
    }

    fn parts(&self, linear: LinearShape<'_>, report: &mut Report) -> Option<Parts> {
        let LinearShape { module, rows, cols, tensors } = linear;
        let Some(Group { weights, inputs, packed, .. }) = self.group(module, report) else {
            let path = tensors.path().display();
            report.bad_input(format!("{path}: `{module}` is quantized, but no group of `config_groups` targets it"));
            return None;
        };
        let scale_shape = match weights.scales {
            // repeated for each row: per-row scales can be concatenated with those of other linear layers
            Scales::Tensor | Scales::Row => [rows, 1],
            Scales::Group(size) => [rows, linear.groups("`group_size`", size, report)?],
            Scales::Block([block_rows, block_cols]) => [rows.div_ceil(block_rows), cols.div_ceil(block_cols)],
        };
        let bits = if weights.codes == DType::I4 { 4 } else { 8 };
        let words = |axis| Packed { bits, transposed: false, axis, lanes: IN_ORDER, add: 0 };
        let codes = match (*packed, weights.codes) {
            (true, DType::I4 | DType::I8) => Part {
                suffix: "weight_packed",
                stored: (&[Dtype::I32], vec![rows, cols.div_ceil(words(1).per_word())]),
                dtype: Some(weights.codes),
                shape: [rows, cols],
                form: Form::Packed(words(1)),
            },
            (_, DType::F8E4M3) => linear.plain_codes(&[Dtype::F8_E4M3], DType::F8E4M3),
            // 4 bits in a byte each, too
            (false, _) | (true, _) => linear.plain_codes(&[Dtype::I8], DType::I8),
        };
        let zero = match (weights.symmetric, codes.form) {
            (true, _) => None,
            (false, Form::Packed(_)) => Some(Part {
                suffix: "weight_zero_point",
                stored: (&[Dtype::I32], vec![rows.div_ceil(words(0).per_word()), scale_shape[1]]),
                dtype: Some(DType::I8),
                shape: scale_shape,
                form: Form::Packed(words(0)),
            }),
            (false, _) => {
                let mut zero = linear.scales("weight_zero_point", scale_shape);
                zero.stored.0 = &[Dtype::I8];
                Some(Part { dtype: Some(DType::I8), ..zero })
            }
        };
        let x = match inputs {
            Activations::Numbers => Activations::Numbers,
            Activations::Dynamic { to, cols } => Activations::Dynamic { to: *to, cols: *cols },
            Activations::Static { to, .. } => Activations::Static { to: *to, scale: linear.input_scale() },
        };
        let is_there = |suffix: &str| tensors.shape(&linear.name(suffix)).is_some();
        let groups = match weights.scales {
            Scales::Group(size) if is_there("weight_g_idx") => Some(("weight_g_idx", size)),
            _ => None,
        };
        let sizes = is_there("weight_shape").then_some("weight_shape");
        Some(Parts {
            codes,
            scale: linear.scales("weight_scale", scale_shape),
            zero,
            symmetric: None,
            x,
            groups,
            sizes,
        })
    }
}
