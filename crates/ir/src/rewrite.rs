//! Rewriting: a rule looks at an op and returns a patch, or nothing; the driver applies patches until there are none.

use std::collections::{HashSet, VecDeque};

use crate::graph::infer;
use crate::ops::Constant;
use crate::{Graph, Op, OpDef, OpId, TensorType, Type, Value};

/// A rewrite rule. `apply` is called for every op; the patch replaces results of that op or of others.
#[derive(Clone, Copy)]
pub struct Rule<'a> {
    /// The name in messages and traces.
    pub name: &'a str,
    /// Returns the patch, or `None` if the rule does not apply.
    pub apply: &'a dyn Fn(&Graph, OpId) -> Option<Patch>,
}

/// A value in a patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchValue {
    /// A value of the graph.
    Old(Value),
    /// A result of an op of the patch.
    New {
        /// Index of the op in the patch.
        op: usize,
        /// Index of the result.
        result: u32,
    },
}

impl From<Value> for PatchValue {
    fn from(value: Value) -> PatchValue {
        PatchValue::Old(value)
    }
}

impl PatchValue {
    /// Another result of the same new op.
    pub fn result(self, result: u32) -> PatchValue {
        match self {
            PatchValue::Old(value) => PatchValue::Old(Value { result, ..value }),
            PatchValue::New { op, .. } => PatchValue::New { op, result },
        }
    }
}

struct NewOp {
    op: Op,
    operands: Vec<PatchValue>,
    types: Vec<Type>,
    name: Option<String>,
}

/// Ops to insert in place of one op, and the values that they replace. Built by rules, applied by the driver.
#[derive(Default)]
pub struct Patch {
    ops: Vec<NewOp>,
    replacements: Vec<(Value, PatchValue)>,
    error: Option<String>,
}

impl Patch {
    /// An empty patch.
    pub fn new() -> Patch {
        Patch::default()
    }

    /// A patch that replaces one value by another one of the graph.
    pub fn forward(old: Value, new: Value) -> Patch {
        let mut patch = Patch::new();
        patch.replace(old, new);
        patch
    }

    /// The type of a patch value; `None` for an effect.
    pub fn tensor<'a>(&'a self, graph: &'a Graph, value: PatchValue) -> Option<&'a TensorType> {
        match value {
            PatchValue::Old(value) => graph.tensor(value),
            PatchValue::New { op, result } => self.ops.get(op)?.types.get(result as usize)?.tensor().ok(),
        }
    }

    /// Adds an op and returns its first result. An ill-typed op is a bug of the rule, reported when it is applied.
    pub fn add(&mut self, graph: &Graph, op: impl OpDef, operands: &[PatchValue]) -> PatchValue {
        self.add_op(graph, Op::new(op), operands)
    }

    /// Adds an op that is already wrapped.
    pub fn add_op(&mut self, graph: &Graph, op: Op, operands: &[PatchValue]) -> PatchValue {
        let types: Option<Vec<&Type>> = operands
            .iter()
            .map(|value| match *value {
                PatchValue::Old(value) => Some(graph.ty(value)),
                PatchValue::New { op, result } => self.ops[op].types.get(result as usize),
            })
            .collect();
        let types = match types {
            Some(types) => infer(&op, &types).map_err(|error| error.to_string()),
            None => Err(format!("`{}`: an operand is a result that its op does not have", op.mnemonic())),
        };
        let types = types.unwrap_or_else(|error| {
            self.error.get_or_insert(error);
            Vec::new()
        });
        let name = op.cast::<Constant>().map(|constant| constant.key.clone());
        self.ops.push(NewOp { op, operands: operands.to_vec(), types, name });
        PatchValue::New { op: self.ops.len() - 1, result: 0 }
    }

    /// Names the first result of the newest op; without a name it takes that of the value it replaces, or is named
    /// after the op.
    pub fn name(&mut self, name: impl Into<String>) {
        if let Some(op) = self.ops.last_mut() {
            op.name = Some(name.into());
        }
    }

    /// Replaces uses of `old` by `new`.
    pub fn replace(&mut self, old: Value, new: impl Into<PatchValue>) {
        self.replacements.push((old, new.into()));
    }
}

/// Why rewriting stopped: both are bugs of a rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RewriteError {
    /// The rule built an ill-typed op or changed the type of a value.
    #[error("rule `{rule}` built a bad patch at `%{value}`: {reason}")]
    BadPatch {
        /// The rule.
        rule: String,
        /// Where it applied.
        value: String,
        /// What is wrong.
        reason: String,
    },
    /// The rules undo each other.
    #[error("rule `{rule}` still applies after {patches} patches: the rules do not terminate")]
    NoFixpoint {
        /// The rule that would have applied next.
        rule: String,
        /// Number of patches so far.
        patches: usize,
    },
}

/// Applies rules to all ops, and again to what they changed, until none applies. Returns the number of patches.
pub fn rewrite(graph: &mut Graph, rules: &[Rule<'_>]) -> Result<usize, RewriteError> {
    let limit = 16 * graph.len() + 64;
    let mut queue: VecDeque<OpId> = graph.ops().collect();
    let mut queued: HashSet<OpId> = queue.iter().copied().collect();
    let mut patches = 0;
    while let Some(id) = queue.pop_front() {
        queued.remove(&id);
        if !graph.contains(id) {
            continue;
        }
        let Some((rule, patch)) = rules.iter().find_map(|rule| Some((rule, (rule.apply)(graph, id)?))) else {
            continue;
        };
        if patches == limit {
            graph.settle();
            return Err(RewriteError::NoFixpoint { rule: rule.name.to_owned(), patches });
        }
        let value = graph.value_name(graph.result(id)).to_owned();
        let applied = apply(graph, id, patch).map_err(|reason| {
            graph.settle();
            RewriteError::BadPatch { rule: rule.name.to_owned(), value, reason }
        })?;
        patches += 1;
        for id in applied.new.into_iter().chain(applied.around) {
            if graph.contains(id) && queued.insert(id) {
                queue.push_back(id);
            }
        }
    }
    if patches > 0 {
        graph.settle();
    }
    Ok(patches)
}

impl Graph {
    /// Applies one patch in place of `root`, outside of `rewrite`; errors name its author as `name`.
    pub fn apply(&mut self, name: &str, root: OpId, patch: Patch) -> Result<(), RewriteError> {
        let value = self.value_name(self.result(root)).to_owned();
        // Without new ops, users only move to earlier values: the order stays valid.
        let disorders = !patch.ops.is_empty();
        let applied = apply(self, root, patch);
        if disorders {
            self.settle();
        }
        applied.map(drop).map_err(|reason| RewriteError::BadPatch { rule: name.to_owned(), value, reason })
    }
}

/// Expands ops that `takes` rejects, if they are [composite](OpDef::expand), and again their parts. Rejected ops that
/// are not composite stay. Returns the number of expanded ops.
pub fn expand(graph: &mut Graph, takes: &mut dyn FnMut(&Graph, OpId) -> bool) -> Result<usize, RewriteError> {
    let mut queue: VecDeque<OpId> = graph.ops().collect();
    let mut expanded = 0;
    while let Some(id) = queue.pop_front() {
        if !graph.contains(id) || takes(graph, id) {
            continue;
        }
        let Some(patch) = graph.op(id).expand(graph, id) else { continue };
        let value = graph.value_name(graph.result(id)).to_owned();
        let rule = graph.op(id).mnemonic().to_owned();
        let applied = apply(graph, id, patch).map_err(|reason| RewriteError::BadPatch { rule, value, reason })?;
        expanded += 1;
        queue.extend(applied.new);
    }
    if expanded > 0 {
        graph.settle();
    }
    Ok(expanded)
}

/// Ops that rules may match after a patch; neighbours may be removed.
struct Applied {
    /// The patch's own.
    new: Vec<OpId>,
    /// Users and producers of the values that it replaced.
    around: Vec<OpId>,
}

/// Applies one patch in place of `root`.
fn apply(graph: &mut Graph, root: OpId, patch: Patch) -> Result<Applied, String> {
    if let Some(error) = patch.error {
        return Err(error);
    }
    for (old, new) in &patch.replacements {
        let new_type = match *new {
            PatchValue::Old(value) => graph.ty(value),
            PatchValue::New { op, result } => {
                patch.ops[op].types.get(result as usize).ok_or("a replacement has no such result")?
            }
        };
        if graph.ty(*old) != new_type {
            let (name, old_type) = (graph.value_name(*old), graph.ty(*old));
            return Err(format!("the type of `%{name}` would change from {old_type} to {new_type}"));
        }
    }
    let mut ids: Vec<OpId> = Vec::new();
    let base = graph.value_name(graph.result(root)).to_owned();
    let resolve = |ids: &[OpId], value: PatchValue| match value {
        PatchValue::Old(value) => value,
        PatchValue::New { op, result } => Value { op: ids[op], result },
    };
    for NewOp { op, operands, types, name } in patch.ops {
        let operands: Vec<Value> = operands.iter().map(|value| resolve(&ids, *value)).collect();
        let name = name.unwrap_or_else(|| format!("{base}.{}", op.mnemonic()));
        let rank = graph.rank_beside(root);
        ids.push(graph.insert(op, &operands, types, &[&name], rank));
    }
    // Producers that gain a user may match now, too.
    let mut around: Vec<OpId> = ids.iter().flat_map(|id| graph.operands(*id)).map(|operand| operand.op).collect();
    for (old, new) in &patch.replacements {
        let value = resolve(&ids, *new);
        graph.redirect(*old, value);
        if matches!(new, PatchValue::New { .. }) {
            graph.take_name(*old, value);
        }
        around.extend(graph.uses(value).into_iter().map(|user| user.op));
    }
    for (old, _) in &patch.replacements {
        if graph.contains(old.op) {
            // Producers that lose a user may match now, too.
            around.extend(graph.operands(old.op).into_iter().map(|operand| operand.op));
            graph.remove_unused(old.op);
        }
    }
    around.push(root);
    Ok(Applied { new: ids, around })
}
