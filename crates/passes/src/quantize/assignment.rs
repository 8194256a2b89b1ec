//! Which linear layer has which format: the table that people edit, and the passes that follow from it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::sync::Arc;

use ir::ops::{Cast, Constant, Linear};
use ir::{Graph, Value};

use super::{ActivationScales, Format, Layers};
use crate::Pass;

/// A linear layer of an imported graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinearInfo {
    /// The name of its result, by which tables refer to it.
    pub name: String,
    /// The name of its module in the checkpoint, by which tables may also refer to it; `None` if the weight was
    /// computed.
    pub module: Option<String>,
    /// The name of its input: channel scaling applies to all linear layers with the same input.
    pub input: String,
    /// Rows of the weight.
    pub outputs: u64,
    /// Columns of the weight.
    pub inputs: u64,
    /// Whether its result is a graph output: of a language model, whether it is lm_head.
    pub head: bool,
}

/// The linear layers of a graph with constant weights, in order.
pub fn linears(graph: &Graph) -> Vec<LinearInfo> {
    let ids = graph.ops().filter(|id| graph.cast::<Linear>(*id).is_some());
    let info = |id| {
        let [x, weight, ..] = graph.operands(id)[..] else { return None };
        let shape = graph.tensor(weight).filter(|_| graph.is_constant(weight))?.const_shape()?;
        let result = graph.result(id);
        let head = graph.outputs().iter().any(|output| output.value == result);
        Some(LinearInfo {
            name: graph.value_name(result).to_owned(),
            // the weight of a tied lm_head is that of another module
            module: if head { Some(HEAD.to_owned()) } else { module(graph, weight) },
            input: graph.value_name(x).to_owned(),
            outputs: *shape.first()?,
            inputs: *shape.get(1)?,
            head,
        })
    };
    ids.filter_map(info).collect()
}

/// The module of lm_head.
const HEAD: &str = "lm_head";
/// Suffix of a weight after its module's name.
const WEIGHT: &str = ".weight";

/// Modules that other programs merge: their last component, and those of the parts.
const MERGED: [(&str, &[&str]); 2] =
    [("qkv_proj", &["q_proj", "k_proj", "v_proj"]), ("gate_up_proj", &["gate_proj", "up_proj"])];

/// The module of a weight, by the key of its constant.
fn module(graph: &Graph, weight: Value) -> Option<String> {
    let cast = graph.producer::<Cast>(weight).and_then(|(cast, _)| graph.operands(cast).first().copied());
    let (_, constant) = graph.producer::<Constant>(cast.unwrap_or(weight))?;
    Some(constant.key.trim_end_matches(WEIGHT).to_owned())
}

impl LinearInfo {
    /// Whether a pattern names the linear layer, its module, the module's weight, or a merged module that contains it.
    fn is_named(&self, pattern: &str) -> bool {
        let module = pattern.strip_suffix(WEIGHT).unwrap_or(pattern);
        let merged = MERGED.iter().find_map(|(one, parts)| Some((module.strip_suffix(one)?, parts)));
        let parts = merged.map(|(parent, parts)| parts.iter().map(move |part| format!("{parent}{part}")));
        let mut patterns = parts.into_iter().flatten().chain([module.to_owned()]);
        matches(pattern, &self.name)
            || self.module.as_ref().is_some_and(|own| patterns.any(|pattern| matches(&pattern, own)))
    }

    /// Both names.
    fn names(&self) -> impl Iterator<Item = &str> {
        [Some(&self.name), self.module.as_ref()].into_iter().flatten().map(String::as_str)
    }
}

/// The format of each linear layer; those that are not listed are unquantized.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assignment {
    /// Formats by the name of the linear layer.
    pub formats: BTreeMap<String, Format>,
    /// The reason for a linear layer's format, if known.
    pub reasons: BTreeMap<String, String>,
    /// Comments on the whole table.
    pub notes: Vec<String>,
}

/// The word for unquantized in a table.
const UNCHANGED: &str = "none";

impl Assignment {
    /// One format for all linear layers except lm_head, and optionally one for lm_head.
    pub fn uniform(linears: &[LinearInfo], inner: Option<Format>, head: Option<Format>) -> Assignment {
        let format = |linear: &LinearInfo| if linear.head { head } else { inner };
        let formats = linears.iter().filter_map(|linear| Some((linear.name.clone(), format(linear)?)));
        Assignment { formats: formats.collect(), ..Assignment::default() }
    }

    /// Applies the lines of a table: `layers.*.mlp.down fp8`, with `*` for any part of a name, `none` for unquantized,
    /// and the reason after `#`. Names may be those of the checkpoint's modules. Later lines override earlier ones. The
    /// error names the line.
    pub fn edit(&mut self, table: &str, linears: &[LinearInfo]) -> Result<(), String> {
        for (number, line) in (1..).zip(table.trim_start_matches('\u{feff}').lines()) {
            let (text, comment) = line.split_once('#').unwrap_or((line, ""));
            let comment = comment.trim();
            let words: Vec<&str> = text.split_whitespace().collect();
            let (pattern, format) = match words[..] {
                [] => {
                    self.notes.extend(Some(comment.to_owned()).filter(|note| !note.is_empty()));
                    continue;
                }
                [pattern, UNCHANGED] => (pattern, None),
                [pattern, format] => {
                    (pattern, Some(format.parse().map_err(|error| format!("line {number}: {error}, or {UNCHANGED}"))?))
                }
                _ => return Err(format!("line {number}: expected a name and a format, found `{}`", text.trim())),
            };
            let named: Vec<&LinearInfo> = linears.iter().filter(|linear| linear.is_named(pattern)).collect();
            if named.is_empty() {
                return Err(format!("line {number}: {}", unknown(pattern, linears)));
            }
            for linear in named {
                match format {
                    Some(format) => self.formats.insert(linear.name.clone(), format),
                    None => self.formats.remove(&linear.name),
                };
                match comment {
                    "" => self.reasons.remove(&linear.name),
                    reason => self.reasons.insert(linear.name.clone(), reason.to_owned()),
                };
            }
        }
        Ok(())
    }

    /// The table that [`Assignment::edit`] reads, one line per linear layer.
    pub fn table(&self, linears: &[LinearInfo]) -> String {
        let width = linears.iter().map(|linear| linear.name.len()).max().unwrap_or(0);
        let mut table: String = self.notes.iter().map(|note| format!("# {note}\n")).collect();
        for linear in linears {
            let format = self.formats.get(&linear.name).map_or(UNCHANGED, |format| format.name());
            let _ = match self.reasons.get(&linear.name) {
                Some(reason) => writeln!(table, "{:<width$}  {format:<16} # {reason}", linear.name),
                None => writeln!(table, "{:<width$}  {format}", linear.name),
            };
        }
        table
    }

    /// The passes that apply the formats, with this source of activation scales for formats that allow a choice.
    pub fn passes(&self, activations: ActivationScales) -> Vec<Arc<dyn Pass>> {
        let mut by_format: BTreeMap<Format, BTreeSet<String>> = BTreeMap::new();
        for (name, format) in &self.formats {
            by_format.entry(*format).or_default().insert(name.clone());
        }
        let passes = by_format.into_iter().map(|(format, names)| format.pass(Layers::Named(names), activations));
        let mut passes: Vec<Arc<dyn Pass>> = passes.collect();
        // first: they fold factors into linear layers that are not quantized yet
        passes.sort_by_key(|pass| !pass.needs_calibration());
        passes
    }
}

/// The error for a pattern that matches no linear layer.
fn unknown(pattern: &str, linears: &[LinearInfo]) -> String {
    let both = |linear: &LinearInfo| match &linear.module {
        Some(module) => format!("`{}` (`{module}`)", linear.name),
        None => format!("`{}`", linear.name),
    };
    let names = linears.iter().flat_map(LinearInfo::names);
    let near = ir::text::nearest(pattern.strip_suffix(WEIGHT).unwrap_or(pattern), names);
    let hint = match near.and_then(|near| linears.iter().find(|linear| linear.names().any(|name| name == near))) {
        Some(near) => format!("did you mean {}?", both(near)),
        None => {
            let some: Vec<String> = linears.iter().take(1).chain(linears.last()).map(both).collect();
            format!("its linear layers have names such as {}", some.join(" and "))
        }
    };
    format!("the model has no linear layer `{pattern}`, {hint}")
}

/// Whether a name matches a pattern, in which each star matches any characters.
fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|start| name.strip_prefix(start)) else { return false };
    let Some(end) = parts.next_back() else { return rest.is_empty() };
    let Some(middle) = rest.strip_suffix(end) else { return false };
    rest = middle;
    // the first match of each part leaves the most for later parts
    parts.all(|part| match rest.find(part) {
        Some(at) => {
            rest = &rest[at + part.len()..];
            true
        }
        None => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_stand_for_any_characters() {
        let yes = [("a.*.b", "a.0.b"), ("*", ""), ("*", "a"), ("a*a", "aa"), ("*b*", "abc"), ("a*b*c", "a.b.b.c")];
        let no = [("a*a", "a"), ("a.*.b", "a.b"), ("*b", "abc"), ("a*b*c", "acb"), ("", "a"), ("a", "ab")];
        assert!(yes.iter().all(|(pattern, name)| matches(pattern, name)));
        assert!(!no.iter().any(|(pattern, name)| matches(pattern, name)));
        assert!(matches(&"*".repeat(100_000), "a") && !matches(&format!("{}b", "*a".repeat(50_000)), "a"));
    }

    fn linears() -> Vec<LinearInfo> {
        let linear = |name: &str, module: &str, head| {
            let (name, module, input) = (name.to_owned(), Some(module.to_owned()), "x".to_owned());
            LinearInfo { name, module, input, outputs: 8, inputs: 8, head }
        };
        vec![
            linear("layers.0.attn.q", "model.layers.0.self_attn.q_proj", false),
            linear("layers.0.attn.k", "model.layers.0.self_attn.k_proj", false),
            linear("layers.0.mlp.down", "model.layers.0.mlp.down_proj", false),
            linear("logits", "lm_head", true),
        ]
    }

    #[test]
    fn tables_come_back() {
        let mut assignment = Assignment::uniform(&linears(), Some(Format::Int8Weight), None);
        assignment
            .edit("# by hand\nlayers.*.down fp8 # it matters\n\nlogits fp8-block\nlayers.0.attn.* none", &linears())
            .unwrap();
        let table = assignment.table(&linears());
        let down = "layers.0.mlp.down  fp8              # it matters";
        let attention = "layers.0.attn.q    none\nlayers.0.attn.k    none";
        assert_eq!(table, format!("# by hand\n{attention}\n{down}\nlogits             fp8-block\n"));
        let mut read = Assignment::default();
        read.edit(&table, &linears()).unwrap();
        assert_eq!(read, assignment);
    }

    #[test]
    fn modules_of_the_checkpoint_are_names_too() {
        let named = |pattern: &str| {
            let mut assignment = Assignment::default();
            assignment.edit(&format!("{pattern} fp8"), &linears()).unwrap();
            assignment.formats.into_keys().collect::<Vec<_>>().join(" ")
        };
        assert_eq!(named("model.layers.0.mlp.down_proj"), "layers.0.mlp.down");
        assert_eq!(named("model.layers.0.mlp.down_proj.weight"), "layers.0.mlp.down");
        assert_eq!(named("model.layers.*.q_proj"), "layers.0.attn.q");
        assert_eq!(named("model.layers.0.self_attn.qkv_proj"), "layers.0.attn.k layers.0.attn.q");
        assert_eq!(named("*.qkv_proj.weight"), "layers.0.attn.k layers.0.attn.q");
        assert_eq!(named("lm_head"), "logits");
    }

    #[test]
    fn what_is_wrong_with_a_table_is_said() {
        let error = |table: &str| Assignment::default().edit(table, &linears()).unwrap_err();
        assert_eq!(
            error("\nlayers.0.attn.qk fp8"),
            "line 2: the model has no linear layer `layers.0.attn.qk`, did you mean `layers.0.attn.q` \
             (`model.layers.0.self_attn.q_proj`)?"
        );
        assert!(
            error("model.layers.0.mlp.dawn_proj.weight fp8")
                .ends_with("`layers.0.mlp.down` (`model.layers.0.mlp.down_proj`)?")
        );
        assert!(
            error("experts fp8")
                .ends_with("such as `layers.0.attn.q` (`model.layers.0.self_attn.q_proj`) and `logits` (`lm_head`)")
        );
        assert!(
            error("logits fp9")
                .starts_with("line 1: unknown format `fp9` (did you mean `fp8`?), expected one of int8-weight")
        );
        assert_eq!(error("logits"), "line 1: expected a name and a format, found `logits`");
    }
}
