//! What a checkpoint says of codes of keys and values: the scheme of its KV cache, and scales under all names in use.
//! They are used where the KV cache is one of codes, and what becomes of them is said.

use std::collections::BTreeMap;

use plan::DType;

use crate::ModelConfig;
use crate::model_tensors::layer_prefix;
use crate::report::{Report, listed};
use crate::tensors::Tensors;

/// What a plan keeps of keys and values, and what it knows of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvCache {
    /// Numbers: scales are of no use.
    Numbers,
    /// Codes by the scales of the checkpoint.
    Codes,
    /// Codes by the scales of a calibration.
    Calibrated,
}

/// The largest magnitudes that the keys and values of a layer reach by the scales of a checkpoint, for each head.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct KvReach {
    /// Of keys; nothing where the checkpoint has no scale.
    pub keys: Option<Vec<f32>>,
    /// Of values, likewise.
    pub values: Option<Vec<f32>>,
}

/// How a KV cache was quantized.
#[derive(Clone, Debug)]
pub(crate) struct CacheScheme {
    /// Where that is said, and the words: ``config.json: `kv_cache_scheme` is {}``.
    pub said: String,
    /// The codes; nothing where they are none that are known here.
    pub codes: Option<DType>,
}

/// Names of scales after that of an attention, and whether they are of keys and of values.
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
    // of queries and probabilities, which are no codes here
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
    /// Keys, or values, of a layer that have no scale.
    absent: usize,
}

impl KvScales {
    /// Takes the scales out of the tensors.
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
                // `output_scale` says nothing without the linear before it
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

    /// What becomes of the scheme and the scales, where that is not what they are for.
    pub fn warnings(&self, cache: KvCache) -> Vec<String> {
        const UNLESS: &str = "the KV cache keeps numbers, unless --kv-precision fp8 or int8 asks for codes";
        let mut warnings = Vec::new();
        let (path, found) = (&self.path, counted(&self.known));
        let ignored = match cache {
            KvCache::Numbers => Some(UNLESS),
            KvCache::Calibrated => Some("the KV cache has those of the calibration"),
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
                let rest = "which is ignored: expected codes of 8 bits";
                warnings.push(format!("{}, {rest}", scheme.said));
            }
            if self.absent > 0 {
                let absent = match self.layers.is_empty() {
                    true => "has no scales".to_owned(),
                    false => format!("lacks {} of the scales", self.absent),
                };
                warnings.push(format!(
                    "{path}: {absent} of keys and values: E4M3 cuts them off at 448; `smelt calibrate` finds scales, \
                     --calibration passes them on"
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

/// What a tensor says of each head: it has one scale, or one for each head or channel.
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
