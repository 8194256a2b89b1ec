//! GPTQ, as AutoGPTQ and GPTQModel write it: codes of 4 or 8 bits with zeros, columns as rows, inputs packed in order.
//! (arXiv 2210.17323; the layout is that of `QuantLinear`.)

use plan::DType;
use safetensors::tensor::Dtype;
use serde_json::Value;

use super::view::IN_ORDER;
use super::{Activations, Form, LinearShape, Method, Packed, Part, Parts};
use crate::json::Object;
use crate::report::Report;
use crate::tensors::FLOATS;

struct Gptq {
    bits: u32,
    /// `None` for all columns.
    group: Option<u64>,
    /// Whether zeros are stored less one, as all but `gptq_v2` do.
    less_one: bool,
}

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
    let less_one = match format {
        None | Some("gptq") => true,
        Some("gptq_v2") => false,
        Some(other) => {
            let expected = "expected \"gptq\" or \"gptq_v2\"";
            report.unsupported(config.found("checkpoint_format", &other.into(), expected));
            true
        }
    };
    if let Some(value) = config.present("is_marlin_format").filter(|value| **value == Value::Bool(true)) {
        report.unsupported(config.found("is_marlin_format", value, "expected false"));
    }
    // keys with `-:` leave modules out; all others give some of them bits or groups of their own
    let overrides = config.nested("dynamic", report);
    if overrides.is_some_and(|overrides| overrides.entries().any(|(key, _)| !key.starts_with("-:"))) {
        report.unsupported(config.found(
            "dynamic",
            &Value::Object(Default::default()),
            "expected the same bits everywhere",
        ));
    }
    let group = group_size(config, report);
    (report.problems() == problems).then(|| Box::new(Gptq { bits, group, less_one }) as Box<dyn Method>)
}

/// Columns of a group; `None` for all of them, which is spelled -1.
pub(super) fn group_size(config: Object<'_>, report: &mut Report) -> Option<u64> {
    let convert = |value: &Value| value.as_i64().filter(|size| *size == -1 || *size > 0);
    let size = config.expect("group_size", "a number above 0, or -1", convert, report)?;
    u64::try_from(size).ok()
}

impl Method for Gptq {
    fn name(&self) -> &'static str {
        "gptq"
    }

    fn marks(&self) -> &'static [&'static str] {
        &["qweight"]
    }

    fn parts(&self, linear: LinearShape<'_>, report: &mut Report) -> Option<Parts> {
        let LinearShape { rows, cols, .. } = linear;
        let group = self.group.unwrap_or(cols);
        let groups = linear.groups("`group_size`", group, report)?;
        let packed = |axis, add| Packed { bits: self.bits, transposed: true, axis, lanes: IN_ORDER, add };
        let codes = Part {
            suffix: "qweight",
            stored: (&[Dtype::I32], vec![cols.div_ceil(packed(0, 0).per_word()), rows]),
            dtype: Some(if self.bits == 4 { DType::I4 } else { DType::I8 }),
            shape: [rows, cols],
            form: Form::Packed(packed(0, 0)),
        };
        let scale = Part {
            suffix: "scales",
            stored: (FLOATS, vec![groups, rows]),
            dtype: None,
            shape: [rows, groups],
            form: Form::Transposed,
        };
        // one in each place of a word: carries undo the borrows of a zero that was 0
        let one = if self.bits == 4 { 0x1111_1111 } else { 0x0101_0101 };
        let zero = packed(1, if self.less_one { one } else { 0 });
        let zero = Part {
            suffix: "qzeros",
            stored: (&[Dtype::I32], vec![groups, rows.div_ceil(zero.per_word())]),
            dtype: Some(DType::I8),
            shape: [rows, groups],
            form: Form::Packed(zero),
        };
        let ordered = linear.tensors.shape(&linear.name("g_idx")).is_some();
        Some(Parts {
            codes,
            scale,
            zero: Some(zero),
            x: Activations::Numbers,
            groups: ordered.then_some(("g_idx", group)),
            sizes: None,
        })
    }
}
