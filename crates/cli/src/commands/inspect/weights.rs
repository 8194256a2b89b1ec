//! The weights of a plan by kind: those of all layers in one line.

use std::collections::BTreeMap;

use smelt::Plan;
use smelt::plans::{Layout, Weight};

use super::view::without_layer;

/// Weights that differ only in the layer.
pub struct Kind {
    /// `model.layers.*.mlp.weight : bf16[4096, 4096] tiled`.
    pub name: String,
    pub tensors: usize,
    pub bytes: u64,
}

/// All weights, the largest kind first.
pub fn kinds(plan: &Plan) -> Vec<Kind> {
    let mut kinds: BTreeMap<String, (usize, u64)> = BTreeMap::new();
    for weight in &plan.weights {
        let kind = kinds.entry(named(weight, &without_layer(&weight.name))).or_default();
        *kind = (kind.0 + 1, kind.1.saturating_add(weight.bytes().unwrap_or(0)));
    }
    let mut kinds: Vec<Kind> =
        kinds.into_iter().map(|(name, (tensors, bytes))| Kind { name, tensors, bytes }).collect();
    kinds.sort_by_key(|kind| std::cmp::Reverse(kind.bytes));
    kinds
}

/// A weight with its type and layout.
pub fn typed(weight: &Weight) -> String {
    named(weight, &weight.name)
}

fn named(weight: &Weight, name: &str) -> String {
    let shape: Vec<String> = weight.shape.iter().map(ToString::to_string).collect();
    let layout = if weight.layout == Layout::RowMajor { "" } else { weight.layout.name() };
    format!("{name} : {}[{}] {layout}", weight.dtype, shape.join(", ")).trim_end().to_owned()
}
