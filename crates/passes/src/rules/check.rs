//! Names, ops and attributes of a rule: the checked rule, or all errors.

use std::collections::HashMap;

use ir::text::{ParseError, suggestion};
use ir::{AttrValue, OpInfo, OpSet};

use super::attributes::{self, Kinds};
use super::syntax::{ConditionText, Definition, Meaning, Name, OpText, RuleText};
use super::{
    Comparison, Condition, DTypePattern, MOST_ERRORS, NewOp, PatternOp, Replaced, Term, TextRule, TypePattern, ValueRef,
};

/// Makes a rule from its text. Problems go to `errors`; the rule is valid only if there are none.
pub(super) fn check(text: &str, ops: &OpSet, rule: RuleText, errors: &mut Vec<ParseError>) -> TextRule {
    let before = errors.len();
    let mut check = Check {
        text,
        ops,
        errors,
        captures: Vec::new(),
        names: HashMap::new(),
        new_names: HashMap::new(),
        kinds: HashMap::new(),
    };
    let pattern = check.pattern(&rule.pattern);
    if check.errors.len() == before {
        check.reached(&rule.pattern);
    }
    let conditions = check.conditions(rule.conditions);
    let (replacement, mut replaced) = check.replacement(&rule.replacement);
    if replaced.is_empty() && check.errors.len() == before {
        let values: Vec<String> =
            rule.pattern.iter().flat_map(|line| &line.results).map(|name| format!("`%{}`", name.text)).collect();
        check.report(rule.end, format!("expected a replacement that defines {}", values.join(" or ")));
    }
    if check.errors.len() == before {
        check.used(&rule.replacement, &replaced);
        for (at, replaced) in &mut replaced {
            check.needs(*at, replaced, &pattern, &replacement);
        }
    }
    let Check { captures, .. } = check;
    TextRule {
        name: rule.name.text,
        slot: rule.slot,
        numerics: rule.numerics,
        pattern,
        captures,
        conditions,
        replacement,
        replaced: replaced.into_iter().map(|(_, replaced)| replaced).collect(),
    }
}

struct Check<'a> {
    text: &'a str,
    ops: &'a OpSet,
    errors: &'a mut Vec<ParseError>,
    captures: Vec<String>,
    /// Names of the pattern.
    names: HashMap<String, ValueRef>,
    /// Names of the replacement, which shadow those.
    new_names: HashMap<String, ValueRef>,
    kinds: HashMap<String, Kinds>,
}

impl Check<'_> {
    fn report(&mut self, at: usize, message: impl Into<String>) {
        if self.errors.len() < MOST_ERRORS {
            self.errors.push(ParseError::new(self.text, at, message));
        }
    }

    /// The op of a line, with as many operands as it takes.
    fn info(&mut self, op: &OpText) -> Option<OpInfo> {
        let Name { text, at } = &op.mnemonic;
        let Some(info) = self.ops.find(text) else {
            let near = suggestion(text, self.ops.iter().map(|info| info.mnemonic));
            self.report(*at, format!("unknown op `{text}`{near}"));
            return None;
        };
        if let Err(reason) = info.operands.check(op.operands.len()) {
            self.report(*at, format!("`{text}`: {reason}"));
        }
        Some(*info)
    }

    fn pattern(&mut self, lines: &[Definition]) -> Vec<PatternOp> {
        let mut pattern = Vec::new();
        for (index, line) in lines.iter().enumerate() {
            let Meaning::Op(op) = &line.meaning else { continue };
            let operands = op.operands.iter().map(|name| self.operand_of_pattern(name)).collect();
            for (result, name) in (0..).zip(&line.results) {
                match self.names.insert(name.text.clone(), ValueRef::Pattern { op: index, result }) {
                    None => {}
                    Some(ValueRef::Capture(_)) => {
                        self.report(
                            name.at,
                            format!("`%{}` is used above: expected definitions before uses", name.text),
                        );
                    }
                    Some(_) => self.report(name.at, format!("`%{}` is already defined", name.text)),
                }
            }
            let Some(info) = self.info(op) else { continue };
            let attrs = self.attrs_of_pattern(&info, op);
            let results = line.results.iter().map(|name| name.text.clone()).collect();
            pattern.push(PatternOp { info, results, operands, attrs });
        }
        pattern
    }

    fn operand_of_pattern(&mut self, name: &Name) -> ValueRef {
        if let Some(value) = self.names.get(&name.text) {
            return *value;
        }
        let capture = ValueRef::Capture(self.captures.len());
        self.captures.push(name.text.clone());
        self.names.insert(name.text.clone(), capture);
        capture
    }

    fn attrs_of_pattern(&mut self, info: &OpInfo, op: &OpText) -> Vec<(&'static str, Option<AttrValue>)> {
        self.unknown_attrs(info, op);
        let mut attrs = Vec::new();
        for name in info.attrs.iter().map(|attr| attr.name) {
            let given = op.attrs.iter().find(|(given, _)| given == name).map(|(_, value)| value);
            let captures = given.map_or_else(Vec::new, attributes::captures);
            match given {
                Some(value) if !captures.is_empty() => {
                    let kinds = attributes::kinds(info, name, value);
                    let fitting = attributes::substitute(value, &|_| Some(attributes::integer(4)));
                    // A capture that is the whole attribute may be of a kind that has no sample.
                    if kinds.is_empty() && attributes::whole(value).is_none() && !attributes::is_anything(value) {
                        let reason = (info.read_attr)(name, fitting.as_ref()).err().unwrap_or_default();
                        self.report(op.attrs_at, reason);
                    }
                    for capture in captures.into_iter().filter(|capture| *capture != "_") {
                        self.bind(capture, kinds.clone());
                    }
                    attrs.push((name, Some(value.clone())));
                }
                _ => match (info.read_attr)(name, given) {
                    Ok(value) => attrs.push((name, value)),
                    Err(reason) if given.is_some() => self.report(op.attrs_at, reason),
                    Err(reason) => {
                        let any = format!("{reason}, or a capture such as `{name} = ${name}`");
                        self.report(op.mnemonic.at, any);
                    }
                },
            }
        }
        attrs
    }

    /// A capture is used where these kinds fit.
    fn bind(&mut self, capture: &str, kinds: Kinds) {
        let known = self.kinds.entry(capture.to_owned()).or_insert_with(|| kinds.clone());
        known.retain(|kind| kinds.contains(kind));
    }

    fn unknown_attrs(&mut self, info: &OpInfo, op: &OpText) {
        let known: Vec<&str> = info.attrs.iter().map(|attr| attr.name).collect();
        for (name, _) in op.attrs.iter().filter(|(name, _)| !known.contains(&name.as_str())) {
            let message = match known.as_slice() {
                [] => format!("unknown attribute `{name}`: `{}` has none", info.mnemonic),
                known => format!("unknown attribute `{name}`, `{}` has {}", info.mnemonic, known.join(", ")),
            };
            self.report(op.attrs_at, message);
        }
    }

    /// All ops of a pattern are reached from its last one.
    fn reached(&mut self, lines: &[Definition]) {
        let Some(last) = lines.len().checked_sub(1) else { return };
        let mut reached = vec![false; lines.len()];
        reached[last] = true;
        for index in (0..lines.len()).rev() {
            let Meaning::Op(op) = &lines[index].meaning else { continue };
            if !reached[index] {
                let root = &lines[last].results[0].text;
                let result = &lines[index].results[0];
                let message = format!(
                    "`%{}` is not an operand of `%{root}`, the last op of the pattern, directly or indirectly",
                    result.text
                );
                self.report(result.at, message);
                continue;
            }
            for name in &op.operands {
                if let Some(ValueRef::Pattern { op, .. }) = self.names.get(&name.text) {
                    reached[*op] = true;
                }
            }
        }
    }

    /// Conditions in the order in which they are checked: types first, which bind sizes.
    fn conditions(&mut self, conditions: Vec<ConditionText>) -> Vec<Condition> {
        let (types, others): (Vec<_>, Vec<_>) =
            conditions.into_iter().partition(|condition| matches!(condition, ConditionText::Type(..)));
        types.into_iter().chain(others).filter_map(|condition| self.condition(condition)).collect()
    }

    fn condition(&mut self, condition: ConditionText) -> Option<Condition> {
        Some(match condition {
            ConditionText::Type(name, ty) => {
                self.bind_type(&ty);
                Condition::Type(self.value_of_pattern(&name)?, ty)
            }
            ConditionText::Constant(name) => Condition::Constant(self.value_of_pattern(&name)?),
            ConditionText::UsedOnce(name) => Condition::UsedOnce(self.value_of_pattern(&name)?),
            ConditionText::Compare { at, left, how, right } => self.compare(at, left, how, right),
        })
    }

    fn bind_type(&mut self, ty: &TypePattern) {
        let (dtype, sizes) = ty.captures();
        if let (Some(name), DTypePattern::Capture(_)) = (dtype, &ty.dtype) {
            self.bind(name, vec![Some(AttrValue::Word("bf16".to_owned()))]);
        }
        for name in sizes {
            self.bind(name, vec![Some(attributes::integer(4))]);
        }
    }

    fn compare(&mut self, at: usize, left: Vec<Term>, how: Comparison, right: Vec<Term>) -> Condition {
        for term in left.iter().chain(&right) {
            if let Term::Capture(name) = term
                && !self.kinds.contains_key(name)
            {
                self.unbound(at, name);
            }
        }
        Condition::Compare(left, how, right)
    }

    fn unbound(&mut self, at: usize, name: &str) {
        self.report(at, format!("`${name}` is not bound: no attribute, size or dtype of the pattern has this name"));
    }

    fn value_of_pattern(&mut self, name: &Name) -> Option<ValueRef> {
        let value = self.names.get(&name.text).copied();
        if value.is_none() {
            self.report(name.at, format!("`%{}` is not in the pattern", name.text));
        }
        value
    }

    /// The new ops, and the values that they replace, with the byte of each redefinition.
    fn replacement(&mut self, lines: &[Definition]) -> (Vec<NewOp>, Vec<(usize, Replaced)>) {
        let (mut replacement, mut replaced) = (Vec::new(), Vec::new());
        let mut count = 0;
        for line in lines {
            let defined: Vec<ValueRef> = match &line.meaning {
                Meaning::Value(name) => {
                    let value = self.value(name);
                    if !matches!(self.names.get(&line.results[0].text), Some(ValueRef::Pattern { .. })) {
                        let message = format!("`%{}` is not a result of an op of the pattern", line.results[0].text);
                        self.report(line.results[0].at, message);
                    }
                    value.into_iter().collect()
                }
                Meaning::Op(op) => {
                    let operands: Vec<ValueRef> = op.operands.iter().filter_map(|name| self.value(name)).collect();
                    if let Some(info) = self.info(op) {
                        let attrs = self.attrs_of_replacement(&info, op);
                        replacement.push(NewOp { info, operands, attrs });
                    }
                    count += 1;
                    (0..line.results.len() as u32).map(|result| ValueRef::New { op: count - 1, result }).collect()
                }
            };
            for (name, new) in line.results.iter().zip(defined) {
                self.define(name, new, &mut replaced);
            }
        }
        (replacement, replaced)
    }

    fn define(&mut self, name: &Name, new: ValueRef, replaced: &mut Vec<(usize, Replaced)>) {
        match self.names.get(&name.text) {
            Some(ValueRef::Capture(_)) => {
                let message =
                    format!("`%{}` is a capture: only results of the pattern's ops can be replaced", name.text);
                self.report(name.at, message);
            }
            Some(old) if *old == new => self.report(name.at, format!("`%{}` replaces itself", name.text)),
            Some(old) => replaced.push((name.at, Replaced { old: *old, new, needs: Vec::new() })),
            None => {}
        }
        if self.new_names.insert(name.text.clone(), new).is_some() {
            self.report(name.at, format!("`%{}` is already defined", name.text));
        }
    }

    /// A value that the replacement reads.
    fn value(&mut self, name: &Name) -> Option<ValueRef> {
        let value = self.new_names.get(&name.text).or_else(|| self.names.get(&name.text)).copied();
        if value.is_none() {
            self.report(name.at, format!("`%{}` is not defined above", name.text));
        }
        value
    }

    fn attrs_of_replacement(&mut self, info: &OpInfo, op: &OpText) -> Vec<(&'static str, AttrValue)> {
        self.unknown_attrs(info, op);
        let mut attrs = Vec::new();
        for name in info.attrs.iter().map(|attr| attr.name) {
            let given = op.attrs.iter().find(|(given, _)| given == name).map(|(_, value)| value);
            let captures = given.map_or_else(Vec::new, attributes::captures);
            for capture in &captures {
                match *capture {
                    "_" => self.report(op.attrs_at, format!("expected a value for `{name}`, found `_`")),
                    capture if !self.kinds.contains_key(capture) => self.unbound(op.attrs_at, capture),
                    _ => {}
                }
            }
            let fits = match given {
                Some(value) if !captures.is_empty() => {
                    attributes::misfit(info, name, value, &self.kinds).map(|()| Some(value.clone()))
                }
                _ => (info.read_attr)(name, given),
            };
            match fits {
                Ok(value) => attrs.extend(value.map(|value| (name, value))),
                Err(reason) => {
                    let at = if given.is_some() { op.attrs_at } else { op.mnemonic.at };
                    self.report(at, reason);
                }
            }
        }
        attrs
    }

    /// New ops must contribute to a replaced value.
    fn used(&mut self, lines: &[Definition], replaced: &[(usize, Replaced)]) {
        let mut used: Vec<ValueRef> = replaced.iter().map(|(_, replaced)| replaced.new).collect();
        let ops = lines.iter().filter_map(|line| match &line.meaning {
            Meaning::Op(op) => Some((line, op)),
            Meaning::Value(_) => None,
        });
        let ops: Vec<(&Definition, &OpText)> = ops.collect();
        for (index, (line, op)) in ops.into_iter().enumerate().rev() {
            if used.iter().any(|value| matches!(value, ValueRef::New { op, .. } if *op == index)) {
                used.extend(op.operands.iter().filter_map(|name| self.new_names.get(&name.text)));
            } else {
                self.report(
                    line.results[0].at,
                    format!("`%{}` is not used by any replaced value", line.results[0].text),
                );
            }
        }
    }

    /// A new value must not depend on the value that it replaces.
    fn needs(&mut self, at: usize, replaced: &mut Replaced, pattern: &[PatternOp], replacement: &[NewOp]) {
        let mut needs = made_from(replaced.new, |value| match value {
            ValueRef::New { op, .. } => replacement.get(op).map_or(&[], |op| op.operands.as_slice()),
            _ => &[],
        });
        needs.retain(|value| !matches!(value, ValueRef::New { .. }));
        let mut made = vec![replaced.old];
        for (index, op) in pattern.iter().enumerate() {
            if op.operands.iter().any(|operand| made.contains(operand)) {
                made.extend((0..op.results.len() as u32).map(|result| ValueRef::Pattern { op: index, result }));
            }
        }
        if needs.iter().any(|need| made.contains(need)) {
            self.report(at, "expected a value that does not depend on the one that it replaces");
        }
        let before = made_from(replaced.old, |value| match value {
            // an op with an error is not part of the pattern
            ValueRef::Pattern { op, .. } => pattern.get(op).map_or(&[], |op| op.operands.as_slice()),
            _ => &[],
        });
        needs.retain(|need| !before.contains(need));
        let root = matches!(replaced.old, ValueRef::Pattern { op, .. } if op + 1 == pattern.len());
        if !root {
            replaced.needs = needs;
        }
    }
}

/// A value and everything that it depends on.
fn made_from<'a>(value: ValueRef, operands: impl Fn(ValueRef) -> &'a [ValueRef]) -> Vec<ValueRef> {
    let mut values = vec![value];
    let mut next = 0;
    while let Some(value) = values.get(next).copied() {
        next += 1;
        for operand in operands(value) {
            if !values.contains(operand) {
                values.push(*operand);
            }
        }
    }
    values
}
