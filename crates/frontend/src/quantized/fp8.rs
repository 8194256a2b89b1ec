//! E4M3 weights: with a scale for each block, as DeepSeek and Qwen publish them, or one for all, as modelopt writes them.

use plan::DType;
use safetensors::tensor::Dtype;
use serde_json::Value;

use super::{Activations, LinearShape, Method, Parts};
use crate::json::Object;
use crate::report::Report;

/// The key under which the file of modelopt describes the weights.
pub(super) const MODELOPT_KEY: &str = "quantization";

/// What the activations of all linears are.
#[derive(Clone, Copy)]
enum Inputs {
    Static,
    ByToken,
}

enum Fp8 {
    /// `weight_scale_inv`, by which codes are multiplied all the same.
    Blocks {
        block: [u64; 2],
    },
    Tensor {
        name: &'static str,
        inputs: Inputs,
    },
}

/// `quant_method` fp8.
pub(super) fn read_blocks(config: Object<'_>, report: &mut Report) -> Option<Box<dyn Method>> {
    let problems = report.problems();
    let scheme = config.text("activation_scheme", report).unwrap_or("dynamic");
    if !["dynamic", "static"].contains(&scheme) {
        report.unsupported(config.found("activation_scheme", &scheme.into(), "expected \"dynamic\" or \"static\""));
    }
    if let Some(format) = config.text("fmt", report).filter(|format| *format != "e4m3") {
        report.unsupported(config.found("fmt", &format.into(), "expected \"e4m3\""));
    }
    let sizes = |value: &Value| {
        let sizes: Option<Vec<u64>> = value.as_array()?.iter().map(Value::as_u64).collect();
        <[u64; 2]>::try_from(sizes?).ok().filter(|block| block.iter().all(|size| size.is_power_of_two()))
    };
    let key = "weight_block_size";
    let method = match config.present(key) {
        Some(_) if scheme == "dynamic" => {
            let block = config.expect(key, "two powers of two, such as [128, 128]", sizes, report)?;
            Fp8::Blocks { block }
        }
        Some(block) => {
            report.unsupported(config.found(key, block, "expected \"dynamic\" as `activation_scheme` with blocks"));
            return None;
        }
        None => {
            let inputs = if scheme == "static" { Inputs::Static } else { Inputs::ByToken };
            Fp8::Tensor { name: "fp8", inputs }
        }
    };
    if config.present("scale_fmt").is_some_and(|format| format.as_str() == Some("ue8m0")) {
        let rest = "activations are scaled by powers of two there, and by plain numbers here";
        report.warning(config.found("scale_fmt", &"ue8m0".into(), rest));
    }
    (report.problems() == problems).then(|| Box::new(method) as Box<dyn Method>)
}

/// `quant_method` modelopt, or the file that it leaves beside the weights.
pub(super) fn read_modelopt(config: Object<'_>, report: &mut Report) -> Option<Box<dyn Method>> {
    let nested = config.nested(MODELOPT_KEY, report).unwrap_or(config);
    match nested.text("quant_algo", report) {
        Some("FP8") => Some(Box::new(Fp8::Tensor { name: "modelopt", inputs: Inputs::Static })),
        Some(other) => {
            report.unsupported(nested.found("quant_algo", &other.into(), "expected \"FP8\""));
            None
        }
        None => {
            report.bad_input(nested.missing("quant_algo", "expected \"FP8\""));
            None
        }
    }
}

impl Method for Fp8 {
    fn name(&self) -> &'static str {
        match self {
            Fp8::Blocks { .. } => "fp8",
            Fp8::Tensor { name, .. } => name,
        }
    }

    fn marks(&self) -> &'static [&'static str] {
        match self {
            Fp8::Blocks { .. } => &["weight_scale_inv"],
            Fp8::Tensor { .. } => &["weight_scale"],
        }
    }

    fn parts(&self, linear: LinearShape<'_>, _: &mut Report) -> Option<Parts> {
        let to = DType::F8E4M3;
        let (scale, x) = match self {
            Fp8::Blocks { block: [rows, cols] } => (
                linear.scales("weight_scale_inv", [linear.rows.div_ceil(*rows), linear.cols.div_ceil(*cols)]),
                Activations::Dynamic { to, cols: u32::try_from(*cols).ok() },
            ),
            Fp8::Tensor { inputs, .. } => (
                linear.scales("weight_scale", [linear.rows, 1]),
                match inputs {
                    Inputs::Static => Activations::Static { to, scale: linear.input_scale() },
                    Inputs::ByToken => Activations::Dynamic { to, cols: None },
                },
            ),
        };
        let codes = linear.plain_codes(&[Dtype::F8_E4M3], to);
        Some(Parts { codes, scale, zero: None, x, groups: None, sizes: None })
    }
}
