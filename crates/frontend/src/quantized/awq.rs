//! AWQ in the layout of AutoAWQ: 4-bit quantized values with zero points, transposed, outputs packed out of order.
//! (arXiv 2306.00978; the layout is that of `WQLinear_GEMM`.)

use plan::DType;
use safetensors::tensor::Dtype;

use super::group_size::GroupSize;
use super::{Activations, Form, LinearShape, Method, Packed, Part, Parts};
use crate::json::Object;
use crate::report::Report;
use crate::tensors::FLOATS;

/// Positions of the outputs 0 to 7 in a word, which holds them as 0, 2, 4, 6, 1, 3, 5, 7.
const LANES: [u8; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

struct Awq {
    group: GroupSize,
}

pub(super) fn read(config: Object<'_>, report: &mut Report) -> Option<Box<dyn Method>> {
    let problems = report.problems();
    // the second names are those of AutoAWQ's own file
    let bits = ["bits", "w_bit"].into_iter().find(|key| config.present(key).is_some());
    if let Some((key, bits)) =
        bits.and_then(|key| Some((key, config.size(key, 1..=64, report)?))).filter(|bits| bits.1 != 4)
    {
        report.unsupported(config.found(key, &bits.into(), "expected 4"));
    }
    if let Some(backend) = config.present("backend").filter(|backend| *backend == "llm-awq") {
        report.unsupported(config.found("backend", backend, "which packs weights differently: expected \"autoawq\""));
    }
    if let Some(version) = config.text("version", report).filter(|version| !version.eq_ignore_ascii_case("gemm")) {
        report.unsupported(config.found("version", &version.into(), "expected \"gemm\""));
    }
    if config.flag("zero_point", report) == Some(false) {
        report.unsupported(config.found("zero_point", &false.into(), "expected true"));
    }
    let group = GroupSize::read(config, &["group_size", "q_group_size"], report);
    (report.problems() == problems).then(|| Box::new(Awq { group }) as Box<dyn Method>)
}

impl Method for Awq {
    fn name(&self) -> &'static str {
        "awq"
    }

    fn dummies(&self) -> Option<&'static str> {
        Some("int4")
    }

    fn marks(&self) -> &'static [&'static str] {
        &["qweight"]
    }

    fn parts(&self, linear: LinearShape<'_>, report: &mut Report) -> Option<Parts> {
        let LinearShape { rows, cols, .. } = linear;
        let groups = self.group.of(linear, report)?.count;
        let form = Form::Packed(Packed { bits: 4, transposed: true, axis: 1, lanes: LANES, add: 0 });
        let packed = |suffix, dtype, size: u64| Part {
            suffix,
            stored: (&[Dtype::I32], vec![size, rows.div_ceil(8)]),
            dtype: Some(dtype),
            shape: [rows, size],
            form,
        };
        let scale = Part {
            suffix: "scales",
            stored: (FLOATS, vec![groups, rows]),
            dtype: None,
            shape: [rows, groups],
            form: Form::Transposed,
        };
        Some(Parts {
            codes: packed("qweight", DType::I4, cols),
            scale,
            zero: Some(packed("qzeros", DType::I8, groups)),
            symmetric: None,
            x: Activations::Numbers,
            groups: None,
            sizes: None,
        })
    }
}
