//! E4M3 weights: with a scale per block, as DeepSeek and Qwen publish them, or per tensor, as modelopt, AutoFP8 and
//! transformers write them. All scales are multipliers, also `weight_scale_inv` and `activation_scale`.

use plan::DType;
use safetensors::tensor::Dtype;
use serde_json::Value;

use super::{Activations, CacheScheme, LinearShape, Method, Parts};
use crate::json::Object;
use crate::report::Report;

/// The key under which modelopt's file describes the weights.
pub(super) const MODELOPT_KEY: &str = "quantization";

/// How the activations of all linear layers are quantized.
#[derive(Clone, Copy)]
enum Inputs {
    Static,
    ByToken,
}

struct Fp8 {
    name: &'static str,
    /// How weights are quantized; `None` if only the KV cache is.
    weights: Option<Weights>,
    cache: Option<CacheScheme>,
}

enum Weights {
    /// Blocks of this many rows and columns.
    Blocks([u64; 2]),
    /// One scale per tensor.
    Whole(Inputs),
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
    let weights = match config.present(key) {
        Some(_) if scheme == "dynamic" => {
            Weights::Blocks(config.expect(key, "two powers of two, such as [128, 128]", sizes, report)?)
        }
        Some(block) => {
            report.unsupported(config.found(key, block, "expected \"dynamic\" as `activation_scheme` with blocks"));
            return None;
        }
        None => Weights::Whole(if scheme == "static" { Inputs::Static } else { Inputs::ByToken }),
    };
    if config.present("scale_fmt").is_some_and(|format| format.as_str() == Some("ue8m0")) {
        let rest = "it scales activations by powers of two, smelt by any f32";
        report.warning(config.found("scale_fmt", &"ue8m0".into(), rest));
    }
    let cache = config.present("kv_cache_scheme");
    let cache =
        cache.map(|value| CacheScheme { said: config.said("kv_cache_scheme", value), codes: Some(DType::F8E4M3) });
    let method = Fp8 { name: "fp8", weights: Some(weights), cache };
    (report.problems() == problems).then(|| Box::new(method) as Box<dyn Method>)
}

/// `quant_method` modelopt, or modelopt's file next to the weights.
pub(super) fn read_modelopt(config: Object<'_>, report: &mut Report) -> Option<Box<dyn Method>> {
    let nested = config.nested(MODELOPT_KEY, report).unwrap_or(config);
    let cache = nested.present("kv_cache_quant_algo").map(|value| CacheScheme {
        said: nested.said("kv_cache_quant_algo", value),
        codes: match value.as_str() {
            Some("FP8") => Some(DType::F8E4M3),
            Some("INT8") => Some(DType::I8),
            _ => None,
        },
    });
    let weights = match nested.present("quant_algo").and_then(|_| nested.text("quant_algo", report)) {
        Some("FP8") => Some(Weights::Whole(Inputs::Static)),
        None if cache.is_some() && nested.present("quant_algo").is_none() => None,
        Some(other) => {
            report.unsupported(nested.found("quant_algo", &other.into(), "expected \"FP8\""));
            return None;
        }
        None => {
            report.bad_input(nested.missing("quant_algo", "expected \"FP8\""));
            return None;
        }
    };
    Some(Box::new(Fp8 { name: "modelopt", weights, cache }))
}

impl Method for Fp8 {
    fn name(&self) -> &'static str {
        self.name
    }

    fn dummies(&self) -> Option<&'static str> {
        self.weights.as_ref().map(|weights| match weights {
            Weights::Blocks(_) => "fp8-block",
            Weights::Whole(_) => "fp8",
        })
    }

    fn marks(&self) -> &'static [&'static str] {
        &["weight_scale_inv", "weight_scale"]
    }

    fn has_linears(&self) -> bool {
        self.weights.is_some()
    }

    fn cache(&self) -> Option<&CacheScheme> {
        self.cache.as_ref()
    }

    fn parts(&self, linear: LinearShape<'_>, _: &mut Report) -> Option<Parts> {
        let to = DType::F8E4M3;
        let (scale, shape, x) = match self.weights.as_ref()? {
            Weights::Blocks([rows, cols]) => (
                linear.spelled(["weight_scale_inv", "weight_scale"]),
                [linear.rows.div_ceil(*rows), linear.cols.div_ceil(*cols)],
                Activations::Dynamic { to, cols: u32::try_from(*cols).ok() },
            ),
            Weights::Whole(inputs) => (
                linear.spelled(["weight_scale", "weight_scale_inv"]),
                [linear.rows, 1],
                match inputs {
                    Inputs::Static => Activations::Static { to, scale: linear.input_scale() },
                    Inputs::ByToken => Activations::Dynamic { to, cols: None },
                },
            ),
        };
        let codes = linear.plain_codes(&[Dtype::F8_E4M3], to);
        Some(Parts {
            codes,
            scale: linear.scales(scale, shape),
            zero: None,
            symmetric: None,
            x,
            groups: None,
            sizes: None,
        })
    }
}
