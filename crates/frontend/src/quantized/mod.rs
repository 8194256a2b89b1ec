//! Checkpoints with quantized linear layers: which tensors belong to a layer, and what they mean. One file per method;
//! whatever that packs and transposes, the graph sees quantized values `[rows, columns]` with scales and zero points.

mod awq;
mod compressed;
mod dequantized;
mod fp8;
mod gptq;
mod group_size;
mod kv;
mod targets;
mod view;
mod zeros;

use std::collections::BTreeMap;
use std::ops::Range;

use ir::TensorType;
use plan::DType;
use safetensors::tensor::Dtype;

use crate::json::Object;
use crate::model_tensors::{EMBEDDING, ModelTensor};
use crate::report::{Report, listed};
use crate::tensors::{Expected, FLOATS, Tensors};

use dequantized::Dequantized;
use zeros::Symmetric;

pub(crate) use kv::{CacheScheme, KvScales};
pub use kv::{KvCache, KvReach};
use view::E8M0_NAN;
pub(crate) use view::{Form, Packed, View};

/// The constants of a linear layer in the graph. Strings are their keys.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct CodedLinear {
    pub codes: String,
    pub scale: String,
    pub zero: Option<String>,
    pub x: Activations<String>,
}

/// How the activations of a linear layer are quantized.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Activations<T> {
    /// Unquantized.
    Numbers,
    /// Quantized with a scale per row, or per group of this many columns of a row.
    Dynamic { to: DType, cols: Option<u32> },
    /// Quantized with one static scale of the checkpoint.
    Static { to: DType, scale: T },
}

/// A linear layer of the model.
#[derive(Clone, Copy)]
pub(crate) struct LinearShape<'a> {
    pub module: &'a str,
    pub rows: u64,
    pub cols: u64,
    pub tensors: &'a Tensors,
}

/// A tensor of a linear layer, as stored and as viewed.
pub(crate) struct Part {
    /// Suffix after the module's name.
    pub suffix: &'static str,
    /// Dtypes that it may be stored as.
    pub stored: (&'static [Dtype], Vec<u64>),
    /// Dtype of the view; that of the stored elements if `None`.
    pub dtype: Option<DType>,
    /// Sizes of the view.
    pub shape: [u64; 2],
    pub form: Form,
}

/// The tensors of a linear layer.
pub(crate) struct Parts {
    pub codes: Part,
    pub scale: Part,
    pub zero: Option<Part>,
    /// What the configuration says about zero points.
    pub symmetric: Option<Symmetric>,
    pub x: Activations<Part>,
    /// The group of each column, `[columns]`, and the number of columns in a group.
    pub groups: Option<(&'static str, u64)>,
    /// A tensor that holds the sizes of rows and columns.
    pub sizes: Option<&'static str>,
}

/// A quantization method of checkpoints.
pub(crate) trait Method {
    /// Its name in `quant_method`.
    fn name(&self) -> &'static str;

    /// Tensors that a linear layer has only if it is quantized.
    fn marks(&self) -> &'static [&'static str];

    /// The tensors of a quantized linear layer. Unsupported layouts are reported.
    fn parts(&self, linear: LinearShape<'_>, report: &mut Report) -> Option<Parts>;

    /// Whether the configuration quantizes this linear layer, if it does so by name.
    fn wants(&self, _: &str, _: &mut Report) -> bool {
        false
    }

    /// Whether linear layers are quantized at all: perhaps only the KV cache is.
    fn has_linears(&self) -> bool {
        true
    }

    /// The closest format of this compiler, for dummy weights; `None` if that needs more than random weights.
    fn dummies(&self) -> Option<&'static str>;

    /// The quantization of the KV cache, if the configuration has one.
    fn cache(&self) -> Option<&CacheScheme> {
        None
    }
}

/// A file next to `config.json` that describes the quantization, if `config.json` does not.
#[derive(Debug)]
pub(crate) struct SideFile {
    pub name: &'static str,
    /// The key of the description; `None` if it is the whole file.
    pub key: Option<&'static str>,
    /// The default method.
    method: &'static str,
}

/// Known files, as modelopt, AutoAWQ and AutoGPTQ write them.
pub(crate) const SIDE_FILES: [SideFile; 3] = [
    SideFile { name: "hf_quant_config.json", key: Some(fp8::MODELOPT_KEY), method: "modelopt" },
    SideFile { name: "quant_config.json", key: None, method: "awq" },
    SideFile { name: "quantize_config.json", key: None, method: "gptq" },
];

/// The method of a configuration, which is a file of its own or `quantization_config`.
pub(crate) fn method(config: Object<'_>, file: Option<&SideFile>, report: &mut Report) -> Option<Box<dyn Method>> {
    const KNOWN: &str = "expected compressed-tensors, fp8, modelopt, awq or gptq";
    let name = match (config.present("quant_method"), file) {
        (Some(_), _) => config.text("quant_method", report)?,
        (None, Some(file)) => file.method,
        // no other method has this key
        (None, None) if config.present("w_bit").is_some() => "awq",
        (None, None) => {
            report.unsupported(config.missing("quant_method", KNOWN));
            return None;
        }
    };
    match name {
        "compressed-tensors" => compressed::read(config, report),
        "fp8" => fp8::read_blocks(config, report),
        "modelopt" => fp8::read_modelopt(config, report),
        "awq" => awq::read(config, report),
        "gptq" => gptq::read(config, report),
        other => {
            report.unsupported(config.found("quant_method", &other.into(), KNOWN));
            None
        }
    }
}

/// Dtypes of scales: floating-point, or powers of two.
const SCALES: &[Dtype] = &[Dtype::F32, Dtype::F16, Dtype::BF16, Dtype::F8_E8M0];

impl LinearShape<'_> {
    fn name(&self, suffix: &str) -> String {
        format!("{}.{suffix}", self.module)
    }

    /// Quantized values as stored, `[rows, columns]`.
    fn plain_codes(&self, stored: &'static [Dtype], dtype: DType) -> Part {
        let shape = [self.rows, self.cols];
        Part { suffix: "weight", stored: (stored, shape.to_vec()), dtype: Some(dtype), shape, form: Form::Stored }
    }

    /// Floating-point values `[rows, columns]`, perhaps stored in another shape of the same size, or as a single one.
    fn scales(&self, suffix: &'static str, shape: [u64; 2]) -> Part {
        let found = self.tensors.shape(&self.name(suffix)).unwrap_or(&shape);
        let elements: u64 = found.iter().product();
        let (stored, form) = match elements {
            1 if shape != [1, 1] => (found.to_vec(), Form::Spread),
            _ if elements == shape[0] * shape[1] => (found.to_vec(), Form::Stored),
            // errors are reported when shapes are compared
            _ => (shape.to_vec(), Form::Stored),
        };
        Part { suffix, stored: (SCALES, stored), dtype: None, shape, form }
    }

    /// The first of these names that the linear layer has a tensor of, or the first of all.
    fn spelled<const N: usize>(&self, names: [&'static str; N]) -> &'static str {
        names.into_iter().find(|name| self.tensors.shape(&self.name(name)).is_some()).unwrap_or(names[0])
    }

    /// The scale of all activations.
    fn input_scale(&self) -> Part {
        self.scales(self.spelled(["input_scale", "activation_scale"]), [1, 1])
    }

    /// Whether this many columns can share a scale; reported if not.
    fn groups(&self, config: &str, group: u64, report: &mut Report) -> Option<u64> {
        let groups = self.cols.div_ceil(group.max(1));
        if ir::scale_block(self.cols, groups) == Some(group.min(self.cols)) {
            return Some(groups);
        }
        report.unsupported(format!(
            "{}: groups of {group} of the {} columns of `{}` ({config}), expected a power of two",
            self.tensors.path().display(),
            self.cols,
            self.module
        ));
        None
    }
}

/// The quantized linear layers of a checkpoint.
#[derive(Debug, Default)]
pub(crate) struct Quantized {
    /// The method, if any.
    pub method: Option<&'static str>,
    /// By module name.
    pub linears: BTreeMap<String, CodedLinear>,
    /// Types of their tensors as the graph sees them.
    pub types: BTreeMap<String, TensorType>,
    /// Views of those that are stored differently.
    views: BTreeMap<String, View>,
    /// Weights of linear layers that are dequantized.
    dequantized: BTreeMap<String, Dequantized>,
    /// Tensors that must be in the files.
    stored: Vec<Expected>,
    /// Tensors that hold the group of each column, and the size of a group, by module.
    groups: BTreeMap<String, (String, u64)>,
    /// Zero points about which the configuration says more.
    symmetric: BTreeMap<String, Symmetric>,
    /// Tensors that hold sizes, and the sizes.
    sizes: Vec<(String, [u64; 2])>,
}

impl Quantized {
    /// Looks at each linear layer of the model.
    pub fn of(method: &dyn Method, model: &[ModelTensor], tensors: &mut Tensors, report: &mut Report) -> Quantized {
        if !method.has_linears() {
            return Quantized::default();
        }
        let mut quantized = Quantized { method: Some(method.name()), ..Quantized::default() };
        for tensor in model {
            let Some(module) = tensor.name.strip_suffix(".weight").filter(|module| *module != EMBEDDING) else {
                continue;
            };
            let [rows, cols] = tensor.shape[..] else { continue };
            let marked = method.marks().iter().any(|mark| tensors.shape(&format!("{module}.{mark}")).is_some());
            if marked || method.wants(module, report) {
                let linear = LinearShape { module, rows, cols, tensors };
                if let Some(parts) = method.parts(linear, report) {
                    quantized.add(linear, parts);
                }
            }
        }
        if quantized.linears.is_empty() && report.problems() == 0 {
            let (path, name, marks) = (tensors.path().display(), method.name(), listed(method.marks()));
            report.bad_input(format!("{path}: config.json says {name}, but no linear layer has {marks}"));
        }
        quantized.drop_zero_points(tensors, report);
        quantized
    }

    fn add(&mut self, linear: LinearShape<'_>, parts: Parts) {
        let codes = self.part(linear, parts.codes);
        let scale = self.part(linear, parts.scale);
        let zero = parts.zero.map(|zero| self.part(linear, zero));
        self.symmetric.extend(zero.clone().zip(parts.symmetric));
        let x = match parts.x {
            Activations::Numbers => Activations::Numbers,
            Activations::Dynamic { to, cols } => Activations::Dynamic { to, cols },
            Activations::Static { to, scale } => Activations::Static { to, scale: self.part(linear, scale) },
        };
        if let Some((suffix, group)) = parts.groups {
            let name = linear.name(suffix);
            self.stored.push(Expected { name: name.clone(), shape: vec![linear.cols], dtypes: &[Dtype::I32] });
            self.groups.insert(linear.module.to_owned(), (name, group));
        }
        if let Some(suffix) = parts.sizes {
            let name = linear.name(suffix);
            self.stored.push(Expected { name: name.clone(), shape: vec![2], dtypes: &[Dtype::I64, Dtype::I32] });
            self.sizes.push((name, [linear.rows, linear.cols]));
        }
        self.linears.insert(linear.module.to_owned(), CodedLinear { codes, scale, zero, x });
    }

    /// Adds a tensor; its name is its key.
    fn part(&mut self, linear: LinearShape<'_>, part: Part) -> String {
        let name = linear.name(part.suffix);
        let (dtypes, shape) = part.stored;
        self.stored.push(Expected { name: name.clone(), shape, dtypes });
        let dtype = part.dtype.or(linear.tensors.dtype(&name)).unwrap_or(DType::F32);
        self.types.insert(name.clone(), TensorType::new(dtype, part.shape));
        let exponents = linear.tensors.stored_dtype(&name) == Some(Dtype::F8_E8M0);
        self.views.insert(name.clone(), View { dtype, shape: part.shape, form: part.form, exponents });
        name
    }

    /// All tensors that must be in the files of a model.
    pub fn expected(&self, model: &[ModelTensor]) -> Vec<Expected> {
        let coded = |tensor: &ModelTensor| {
            tensor.name.strip_suffix(".weight").is_some_and(|module| self.linears.contains_key(module))
        };
        let plain = model.iter().filter(|tensor| !coded(tensor));
        let plain =
            plain.map(|tensor| Expected { name: tensor.name.clone(), shape: tensor.shape.clone(), dtypes: FLOATS });
        plain.chain(self.stored.iter().cloned()).collect()
    }

    /// Checks the contents of tensors whose shapes are valid.
    pub fn look(&mut self, tensors: &Tensors, report: &mut Report) {
        let path = tensors.path().display();
        for (name, [rows, cols]) in &self.sizes {
            let found = tensors.integers(name);
            if found != [*rows as i64, *cols as i64] {
                report.bad_input(format!("{path}: `{name}` is {found:?}, config.json makes it [{rows}, {cols}]"));
            }
        }
        let exponents = self.views.iter().filter(|(_, view)| view.exponents).map(|(name, _)| name.as_str());
        let is_nan = |name: &&str| tensors.bytes(name).is_some_and(|bytes| bytes.contains(&E8M0_NAN));
        let nan: Vec<&str> = exponents.filter(is_nan).collect();
        if !nan.is_empty() {
            report.bad_input(format!("{path}: scales of E8M0 that are NaN (255), expected numbers: {}", listed(&nan)));
        }
        self.judge_zeros(tensors, report);
        self.judge_groups(tensors, report);
        self.share_input_scales(tensors);
    }

    /// Copies elements of a constant, which may be quantized.
    pub fn read(&self, key: &str, tensors: &Tensors, elements: Range<u64>, out: &mut [u8]) -> Result<(), String> {
        match (self.dequantized.get(key), self.views.get(key)) {
            (Some(weight), _) => weight.read(key, tensors, elements, out),
            (None, Some(view)) => view.read(key, tensors, elements, out),
            (None, None) => tensors.read(key, elements, out),
        }
    }

    /// Gives linear layers with equal activation scales the same scale, so that they can share the quantized input.
    fn share_input_scales(&mut self, tensors: &Tensors) {
        let mut known: BTreeMap<Vec<u8>, String> = BTreeMap::new();
        for linear in self.linears.values_mut() {
            if let Activations::Static { scale, .. } = &mut linear.x {
                let bytes = tensors.bytes(scale).unwrap_or_default().to_vec();
                let first = known.entry(bytes).or_insert_with(|| scale.clone());
                scale.clone_from(first);
            }
        }
    }
}
