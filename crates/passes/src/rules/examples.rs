//! Type checks of a rule on small graphs that its pattern matches: replaced values must keep their types, and the rule
//! must terminate. Finds mistakes early; it proves nothing, since the graphs are few.

use std::collections::BTreeSet;
use std::slice::from_ref;

use ir::{AttrReader, AttrValue, DType, Dim, Graph, Op, OpId, RewriteError, Rule, TensorType, Type, Value, rewrite};

use super::attributes::{self, Kinds};
use super::{Condition, DTypePattern, PatternOp, ShapePattern, SizePattern, TextRule, TypePattern, ValueRef};

/// Patterns with more ops and captures are not tried.
const MOST_CHOICES: usize = 32;
/// Types, attributes and ops that are tried while building graphs.
const MOST_TRIES: usize = 1 << 15;
/// Graphs that the rule is run on.
const MOST_GRAPHS: usize = 64;

/// Why a rule is wrong, with an example; `None` if none was found.
pub(super) fn refute(rule: &TextRule) -> Option<String> {
    let choices = choices(rule);
    if choices.len() > MOST_CHOICES {
        return None;
    }
    let mut search = Search {
        rule,
        captures: vec![Type::Effect; rule.captures.len()],
        attrs: Vec::new(),
        ops: Vec::new(),
        types: Vec::new(),
        tries: MOST_TRIES,
        graphs: MOST_GRAPHS,
    };
    search.walk(&choices)
}

/// Decisions while building a graph, in order.
enum Choice {
    /// The type of a capture.
    Type(usize, Vec<Type>),
    /// The value of an attribute's captures.
    Attr(String, Kinds),
    /// An op whose operands and attributes are decided.
    Op(usize),
}

struct Search<'r> {
    rule: &'r TextRule,
    captures: Vec<Type>,
    attrs: Vec<(String, Option<AttrValue>)>,
    ops: Vec<Op>,
    /// Result types of the ops.
    types: Vec<Vec<Type>>,
    tries: usize,
    graphs: usize,
}

fn choices(rule: &TextRule) -> Vec<Choice> {
    let mut choices = Vec::new();
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    let mut typed: BTreeSet<usize> = BTreeSet::new();
    for (index, op) in rule.pattern.iter().enumerate() {
        for operand in &op.operands {
            if let ValueRef::Capture(capture) = operand
                && typed.insert(*capture)
            {
                choices.push(Choice::Type(*capture, types(rule, *operand)));
            }
        }
        for (name, value) in &op.attrs {
            let captures = value.as_ref().map_or_else(Vec::new, attributes::captures);
            for capture in captures.into_iter().filter(|capture| *capture != "_") {
                if seen.insert(capture) {
                    let kinds = value.iter().flat_map(|value| attributes::kinds(&op.info, name, value));
                    choices.push(Choice::Attr(capture.to_owned(), kinds.flat_map(values_like).collect()));
                }
            }
        }
        choices.push(Choice::Op(index));
    }
    choices
}

/// Values to try for a capture of this kind.
fn values_like(kind: Option<AttrValue>) -> Kinds {
    match kind {
        Some(AttrValue::Int(_)) => [4, 8, 1, 0].map(|value| Some(attributes::integer(value))).to_vec(),
        kind => vec![kind],
    }
}

/// Types to try for a capture: those of the rule, otherwise common operand types of ops.
fn types(rule: &TextRule, capture: ValueRef) -> Vec<Type> {
    let pattern = rule.conditions.iter().find_map(|condition| match condition {
        Condition::Type(value, pattern) if *value == capture => Some(pattern),
        _ => None,
    });
    let any = TypePattern { dtype: DTypePattern::Any, shape: None };
    let TypePattern { dtype, shape } = pattern.unwrap_or(&any);
    let dtypes = match dtype {
        DTypePattern::OneOf(dtypes) => dtypes.clone(),
        DTypePattern::Any | DTypePattern::Capture(_) => vec![DType::F32, DType::BF16, DType::I32],
    };
    let shapes = shape.as_ref().map_or_else(common_shapes, shapes_of);
    let tensors = dtypes.iter().flat_map(|dtype| shapes.iter().map(|shape| TensorType::new(*dtype, shape.clone())));
    tensors.map(Type::from).collect()
}

fn common_shapes() -> Vec<Vec<Dim>> {
    let shapes: [&[u64]; 6] = [&[4, 8], &[8, 8], &[8], &[4], &[8, 4], &[2, 4, 8]];
    shapes.iter().map(|shape| shape.iter().copied().map(Dim::from).collect()).collect()
}

fn shapes_of(pattern: &ShapePattern) -> Vec<Vec<Dim>> {
    let mut shapes: Vec<Vec<Dim>> = vec![Vec::new()];
    if pattern.open {
        shapes.push(vec![Dim::from(4)]);
    }
    for size in &pattern.sizes {
        let sizes = match size {
            SizePattern::Is(size) => vec![size.clone()],
            SizePattern::Any | SizePattern::Capture(_) => vec![Dim::from(8), Dim::from(4)],
        };
        // only some: the first decisions vary first
        shapes.truncate(MOST_GRAPHS);
        shapes = sizes.iter().flat_map(|size| shapes.iter().map(|shape| [shape, from_ref(size)].concat())).collect();
    }
    shapes
}

impl Search<'_> {
    /// Makes the remaining decisions. Returns why the rule is wrong.
    fn walk(&mut self, choices: &[Choice]) -> Option<String> {
        let Some((choice, rest)) = choices.split_first() else { return self.run() };
        self.tries = self.tries.checked_sub(1)?;
        match choice {
            Choice::Type(capture, types) => types.iter().find_map(|ty| {
                self.captures[*capture] = ty.clone();
                self.walk(rest)
            }),
            Choice::Attr(name, values) => values.iter().find_map(|value| {
                self.attrs.push((name.clone(), value.clone()));
                let found = self.walk(rest);
                self.attrs.pop();
                found
            }),
            Choice::Op(index) => {
                let (op, types) = self.op(&self.rule.pattern[*index])?;
                self.ops.push(op);
                self.types.push(types);
                let found = self.walk(rest);
                self.ops.pop();
                self.types.pop();
                found
            }
        }
    }

    /// An op of the pattern under the decisions, and the types of its results, if the op accepts its operands.
    fn op(&self, pattern: &PatternOp) -> Option<(Op, Vec<Type>)> {
        let mut attrs = Vec::new();
        for (name, value) in &pattern.attrs {
            let Some(value) = value else { continue };
            let known =
                |capture: &str| self.attrs.iter().find(|(name, _)| name == capture).map(|(_, value)| value.clone());
            let value = match attributes::whole(value) {
                Some(capture) => known(capture)?,
                None if attributes::is_anything(value) => attributes::kinds(&pattern.info, name, value).pop()?,
                None => Some(attributes::substitute(value, &|capture| known(capture)?)?),
            };
            attrs.extend(value.map(|value| ((*name).to_owned(), value)));
        }
        let op = (pattern.info.parse)(AttrReader::new(attrs)).ok()?;
        let operands: Vec<&Type> = pattern.operands.iter().map(|operand| self.ty(*operand)).collect::<Option<_>>()?;
        let types = op.infer(&operands).ok()?;
        (types.len() == pattern.results.len()).then_some((op, types))
    }

    fn ty(&self, value: ValueRef) -> Option<&Type> {
        match value {
            ValueRef::Capture(index) => self.captures.get(index),
            ValueRef::Pattern { op, result } => self.types.get(op)?.get(result as usize),
            ValueRef::New { .. } => None,
        }
    }

    /// Runs the rule on the graph of all decisions.
    fn run(&mut self) -> Option<String> {
        self.graphs = self.graphs.checked_sub(1)?;
        let mut graph = self.graph()?;
        let rule = Rule { name: &self.rule.name, apply: &|graph, id| self.rule.apply(graph, id) };
        let reason = match rewrite(&mut graph, &[rule]).err()? {
            RewriteError::BadPatch { reason, .. } => format!("{reason} (a condition may exclude it)"),
            RewriteError::NoFixpoint { patches, .. } => {
                format!("the replacement contains the pattern, and the rule still applies after {patches} times")
            }
        };
        let captures = self.rule.captures.iter().zip(&self.captures).map(|(name, ty)| format!("%{name} : {ty}"));
        let attrs = self.attrs.iter().filter_map(|(name, value)| Some(format!("${name} is {}", value.as_ref()?)));
        let example: Vec<String> = captures.chain(attrs).collect();
        Some(format!("where {}: {reason}", example.join(", ")))
    }

    fn graph(&self) -> Option<Graph> {
        let mut graph = Graph::new("example", Vec::new(), Vec::new());
        let mut captures: Vec<Value> = Vec::new();
        for (index, (name, ty)) in self.rule.captures.iter().zip(&self.captures).enumerate() {
            let constant = |condition: &Condition| match condition {
                Condition::Constant(value) => *value == ValueRef::Capture(index),
                _ => false,
            };
            let ty = ty.tensor().ok()?.clone();
            captures.push(match self.rule.conditions.iter().any(constant) {
                true => graph.add_constant(name, ty),
                false => graph.add_input(name, ty),
            });
        }
        let mut ids: Vec<OpId> = Vec::new();
        for (pattern, op) in self.rule.pattern.iter().zip(&self.ops) {
            let operands = pattern.operands.iter().map(|operand| match *operand {
                ValueRef::Capture(index) => captures.get(index).copied(),
                ValueRef::Pattern { op, result } => Some(Value { op: *ids.get(op)?, result }),
                ValueRef::New { .. } => None,
            });
            let operands: Vec<Value> = operands.collect::<Option<_>>()?;
            let names: Vec<&str> = pattern.results.iter().map(String::as_str).collect();
            ids.push(graph.add(op.clone(), &operands, &names).ok()?);
        }
        for (index, value) in graph.results(*ids.last()?).enumerate() {
            graph.add_output(&format!("result.{index}"), value);
        }
        Some(graph)
    }
}
