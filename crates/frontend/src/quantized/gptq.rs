//! GPTQ in the layout of AutoGPTQ and GPTQModel: 4-bit or 8-bit values with zero points, transposed, inputs packed in
//! order.
//! (arXiv 2210.17323; the layout is that of `QuantLinear`.)

use plan::DType;
use safetensors::tensor::Dtype;
use serde_json::Value;

use super::group_size::{GroupSize, Groups};
use super::view::IN_ORDER;
use super::{Activations, Form, LinearShape, Method, Packed, Part, Parts, Symmetric};
use crate::json::Object;
use crate::report::Report;
use crate::tensors::FLOATS;

struct Gptq {
    bits: u32,
    group: GroupSize,
    /// The version of the format.
    format: &'static str,
    /// Whether zero points are the middle of the range, if the configuration says.
    symmetric: Option<bool>,
}

/// The format that stores zero points minus one.
const V1: &str = "gptq";
/// The format that stores zero points unchanged.
const V2: &str = "gptq_v2";

pub(super) fn read(config: Object<'_>, report: &mut Report) -> Option<Box<dyn Method>> {
    let problems = report.problems();
    let bits = match config.size("bits", 1..=64, report) {
        Some(bits @ (4 | 8)) => bits,
        Some(bits) => {
            report.unsupported(config.found("bits", &bits.into(), "expected 4 or 8"));
            bits
        }
        None => {
            report.bad_input(config.missing("bits", "expected 4 or 8"));
            4
        }
    };
    let format = config.present("checkpoint_format").and_then(|_| config.text("checkpoint_format", report));
    let format = match format {
        None | Some(V1) => V1,
        Some(V2) => V2,
        Some(other) => {
            let expected = "expected \"gptq\" or \"gptq_v2\"";
            report.unsupported(config.found("checkpoint_format", &other.into(), expected));
            V1
        }
    };
    if let Some(value) = config.present("is_marlin_format").filter(|value| **value == Value::Bool(true)) {
        report.unsupported(config.found("is_marlin_format", value, "expected false"));
    }
    // keys with `-:` exclude modules, all others override settings of some modules
    let same =
        |own: &Value| own.as_object().is_some_and(|own| own.iter().all(|(key, own)| config.get(key) == Some(own)));
    let overrides = config.nested("dynamic", report);
    let others = |overrides: &Object<'_>| overrides.entries().any(|(key, own)| !key.starts_with("-:") && !same(own));
    if let Some(value) = overrides.filter(others).and(config.get("dynamic")) {
        report.unsupported(config.found("dynamic", value, "expected the same bits and groups everywhere"));
    }
    let group = GroupSize::read(config, &["group_size"], report);
    let symmetric = config.present("sym").and_then(|_| config.flag("sym", report));
    (report.problems() == problems).then(|| Box::new(Gptq { bits, group, format, symmetric }) as Box<dyn Method>)
}

impl Method for Gptq {
    fn name(&self) -> &'static str {
        "gptq"
    }

    fn dummies(&self) -> Option<&'static str> {
        Some(if self.bits == 4 { "int4" } else { "int8-weight" })
    }

    fn marks(&self) -> &'static [&'static str] {
        &["qweight"]
    }

    fn parts(&self, linear: LinearShape<'_>, report: &mut Report) -> Option<Parts> {
        let LinearShape { rows, cols, .. } = linear;
        let groups = self.group.of(linear, report)?;
        let packed = |axis, add| Packed { bits: self.bits, transposed: true, axis, lanes: IN_ORDER, add };
        let codes = Part {
            suffix: "qweight",
            stored: (&[Dtype::I32], vec![cols.div_ceil(packed(0, 0).per_word()), rows]),
            dtype: Some(if self.bits == 4 { DType::I4 } else { DType::I8 }),
            shape: [rows, cols],
            form: Form::Packed(packed(0, 0)),
        };
        let Groups { count, cols: group } = groups;
        let scale = Part {
            suffix: "scales",
            stored: (FLOATS, vec![count, rows]),
            dtype: None,
            shape: [rows, count],
            form: Form::Transposed,
        };
        // one in each field of a word: carries undo the borrows of a zero point that was 0
        let one = if self.bits == 4 { 0x1111_1111 } else { 0x0101_0101 };
        let [zero, other] = if self.format == V1 { [one, 0] } else { [0, one] }.map(|add| packed(1, add));
        let zero = Part {
            suffix: "qzeros",
            stored: (&[Dtype::I32], vec![count, rows.div_ceil(zero.per_word())]),
            dtype: Some(DType::I8),
            shape: [rows, count],
            form: Form::Packed(zero),
        };
        // AutoGPTQ and transformers take true for a missing `sym`
        let symmetric = Symmetric { stated: self.symmetric == Some(true), format: self.format, other };
        let ordered = linear.tensors.shape(&linear.name("g_idx")).is_some();
        Some(Parts {
            codes,
            scale,
            zero: Some(zero),
            symmetric: (self.symmetric != Some(false)).then_some(symmetric),
            x: Activations::Numbers,
            groups: ordered.then_some(("g_idx", group)),
            sizes: None,
        })
    }
}
