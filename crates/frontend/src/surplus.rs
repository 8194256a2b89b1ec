//! Stored tensors that the model does not use: harmless kinds are ignored with a warning, and those that the user names
//! without one. All others are refused later.

use std::collections::BTreeSet;

use fancy_regex::Regex;

use crate::report::{Report, listed};
use crate::tensors::{Expected, IGNORE_OPTION, Tensors};

/// Tensor names to ignore, as patterns: `*` matches any characters, `?` matches one.
#[derive(Debug)]
pub(crate) struct Ignored(Vec<Pattern>);

#[derive(Debug)]
struct Pattern {
    glob: String,
    /// `None` if it is too long to be a pattern of names.
    names: Option<Regex>,
    used: bool,
}

impl Ignored {
    pub fn new(globs: &[String]) -> Ignored {
        let pattern = |glob: &String| {
            let names = fancy_regex::escape(glob).replace(r"\*", ".*").replace(r"\?", ".");
            Pattern { glob: glob.clone(), names: Regex::new(&format!("^(?s:{names})$")).ok(), used: false }
        };
        Ignored(globs.iter().map(pattern).collect())
    }

    /// Whether a stored tensor is to be ignored.
    pub fn matches(&mut self, name: &str) -> bool {
        let mut found = false;
        for pattern in &mut self.0 {
            if pattern.names.as_ref().is_some_and(|names| names.is_match(name).unwrap_or(false)) {
                pattern.used = true;
                found = true;
            }
        }
        found
    }
}

/// A kind of tensor that has no effect.
struct Kind {
    is: fn(&str, &Tensors) -> bool,
    reason: &'static str,
}

const KINDS: [Kind; 5] = [
    Kind { is: |name, tensors| tensors.shape(name).is_some_and(|shape| shape.contains(&0)), reason: "they are empty" },
    Kind { is: |name, _| is_rotary(name), reason: "tables of the rotary embedding are derived from config.json" },
    Kind { is: |name, _| is_buffer(name), reason: "positions and causal masks are the same in every model" },
    Kind {
        is: |name, _| is_training_head(name),
        reason: "they are left over from training, and generation does not use them",
    },
    Kind { is: |name, tensors| name.ends_with(".bias") && tensors.is_zero(name), reason: "zero biases have no effect" },
];

/// Cosines, sines and frequencies, at any level of the names.
fn is_rotary(name: &str) -> bool {
    let (module, last) = name.rsplit_once('.').unwrap_or(("", name));
    const TABLES: [&str; 10] = [
        "inv_freq",
        "original_inv_freq",
        "cos_cached",
        "sin_cached",
        "cos_cache",
        "sin_cache",
        "cos_sin_cache",
        "freqs_cis",
        "freqs_cos",
        "freqs_sin",
    ];
    // names that have other meanings elsewhere
    let in_module = ["cos", "sin", "freqs"].contains(&last);
    let module = module.rsplit('.').next().unwrap_or_default();
    TABLES.contains(&last) || (in_module && ["rotary_emb", "rotary_pos_emb", "rotary", "rope"].contains(&module))
}

fn is_buffer(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or(name);
    ["position_ids", "masked_bias", "causal_mask"].contains(&last)
}

/// Heads for values, rewards and classes, next to the model or inside it.
fn is_training_head(name: &str) -> bool {
    const HEADS: [&str; 12] = [
        "v_head",
        "value_head",
        "critic_head",
        "reward_head",
        "rm_head",
        "score",
        "score_head",
        "scores",
        "regression_head",
        "classifier",
        "classification_head",
        "qa_outputs",
    ];
    let inside = ["pretrained_model.", "base_model.", "model."].iter().find_map(|prefix| name.strip_prefix(prefix));
    let (module, _) = inside.unwrap_or(name).split_once('.').unwrap_or_default();
    HEADS.contains(&module)
}

/// Ignores what is stored besides the tensors of the model.
pub(crate) fn leave_out(tensors: &mut Tensors, model: &[Expected], ignored: &mut Ignored, report: &mut Report) {
    let path = tensors.path().display().to_string();
    let needed: BTreeSet<&str> = model.iter().map(|tensor| tensor.name.as_str()).collect();
    let (wanted, surplus): (Vec<&str>, Vec<&str>) = tensors.names().partition(|name| needed.contains(name));
    let wanted: Vec<&str> = wanted.into_iter().filter(|name| ignored.matches(name)).collect();
    if !wanted.is_empty() {
        report.option(format!("{IGNORE_OPTION}: {} cannot be ignored, the model needs them", listed(&wanted)));
    }
    let (mut left_out, surplus): (Vec<&str>, Vec<&str>) = surplus.into_iter().partition(|name| ignored.matches(name));
    for pattern in ignored.0.iter().filter(|pattern| !pattern.used) {
        let glob = pattern.glob.escape_debug();
        report.option(format!("{IGNORE_OPTION} `{glob}`: {path} has no tensor of such a name"));
    }
    let kind = |name: &str| KINDS.iter().position(|kind| (kind.is)(name, tensors));
    let surplus: Vec<(&str, usize)> = surplus.into_iter().filter_map(|name| Some((name, kind(name)?))).collect();
    for (index, kind) in KINDS.iter().enumerate() {
        let names: Vec<&str> = surplus.iter().filter(|(_, kind)| *kind == index).map(|(name, _)| *name).collect();
        if !names.is_empty() {
            let (names, count, reason) = (listed(&names), names.len(), kind.reason);
            report.warning(format!(
                "{path}: tensors that the model does not use are ignored, {count}: {names}; {reason}"
            ));
        }
    }
    left_out.extend(surplus.iter().map(|(name, _)| *name));
    let left_out: BTreeSet<String> = left_out.into_iter().map(str::to_owned).collect();
    tensors.forget(|name| left_out.contains(name));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_known_by_their_names() {
        for name in [
            "rotary_emb.cos_cached",
            "model.layers.0.self_attn.rotary_emb.inv_freq",
            "model.rotary_emb.original_inv_freq",
            "model.layers.3.self_attn.rotary_emb.sin_cached",
            "freqs_cis",
            "rope.freqs",
        ] {
            assert!(is_rotary(name), "{name}");
        }
        for name in ["model.layers.0.self_attn.rotary_emb.scale", "model.cos", "model.freqs", "lm_head.weight"] {
            assert!(!is_rotary(name), "{name}");
        }
        for name in
            ["v_head.summary.weight", "v_head.0.bias", "value_head.weight", "score.weight", "model.score.weight"]
        {
            assert!(is_training_head(name), "{name}");
        }
        for name in ["score", "model.layers.0.score.weight", "lm_head.weight", "medusa_head.0.weight"] {
            assert!(!is_training_head(name), "{name}");
        }
    }

    #[test]
    fn stars_stand_for_anything() {
        let matches = |glob: &str, name: &str| Ignored::new(&[glob.to_owned()]).matches(name);
        assert!(matches("mtp.*", "mtp.layers.0.weight") && matches("*.extra", "a.b.extra") && matches("a?c", "abc"));
        assert!(!matches("mtp.*", "mtpx") && !matches("a.c", "abc") && !matches("mtp", "mtp.a") && !matches("", "a"));
        assert!(matches("a[0]+", "a[0]+") && matches("*", "a\nb"));
    }
}
