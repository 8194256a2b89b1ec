//! Formats in terms of compressed-tensors: the schemes of linear layers, and the configuration that assigns them.

use serde_json::{Value, json};

/// How a linear layer is stored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Scheme {
    pub bits: u32,
    pub float: bool,
    pub scales: Scales,
    pub inputs: Option<Inputs>,
}

/// Which weights share a scale.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Scales {
    Row,
    Group(u64),
    Block([u64; 2]),
}

/// How activations are quantized, to the type of the weights.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Inputs {
    Token,
    Group(u64),
    Static,
}

impl Scheme {
    /// The `format` of such linear layers.
    pub fn format(&self) -> &'static str {
        match (self.float, self.inputs) {
            (false, None) => "pack-quantized",
            (false, Some(_)) => "int-quantized",
            (true, None) => "naive-quantized",
            (true, Some(_)) => "float-quantized",
        }
    }

    /// Whether values are packed into words.
    pub fn packed(&self) -> bool {
        self.format() == "pack-quantized"
    }

    fn config(&self, targets: Vec<&str>) -> Value {
        let kind = if self.float { "float" } else { "int" };
        let mut weights =
            json!({ "num_bits": self.bits, "type": kind, "symmetric": true, "dynamic": false, "observer": "minmax" });
        match self.scales {
            Scales::Row => weights["strategy"] = "channel".into(),
            Scales::Group(size) => {
                weights["strategy"] = "group".into();
                weights["group_size"] = size.into();
            }
            Scales::Block(block) => {
                weights["strategy"] = "block".into();
                weights["block_structure"] = block.to_vec().into();
            }
        }
        let codes = json!({ "num_bits": 8, "type": kind, "symmetric": true });
        let inputs = self.inputs.map(|inputs| {
            let mut codes = codes;
            let (strategy, dynamic) = match inputs {
                Inputs::Token => ("token", true),
                Inputs::Group(_) => ("group", true),
                Inputs::Static => ("tensor", false),
            };
            codes["strategy"] = strategy.into();
            codes["dynamic"] = dynamic.into();
            if let Inputs::Group(size) = inputs {
                codes["group_size"] = size.into();
            }
            codes
        });
        json!({
            "targets": targets,
            "weights": weights,
            "input_activations": inputs,
            "output_activations": null,
            "format": self.format(),
        })
    }
}

/// The schemes of all linear layers; those without one are unquantized.
#[derive(Debug, Default)]
pub(super) struct Schemes {
    modules: Vec<(String, Option<Scheme>)>,
}

impl Schemes {
    pub fn add(&mut self, module: &str, scheme: Option<Scheme>) {
        self.modules.push((module.to_owned(), scheme));
    }

    pub fn quantized(&self) -> usize {
        self.modules.iter().filter(|(_, scheme)| scheme.is_some()).count()
    }

    pub fn kept(&self) -> usize {
        self.modules.len() - self.quantized()
    }

    /// Schemes in order of first use.
    fn distinct(&self) -> Vec<Scheme> {
        let mut distinct: Vec<Scheme> = Vec::new();
        for scheme in self.modules.iter().filter_map(|(_, scheme)| *scheme) {
            if !distinct.contains(&scheme) {
                distinct.push(scheme);
            }
        }
        distinct
    }

    /// The `format` of the checkpoint.
    pub fn format(&self) -> &'static str {
        let distinct = self.distinct();
        match distinct.split_first() {
            Some((first, others)) if others.iter().all(|other| other.format() == first.format()) => first.format(),
            _ => "mixed-precision",
        }
    }

    /// `quantization_config`: a single scheme targets all linear layers except those that it ignores.
    pub fn config(&self) -> Value {
        let distinct = self.distinct();
        let of = |wanted: Option<Scheme>| {
            let modules = self.modules.iter().filter(move |(_, scheme)| *scheme == wanted);
            modules.map(|(module, _)| module.as_str()).collect::<Vec<&str>>()
        };
        let groups = distinct.iter().enumerate().map(|(index, scheme)| {
            let targets = if distinct.len() == 1 { vec!["Linear"] } else { of(Some(*scheme)) };
            (format!("group_{index}"), scheme.config(targets))
        });
        json!({
            "quant_method": "compressed-tensors",
            "format": self.format(),
            "quantization_status": "compressed",
            "config_groups": groups.collect::<serde_json::Map<String, Value>>(),
            "ignore": of(None),
            "kv_cache_scheme": null,
            "global_compression_ratio": null,
        })
    }
}
