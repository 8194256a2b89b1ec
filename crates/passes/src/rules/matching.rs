//! Finds a rule's pattern in a graph, and builds the patch for the replacement.

use std::collections::{HashMap, HashSet};

use ir::{AttrReader, AttrValue, Dim, Graph, OpId, Patch, PatchValue, TensorType, Value};

use super::{
    Comparison, Condition, DTypePattern, PatternOp, ShapePattern, SizePattern, Term, TextRule, TypePattern, ValueRef,
    attributes,
};

/// The binding of a `$name`.
#[derive(Clone, Debug, PartialEq)]
enum Bound {
    /// An attribute, a dtype, or a size that is a constant.
    Attr(AttrValue),
    /// An absent attribute.
    Absent,
    /// A size that depends on the step.
    Size(Dim),
}

/// A match of a pattern in a graph.
struct Match {
    ops: Vec<Option<OpId>>,
    captures: Vec<Option<Value>>,
    bound: HashMap<String, Bound>,
}

impl TextRule {
    /// The patch for a root, if the pattern matches there.
    pub(super) fn apply(&self, graph: &Graph, root: OpId) -> Option<Patch> {
        let found = self.find(graph, root)?;
        // unused ops were replaced already, or were dead
        let mut olds = self.replaced.iter().filter_map(|replaced| found.value(replaced.old));
        olds.any(|old| graph.is_used(old)).then_some(())?;
        (!self.circular(graph, &found)).then_some(())?;
        self.patch(graph, &found)
    }

    fn find(&self, graph: &Graph, root: OpId) -> Option<Match> {
        let count = self.pattern.len();
        let mut found =
            Match { ops: vec![None; count], captures: vec![None; self.captures.len()], bound: HashMap::new() };
        *found.ops.last_mut()? = Some(root);
        // Users come after their operands, so each op is matched before its operands.
        for (index, pattern) in self.pattern.iter().enumerate().rev() {
            found.takes_op(graph, pattern, found.ops[index]?)?;
        }
        self.conditions.iter().all(|condition| found.meets(graph, condition)).then_some(found)
    }

    /// Whether a new value before the root would depend on a replaced value.
    fn circular(&self, graph: &Graph, found: &Match) -> bool {
        let inner = self.replaced.iter().filter(|replaced| !replaced.needs.is_empty());
        let olds: Vec<Value> = inner.clone().filter_map(|replaced| found.value(replaced.old)).collect();
        let mut waiting: Vec<Value> =
            inner.flat_map(|replaced| &replaced.needs).filter_map(|need| found.value(*need)).collect();
        let mut seen = HashSet::new();
        while let Some(value) = waiting.pop() {
            if olds.contains(&value) {
                return true;
            }
            if seen.insert(value.op) {
                waiting.extend(graph.operands(value.op));
            }
        }
        false
    }

    fn patch(&self, graph: &Graph, found: &Match) -> Option<Patch> {
        let mut patch = Patch::new();
        let mut new: Vec<PatchValue> = Vec::new();
        for op in &self.replacement {
            let operands: Vec<PatchValue> =
                op.operands.iter().map(|value| found.patch_value(*value, &new)).collect::<Option<_>>()?;
            let mut attrs = Vec::new();
            for (name, value) in &op.attrs {
                let absent = |capture| found.bound.get(capture) == Some(&Bound::Absent);
                if !attributes::whole(value).is_some_and(absent) {
                    attrs.push(((*name).to_owned(), attributes::substitute(value, &|name| found.attr(name))?));
                }
            }
            let made = (op.info.parse)(AttrReader::new(attrs)).ok()?;
            new.push(patch.add_op(graph, made, &operands));
        }
        for replaced in &self.replaced {
            patch.replace(found.value(replaced.old)?, found.patch_value(replaced.new, &new)?);
        }
        Some(patch)
    }
}

impl Match {
    /// The graph value of a pattern value.
    fn value(&self, value: ValueRef) -> Option<Value> {
        match value {
            ValueRef::Capture(index) => self.captures[index],
            ValueRef::Pattern { op, result } => self.ops[op].map(|op| Value { op, result }),
            ValueRef::New { .. } => None,
        }
    }

    fn patch_value(&self, value: ValueRef, new: &[PatchValue]) -> Option<PatchValue> {
        match value {
            ValueRef::New { op, result } => Some(new.get(op)?.result(result)),
            value => self.value(value).map(PatchValue::Old),
        }
    }

    fn attr(&self, capture: &str) -> Option<AttrValue> {
        match self.bound.get(capture)? {
            Bound::Attr(value) => Some(value.clone()),
            Bound::Absent | Bound::Size(_) => None,
        }
    }

    fn takes_op(&mut self, graph: &Graph, pattern: &PatternOp, id: OpId) -> Option<()> {
        let op = graph.op(id);
        (op.mnemonic() == pattern.info.mnemonic).then_some(())?;
        let operands = graph.operands(id);
        let same_counts =
            operands.len() == pattern.operands.len() && graph.results(id).count() == pattern.results.len();
        same_counts.then_some(())?;
        let attrs = op.attrs();
        for (name, wanted) in &pattern.attrs {
            let found = attrs.iter().find(|(found, _)| found == name).map(|(_, value)| value);
            self.takes_attr(wanted.as_ref(), found).then_some(())?;
        }
        pattern.operands.iter().zip(operands).all(|(wanted, found)| self.takes_value(*wanted, found)).then_some(())
    }

    fn takes_value(&mut self, wanted: ValueRef, found: Value) -> bool {
        match wanted {
            ValueRef::Capture(index) => *self.captures[index].get_or_insert(found) == found,
            ValueRef::Pattern { op, result } => {
                found.result == result && *self.ops[op].get_or_insert(found.op) == found.op
            }
            ValueRef::New { .. } => false,
        }
    }

    fn takes_attr(&mut self, wanted: Option<&AttrValue>, found: Option<&AttrValue>) -> bool {
        let list = |this: &mut Match, wanted: &[AttrValue], found: &[AttrValue]| {
            wanted.len() == found.len()
                && wanted.iter().zip(found).all(|(wanted, found)| this.takes_attr(Some(wanted), Some(found)))
        };
        match (wanted, found) {
            (Some(wanted), _) if attributes::is_anything(wanted) => true,
            (Some(AttrValue::Capture(name)), found) => {
                self.bind(name, found.map_or(Bound::Absent, |value| Bound::Attr(value.clone())))
            }
            (Some(AttrValue::List(wanted)), Some(AttrValue::List(found))) => list(self, wanted, found),
            (Some(AttrValue::Call(wanted, a)), Some(AttrValue::Call(found, b))) => wanted == found && list(self, a, b),
            (wanted, found) => wanted == found,
        }
    }

    /// Binds a capture, or compares it with its binding.
    fn bind(&mut self, name: &str, bound: Bound) -> bool {
        match self.bound.get(name) {
            Some(known) => *known == bound,
            None => {
                self.bound.insert(name.to_owned(), bound);
                true
            }
        }
    }

    fn meets(&mut self, graph: &Graph, condition: &Condition) -> bool {
        match condition {
            Condition::Type(value, pattern) => {
                let ty = self.value(*value).and_then(|value| graph.tensor(value));
                ty.is_some_and(|ty| self.takes_type(pattern, ty))
            }
            Condition::Constant(value) => self.value(*value).is_some_and(|value| graph.is_constant(value)),
            Condition::UsedOnce(value) => self.value(*value).is_some_and(|value| graph.used_once(value)),
            Condition::Compare(left, how, right) => {
                let numbers = self.product(left).zip(self.product(right));
                numbers.is_some_and(|(left, right)| how.holds(left, right))
            }
        }
    }

    fn takes_type(&mut self, pattern: &TypePattern, ty: &TensorType) -> bool {
        let dtype = match &pattern.dtype {
            DTypePattern::Any => true,
            DTypePattern::OneOf(dtypes) => dtypes.contains(&ty.dtype),
            DTypePattern::Capture(name) => self.bind(name, Bound::Attr(AttrValue::Word(ty.dtype.name().to_owned()))),
        };
        dtype && pattern.shape.as_ref().is_none_or(|shape| self.takes_shape(shape, &ty.shape))
    }

    fn takes_shape(&mut self, pattern: &ShapePattern, shape: &[Dim]) -> bool {
        let Some(more) = shape.len().checked_sub(pattern.sizes.len()) else { return false };
        (more == 0 || pattern.open)
            && pattern.sizes.iter().zip(&shape[more..]).all(|(wanted, size)| match wanted {
                SizePattern::Any => true,
                SizePattern::Is(wanted) => wanted == size,
                SizePattern::Capture(name) => {
                    let constant = size.as_const().and_then(|size| i64::try_from(size).ok());
                    let bound = constant.map(|size| Bound::Attr(AttrValue::Int(size)));
                    self.bind(name, bound.unwrap_or_else(|| Bound::Size(size.clone())))
                }
            })
    }

    fn product(&self, terms: &[Term]) -> Option<f64> {
        terms.iter().try_fold(1.0, |product, term| Some(product * self.number(term)?))
    }

    /// A number to compare; `None` for a symbolic size.
    fn number(&self, term: &Term) -> Option<f64> {
        match term {
            Term::Number(value) => Some(*value),
            Term::Capture(name) => match self.attr(name)? {
                AttrValue::Int(value) => Some(value as f64),
                AttrValue::Float(value) => Some(value),
                _ => None,
            },
        }
    }
}

impl Comparison {
    fn holds(self, left: f64, right: f64) -> bool {
        match self {
            Comparison::Less => left < right,
            Comparison::AtMost => left <= right,
            Comparison::More => left > right,
            Comparison::AtLeast => left >= right,
            Comparison::Equal => left == right,
            Comparison::NotEqual => left != right,
        }
    }
}
