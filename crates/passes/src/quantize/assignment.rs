//! Which linear has which format: the table that people edit, and the passes that follow from it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::sync::Arc;

use ir::Graph;
use ir::ops::Linear;

use super::{
    ActivationScales, Format, Layers, QuantizeFp8, QuantizeFp8Block, QuantizeInt4, QuantizeInt4Awq, QuantizeInt4Gptq,
    QuantizeInt8Smoothquant, QuantizeInt8Weight,
};
use crate::Pass;

/// A linear of an imported graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinearInfo {
    /// The name of its result, by which tables know it.
    pub name: String,
    /// The name of its activations: linears over the same are one matter for what changes those.
    pub input: String,
    /// Rows of the weight.
    pub outputs: u64,
    /// Columns of the weight.
    pub inputs: u64,
    /// Whether its result leaves the graph: of a language model, whether it is the head.
    pub head: bool,
}

/// The linears of a graph over constant weights, in order.
pub fn linears(graph: &Graph) -> Vec<LinearInfo> {
    let ids = graph.ops().filter(|id| graph.cast::<Linear>(*id).is_some());
    let info = |id| {
        let [x, weight, ..] = graph.operands(id)[..] else { return None };
        let shape = graph.tensor(weight).filter(|_| graph.is_constant(weight))?.const_shape()?;
        let result = graph.result(id);
        Some(LinearInfo {
            name: graph.value_name(result).to_owned(),
            input: graph.value_name(x).to_owned(),
            outputs: *shape.first()?,
            inputs: *shape.get(1)?,
            head: graph.outputs().iter().any(|output| output.value == result),
        })
    };
    ids.filter_map(info).collect()
}

/// The format of each linear; those that are not named keep their numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assignment {
    /// Formats by the name of the linear.
    pub formats: BTreeMap<String, Format>,
    /// Why a linear has its format, where that is known.
    pub reasons: BTreeMap<String, String>,
    /// What is said of the whole.
    pub notes: Vec<String>,
}

/// What a table says of a linear that keeps its numbers.
const UNCHANGED: &str = "none";

impl Assignment {
    /// One format for all linears but the head, and perhaps one for that.
    pub fn uniform(linears: &[LinearInfo], inner: Option<Format>, head: Option<Format>) -> Assignment {
        let format = |linear: &LinearInfo| if linear.head { head } else { inner };
        let formats = linears.iter().filter_map(|linear| Some((linear.name.clone(), format(linear)?)));
        Assignment { formats: formats.collect(), ..Assignment::default() }
    }

    /// Changes what the lines of a table name: `layers.*.mlp.down fp8`, a star for any part of a name, `none` for a linear
    /// that keeps its numbers, and behind `#` the reason. Later lines win. The error says what is wrong with which line.
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
            let named: Vec<&LinearInfo> = linears.iter().filter(|linear| matches(pattern, &linear.name)).collect();
            if named.is_empty() {
                let near = ir::text::nearest(pattern, linears.iter().map(|linear| linear.name.as_str()));
                let near = near.map(|near| format!(", did you mean `{near}`?"));
                let names = || linears.iter().take(1).chain(linears.last()).map(|linear| format!("`{}`", linear.name));
                let some = || format!(", its linears have names such as {}", names().collect::<Vec<_>>().join(" and "));
                let near = near.unwrap_or_else(some);
                return Err(format!("line {number}: the model has no linear `{pattern}`{near}"));
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

    /// The table that [`Assignment::edit`] reads, a line for each linear.
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

    /// The passes that make it so, with the scales of activations from there where formats leave a choice.
    pub fn passes(&self, activations: ActivationScales) -> Vec<Arc<dyn Pass>> {
        let mut by_format: BTreeMap<Format, BTreeSet<String>> = BTreeMap::new();
        for (name, format) in &self.formats {
            by_format.entry(*format).or_default().insert(name.clone());
        }
        let passes = by_format.into_iter().map(|(format, names)| format.pass_over(Layers::Named(names), activations));
        let mut passes: Vec<Arc<dyn Pass>> = passes.collect();
        // first: they fold factors into linears that are not codes yet
        passes.sort_by_key(|pass| !pass.needs_calibration());
        passes
    }
}

impl Format {
    /// The pass that brings linears into the format.
    fn pass_over(self, layers: Layers, activations: ActivationScales) -> Arc<dyn Pass> {
        match self {
            Format::Int8Weight => Arc::new(QuantizeInt8Weight { layers }),
            Format::Int8Smoothquant => Arc::new(QuantizeInt8Smoothquant { layers, activations }),
            Format::Fp8 => Arc::new(QuantizeFp8 { layers, activations }),
            Format::Fp8Block => Arc::new(QuantizeFp8Block { layers }),
            Format::Int4 => Arc::new(QuantizeInt4 { layers }),
            Format::Int4Awq => Arc::new(QuantizeInt4Awq { layers }),
            Format::Int4Gptq => Arc::new(QuantizeInt4Gptq { layers }),
        }
    }

    /// Whether linears must know their activations to come into the format.
    pub fn needs_calibration(self, activations: ActivationScales) -> bool {
        self.pass_over(Layers::Inner, activations).needs_calibration()
    }
}

/// Whether a name is what a pattern says, in which each star stands for any characters.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((start, rest)) => name.strip_prefix(start).is_some_and(|name| {
            (0..=name.len()).filter(|at| name.is_char_boundary(*at)).any(|at| matches(rest, &name[at..]))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn linears() -> Vec<LinearInfo> {
        let linear =
            |name: &str, head| LinearInfo { name: name.to_owned(), input: "x".to_owned(), outputs: 8, inputs: 8, head };
        vec![linear("layers.0.attn.q", false), linear("layers.0.mlp.down", false), linear("logits", true)]
    }

    #[test]
    fn tables_come_back() {
        let mut assignment = Assignment::uniform(&linears(), Some(Format::Int8Weight), None);
        assignment
            .edit("# by hand\nlayers.*.down fp8 # it matters\n\nlogits fp8-block\nlayers.0.attn.q none", &linears())
            .unwrap();
        let table = assignment.table(&linears());
        let down = "layers.0.mlp.down  fp8              # it matters";
        assert_eq!(table, format!("# by hand\nlayers.0.attn.q    none\n{down}\nlogits             fp8-block\n"));
        let mut read = Assignment::default();
        read.edit(&table, &linears()).unwrap();
        assert_eq!(read, assignment);
    }

    #[test]
    fn what_is_wrong_with_a_table_is_said() {
        let error = |table: &str| Assignment::default().edit(table, &linears()).unwrap_err();
        assert_eq!(
            error("\nlayers.0.attn.k fp8"),
            "line 2: the model has no linear `layers.0.attn.k`, did you mean `layers.0.attn.q`?"
        );
        assert!(error("logits fp9").starts_with("line 1: unknown format `fp9`, expected one of int8-weight"));
        assert_eq!(error("logits"), "line 1: expected a name and a format, found `logits`");
    }
}
