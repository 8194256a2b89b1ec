//! Checkpoints whose linears are stored as codes: which tensors stand for a linear, and what they mean. A file each
//! method; whatever that packs and transposes, the graph sees codes `[rows, columns]` with their scales and zeros.

mod awq;
mod compressed;
mod fp8;
mod gptq;
mod targets;
mod view;

use std::collections::BTreeMap;

use ir::TensorType;
use plan::DType;
use safetensors::tensor::Dtype;

use crate::json::Object;
use crate::model_tensors::{EMBEDDING, ModelTensor};
use crate::report::{Report, listed};
use crate::tensors::{Expected, FLOATS, Tensors};

pub(crate) use view::{Form, Packed, View};

/// What stands for a linear in the graph. Strings are keys of constants.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct CodedLinear {
    pub codes: String,
    pub scale: String,
    pub zero: Option<String>,
    pub x: Activations<String>,
}

/// How the activations of a linear are read.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Activations<T> {
    /// As the numbers that they are.
    Numbers,
    /// As codes with a scale for each row, or for so many columns of it.
    Dynamic { to: DType, cols: Option<u32> },
    /// As codes with one scale that the checkpoint knows.
    Static { to: DType, scale: T },
}

/// A linear of the model.
#[derive(Clone, Copy)]
pub(crate) struct LinearShape<'a> {
    pub module: &'a str,
    pub rows: u64,
    pub cols: u64,
    pub tensors: &'a Tensors,
}

/// A tensor of a linear, as it is stored and as it is seen.
pub(crate) struct Part {
    /// Behind the module's name.
    pub suffix: &'static str,
    /// What it may be stored as.
    pub stored: (&'static [Dtype], Vec<u64>),
    /// Type of what is seen; that of the stored elements where there is none.
    pub dtype: Option<DType>,
    /// Sizes of what is seen.
    pub shape: [u64; 2],
    pub form: Form,
}

/// The tensors of a linear.
pub(crate) struct Parts {
    pub codes: Part,
    pub scale: Part,
    pub zero: Option<Part>,
    pub x: Activations<Part>,
    /// Which group each column is in, `[columns]`; it must be what the place of the column says.
    pub groups: Option<(&'static str, u64)>,
    /// A tensor that says rows and columns.
    pub sizes: Option<&'static str>,
}

/// A way in which checkpoints are quantized.
pub(crate) trait Method {
    /// Its name in `quant_method`.
    fn name(&self) -> &'static str;

    /// Tensors that a linear has only where it is quantized.
    fn marks(&self) -> &'static [&'static str];

    /// The tensors of a quantized linear. What cannot be read is reported.
    fn parts(&self, linear: LinearShape<'_>, report: &mut Report) -> Option<Parts>;

    /// Whether the configuration wants this linear quantized, where it says so by name.
    fn wants(&self, _: &str) -> bool {
        false
    }
}

/// What `quantization_config` asks for.
pub(crate) fn method(config: Object<'_>, key: &str, report: &mut Report) -> Option<Box<dyn Method>> {
    const KNOWN: &str = "expected compressed-tensors, fp8, modelopt, awq or gptq";
    let name = match config.get("quant_method") {
        Some(_) => config.text("quant_method", report)?,
        // the file of modelopt has no such key
        None if key == fp8::MODELOPT_KEY => "modelopt",
        None => {
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

/// The file of modelopt beside the weights, and the key in it.
pub(crate) const MODELOPT: (&str, &str) = ("hf_quant_config.json", fp8::MODELOPT_KEY);

impl LinearShape<'_> {
    fn name(&self, suffix: &str) -> String {
        format!("{}.{suffix}", self.module)
    }

    /// Codes as they are stored, `[rows, columns]`.
    fn plain_codes(&self, stored: &'static [Dtype], dtype: DType) -> Part {
        let shape = [self.rows, self.cols];
        Part { suffix: "weight", stored: (stored, shape.to_vec()), dtype: Some(dtype), shape, form: Form::Stored }
    }

    /// Numbers `[rows, columns]` that may be stored in another shape of as many elements, or as one that stands for all.
    fn scales(&self, suffix: &'static str, shape: [u64; 2]) -> Part {
        let found = self.tensors.shape(&self.name(suffix)).unwrap_or(&shape);
        let elements: u64 = found.iter().product();
        let (stored, form) = match elements {
            1 if shape != [1, 1] => (found.to_vec(), Form::Spread),
            _ if elements == shape[0] * shape[1] => (found.to_vec(), Form::Stored),
            // what is wrong with it is said where shapes are compared
            _ => (shape.to_vec(), Form::Stored),
        };
        Part { suffix, stored: (FLOATS, stored), dtype: None, shape, form }
    }

    /// The scale of all activations.
    fn input_scale(&self) -> Part {
        self.scales("input_scale", [1, 1])
    }

    /// Whether so many neighbours can share a scale; reported where not.
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

/// The linears of a checkpoint that are stored as codes.
#[derive(Debug, Default)]
pub(crate) struct Quantized {
    /// The method, where there is one.
    pub method: Option<&'static str>,
    /// By the names of their modules.
    pub linears: BTreeMap<String, CodedLinear>,
    /// Types of their tensors as the graph sees them.
    pub types: BTreeMap<String, TensorType>,
    /// How those are read that are stored otherwise.
    pub views: BTreeMap<String, View>,
    /// What must be in the files.
    stored: Vec<Expected>,
    /// Groups of columns that must be what their places say: tensor and size of a group.
    groups: Vec<(String, u64)>,
    /// Tensors that say sizes, and what these are.
    sizes: Vec<(String, [u64; 2])>,
}

impl Quantized {
    /// Looks at each linear of the model.
    pub fn of(method: &dyn Method, model: &[ModelTensor], tensors: &Tensors, report: &mut Report) -> Quantized {
        let mut quantized = Quantized { method: Some(method.name()), ..Quantized::default() };
        for tensor in model {
            let Some(module) = tensor.name.strip_suffix(".weight").filter(|module| *module != EMBEDDING) else {
                continue;
            };
            let [rows, cols] = tensor.shape[..] else { continue };
            let marked = method.marks().iter().any(|mark| tensors.shape(&format!("{module}.{mark}")).is_some());
            if marked || method.wants(module) {
                let linear = LinearShape { module, rows, cols, tensors };
                if let Some(parts) = method.parts(linear, report) {
                    quantized.add(linear, parts);
                }
            }
        }
        if quantized.linears.is_empty() && report.problems() == 0 {
            let (path, name, marks) = (tensors.path().display(), method.name(), listed(method.marks()));
            report.bad_input(format!("{path}: config.json says {name}, but no linear has {marks}"));
        }
        quantized
    }

    fn add(&mut self, linear: LinearShape<'_>, parts: Parts) {
        let codes = self.part(linear, parts.codes);
        let scale = self.part(linear, parts.scale);
        let zero = parts.zero.map(|zero| self.part(linear, zero));
        let x = match parts.x {
            Activations::Numbers => Activations::Numbers,
            Activations::Dynamic { to, cols } => Activations::Dynamic { to, cols },
            Activations::Static { to, scale } => Activations::Static { to, scale: self.part(linear, scale) },
        };
        if let Some((suffix, group)) = parts.groups {
            let name = linear.name(suffix);
            self.stored.push(Expected { name: name.clone(), shape: vec![linear.cols], dtypes: &[Dtype::I32] });
            self.groups.push((name, group));
        }
        if let Some(suffix) = parts.sizes {
            let name = linear.name(suffix);
            self.stored.push(Expected { name: name.clone(), shape: vec![2], dtypes: &[Dtype::I64, Dtype::I32] });
            self.sizes.push((name, [linear.rows, linear.cols]));
        }
        self.linears.insert(linear.module.to_owned(), CodedLinear { codes, scale, zero, x });
    }

    /// Notes a tensor; its name is its key.
    fn part(&mut self, linear: LinearShape<'_>, part: Part) -> String {
        let name = linear.name(part.suffix);
        let (dtypes, shape) = part.stored;
        self.stored.push(Expected { name: name.clone(), shape, dtypes });
        let dtype = part.dtype.or(linear.tensors.dtype(&name)).unwrap_or(DType::F32);
        self.types.insert(name.clone(), TensorType::new(dtype, part.shape));
        if part.form != Form::Stored {
            self.views.insert(name.clone(), View { dtype, shape: part.shape, form: part.form });
        }
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

    /// Looks into tensors whose shapes are right.
    pub fn look(&mut self, tensors: &Tensors, report: &mut Report) {
        let path = tensors.path().display();
        for (name, [rows, cols]) in &self.sizes {
            let found = tensors.integers(name);
            if found != [*rows as i64, *cols as i64] {
                report.bad_input(format!("{path}: `{name}` is {found:?}, config.json makes it [{rows}, {cols}]"));
            }
        }
        let ordered = |(name, group): &&(String, u64)| {
            (0..).zip(tensors.integers(name)).all(|(column, found): (u64, i64)| (column / group) as i64 == found)
        };
        if let Some((name, _)) = self.groups.iter().find(|group| !ordered(group)) {
            let expected = "expected groups of neighbours (`desc_act` false, or `static_groups` true)";
            report.unsupported(format!("{path}: `{name}` puts columns into groups by activation, {expected}"));
        }
        for linear in self.linears.values_mut() {
            // codes around the middle of their range are signed ones, without zeros
            linear.zero.take_if(|zero| self.views.get(zero).is_some_and(|view| view.is_zero(zero, tensors)));
        }
        self.share_input_scales(tensors);
    }

    /// Linears whose activations have equal scales read one of them, so that they can share the codes.
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
