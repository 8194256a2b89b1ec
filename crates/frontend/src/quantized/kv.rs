//! The checkpoint's quantization of the KV cache: its scheme, and scales under all names in use. They are used if the
//! KV cache is quantized; if not, warnings say so.

use std::collections::BTreeMap;

use plan::DType;

use crate::ModelConfig;
use crate::model_tensors::layer_prefix;
use crate::report::{Report, listed};
use crate::tensors::Tensors;

/// How the plan stores keys and values, and the source of scales.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvCache {
    /// Unquantized: scales are not used.
    Numbers,
    /// Quantized with the scales of the checkpoint.
    Codes,
    /// Quantized with the scales of a calibration.
    Calibrated,
}

/// The largest magnitudes of a layer's keys and values by the checkpoint's scales, per head.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct KvReach {
    /// Of keys; `None` if the checkpoint has no scale.
    pub keys: Option<Vec<f32>>,
    /// Of values, likewise.
    pub values: Option<Vec<f32>>,
}

/// The quantization of a KV cache.
#[derive(Clone, Debug)]
pub(crate) struct CacheScheme {
    /// Where that is said, and the words: ``config.json: `kv_cache_scheme` is {}``.
    pub said: String,
    /// The quantized format; `None` if it is not supported.
    pub codes: Option<DType>,
}

/// Suffixes of scales after the name of an attention module, and whether they are of keys and of values.
const NAMES: [(&str, [bool; 2]); 14] = [
    ("k_scale", [true, false]),
    ("v_scale", [false, true]),
    ("kv_scale", [true, true]),
    ("k_proj.k_scale", [true, false]),
    ("v_proj.v_scale", [false, true]),
    ("k_proj.output_scale", [true, false]),
    ("v_proj.output_scale", [false, true]),
    ("attn.k_scale", [true, false]),
    ("attn.v_scale", [false, true]),
    // of queries and probabilities, which are not quantized here
    ("q_scale", [false, false]),
    ("q_proj.q_scale", [false, false]),
    ("q_proj.output_scale", [false, false]),
    ("prob_scale", [false, false]),
    ("attn.prob_scale", [false, false]),
];

/// Scales of keys and values.
#[derive(Debug, Default)]
pub(crate) struct KvScales {
    /// The file that names the tensors.
    path: String,
    scheme: Option<CacheScheme>,
    /// How many tensors have each name, those of keys and values, and others.
    known: BTreeMap<&'static str, usize>,
    others: BTreeMap<&'static str, usize>,
    layers: BTreeMap<u32, KvReach>,
    /// Layers whose keys, or values, have no scale.
    absent: usize,
}

impl KvScales {
    /// Removes the scales from the tensors.
    pub fn take(
        tensors: &mut Tensors,
        scheme: Option<CacheScheme>,
        config: &ModelConfig,
        report: &mut Report,
    ) -> KvScales {
        let mut scales = KvScales { path: tensors.path().display().to_string(), scheme, ..KvScales::default() };
        let codes = scales.scheme.as_ref().map_or(Some(DType::F8E4M3), |scheme| scheme.codes);
        let mut taken = Vec::new();
        for layer in 0..config.layers {
            let mut reach = [None, None];
            for (end, of) in NAMES {
                let name = format!("{}.self_attn.{end}", layer_prefix(layer));
                if tensors.shape(&name).is_none() {
                    continue;
                }
                let counts = if of == [false, false] { &mut scales.others } else { &mut scales.known };
                // `output_scale` is ambiguous without the linear layer before it
                let last = end.rsplit('.').next().filter(|last| *last != "output_scale");
                *counts.entry(last.unwrap_or(end)).or_default() += 1;
                if let Some(largest) = codes.filter(|_| of != [false, false]).and_then(DType::largest_code) {
                    let read = read(tensors, &name, largest, config, report);
                    let places = reach.iter_mut().zip(of).filter(|(place, of)| *of && place.is_none());
                    places.for_each(|(place, _)| place.clone_from(&read));
                }
                taken.push(name);
            }
            scales.absent += reach.iter().filter(|reach| reach.is_none()).count();
            let [keys, values] = reach;
            if keys.is_some() || values.is_some() {
                scales.layers.insert(layer, KvReach { keys, values });
            }
        }
        tensors.forget(|name| taken.iter().any(|taken| taken == name));
        scales
    }

    /// By layer.
    pub fn layers(&self) -> &BTreeMap<u32, KvReach> {
        &self.layers
    }

    /// Warnings about the scheme and the scales, if they are not used as intended.
    pub fn warnings(&self, cache: KvCache) -> Vec<String> {
        const UNLESS: &str = "the KV cache is unquantized without --kv-precision fp8 or int8";
        let mut warnings = Vec::new();
        let (path, found) = (&self.path, counted(&self.known));
        let ignored = match cache {
            KvCache::Numbers => Some(UNLESS),
            KvCache::Calibrated => Some("the KV cache uses those of the calibration"),
            KvCache::Codes => None,
        };
        match (ignored, &self.scheme, self.known.is_empty()) {
            (Some(why), Some(scheme), false) => {
                warnings.push(format!("{}; it and its scales {found} are ignored: {why}", scheme.said));
            }
            (Some(why), None, false) => warnings.push(format!("{path}: {found} are ignored: {why}")),
            (Some(why), Some(scheme), true) => warnings.push(format!("{}, which is ignored: {why}", scheme.said)),
            (Some(_), None, true) | (None, ..) => {}
        }
        if cache == KvCache::Codes {
            let unknown = self.scheme.as_ref().filter(|scheme| scheme.codes.is_none());
            if let Some(scheme) = unknown {
                let rest = "which is ignored: expected an 8-bit format";
                warnings.push(format!("{}, {rest}", scheme.said));
            }
            if self.absent > 0 {
                let absent = match self.layers.is_empty() {
                    true => "has no scales".to_owned(),
                    false => format!("has no scales for {}", self.absent),
                };
                warnings.push(format!(
                    "{path}: {absent} of keys and values: E4M3 saturates at 448; `smelt calibrate` finds scales, \
                     --calibration FILE uses them"
                ));
            }
        }
        if !self.others.is_empty() {
            let found = counted(&self.others);
            warnings.push(format!("{path}: {found} are ignored: queries and probabilities are not quantized"));
        }
        warnings
    }
}

/// ``` `*.k_scale`, `*.v_scale` (4)```
fn counted(names: &BTreeMap<&'static str, usize>) -> String {
    let shown: Vec<String> = names.keys().map(|name| format!("*.{name}")).collect();
    let shown: Vec<&str> = shown.iter().map(String::as_str).collect();
    format!("{} ({})", listed(&shown), names.values().sum::<usize>())
}

/// The values of a tensor per head: it has one scale, or one per head or channel.
fn read(tensors: &Tensors, name: &str, largest: f32, config: &ModelConfig, report: &mut Report) -> Option<Vec<f32>> {
    let (heads, head_dim) = (config.kv_heads as usize, config.head_dim as usize);
    let path = tensors.path().display();
    let scales = tensors.dtype(name).filter(|dtype| dtype.is_float()).zip(tensors.bytes(name));
    let Some(scales) = scales.map(|(dtype, bytes)| dtype.decode(bytes)) else {
        report.warning(format!("{path}: `{name}` is ignored: expected scales of dtype F32, F16 or BF16"));
        return None;
    };
    if !scales.iter().all(|scale| scale.is_finite() && *scale > 0.0) {
        report.warning(format!("{path}: `{name}` is ignored: expected scales above 0"));
        return None;
    }
    let of_head = match scales.len() {
        1 => vec![scales[0]; heads],
        count if count == heads => scales,
        count if count == heads * head_dim => {
            scales.chunks(head_dim).map(|head| head.iter().copied().fold(0.0, f32::max)).collect()
        }
        count => {
            report.warning(format!("{path}: `{name}` is ignored: it has {count} scales, expected 1 or {heads}"));
            return None;
        }
    };
    Some(of_head.into_iter().map(|scale| scale * largest).collect())
}
