//! The RoPE parameters of a configuration, in both spellings: `rope_theta` with `rope_scaling`, and the
//! `rope_parameters` of transformers 5.

use ir::ops::RopeScaling;
use serde_json::Value;

use crate::json::Object;
use crate::keys;
use crate::report::Report;

/// A rotary position embedding.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// The base of the frequencies.
    pub theta: f64,
    /// How it is scaled.
    pub scaling: RopeScaling,
    /// Elements of a head that are rotated.
    pub dim: u32,
}

/// Values of the configuration that RoPE needs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RopeContext {
    pub default_theta: f64,
    pub head_dim: u32,
    pub max_position_embeddings: u32,
}

/// Keys that are read; others are checked by [`crate::keys`].
const KEYS: [&str; 8] = [
    "rope_type",
    "type",
    "rope_theta",
    "factor",
    "low_freq_factor",
    "high_freq_factor",
    "original_max_position_embeddings",
    "partial_rotary_factor",
];

/// Reads the parameters. Precedence is that of transformers: `rope_scaling` before `rope_parameters`, and a theta
/// inside of them before one outside.
pub(crate) fn read(config: Object<'_>, context: RopeContext, report: &mut Report) -> Rope {
    let parameters = config.nested("rope_scaling", report);
    let newer = config.nested("rope_parameters", report);
    let parameters = parameters.or(newer);
    let mut theta = None;
    for object in parameters.into_iter().chain([config]) {
        if theta.is_none() && object.present("rope_theta").is_some() {
            theta = object.positive("rope_theta", report);
        }
        // Partial rotation, which `LlamaForCausalLM` of transformers does not have.
        if let Some(value) = object.present("partial_rotary_factor").filter(|value| value.as_f64() != Some(1.0)) {
            report.unsupported(object.found("partial_rotary_factor", value, "expected 1"));
        }
    }
    let scaling = match parameters {
        Some(parameters) => read_scaling(config, parameters, context, report),
        None => RopeScaling::Default,
    };
    Rope { theta: theta.unwrap_or(context.default_theta), scaling, dim: context.head_dim }
}

fn read_scaling(config: Object<'_>, parameters: Object<'_>, context: RopeContext, report: &mut Report) -> RopeScaling {
    let key = if parameters.get("rope_type").is_some() { "rope_type" } else { "type" };
    let scaling = match parameters.text(key, report) {
        None | Some("default") => RopeScaling::Default,
        Some("linear") => RopeScaling::Linear { factor: required(parameters, "factor", report) },
        Some("llama3") => read_llama3(config, parameters, context, report),
        Some(_) => {
            let value = parameters.get(key).unwrap_or(&Value::Null);
            report.unsupported(parameters.found(key, value, "expected \"default\", \"linear\" or \"llama3\""));
            return RopeScaling::Default;
        }
    };
    keys::check_rope(parameters, &KEYS, report);
    scaling
}

fn read_llama3(config: Object<'_>, parameters: Object<'_>, context: RopeContext, report: &mut Report) -> RopeScaling {
    let low_freq_factor = required(parameters, "low_freq_factor", report);
    let high_freq_factor = required(parameters, "high_freq_factor", report);
    if high_freq_factor <= low_freq_factor {
        let high = parameters.get("high_freq_factor").unwrap_or(&Value::Null);
        let more = format_args!("expected more than `low_freq_factor`, {low_freq_factor}");
        report.bad_input(parameters.found("high_freq_factor", high, more));
    }
    // transformers prefers a length next to the parameters, and falls back to that of the model.
    const LENGTH: &str = "original_max_position_embeddings";
    let holder = [config, parameters].into_iter().find(|object| object.present(LENGTH).is_some());
    let length = holder.and_then(|object| object.size(LENGTH, 1..=1 << 30, report));
    RopeScaling::Llama3 {
        factor: required(parameters, "factor", report),
        low_freq_factor,
        high_freq_factor,
        original_max_position: length.unwrap_or(context.max_position_embeddings),
    }
}

/// A number that the rope type requires.
fn required(parameters: Object<'_>, key: &str, report: &mut Report) -> f64 {
    if parameters.get(key).is_none() {
        report.bad_input(parameters.missing(key, "expected a number above 0"));
    }
    // The value is never used after an error; this one causes no second report.
    let unused = if key == "high_freq_factor" { f64::INFINITY } else { f64::MIN_POSITIVE };
    parameters.positive(key, report).unwrap_or(unused)
}
