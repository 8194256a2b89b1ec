//! Rewrite rules: `pattern => replacement`, both in the syntax of graphs. Each rule is a pass of its own.
//!
//! ```text
//! // silu(g) * u, where nothing else reads the activation
//! rule @silu-mul at before_fusion numerics rounding {
//!   %s = silu %gate
//!   %y = mul %s, %up
//!   where %gate : bf16|f16|f32[.., $n], used_once(%s), $n >= 64
//! =>
//!   %y = silu_mul %gate, %up
//! }
//! ```
//!
//! **Pattern.** Ops in program order; the last one is the root, and it depends on all others. A `%name` that no op of
//! the pattern defines is a capture: any value, the same one at each use. Operands match in order.
//!
//! **Attributes.** All are given: a value, `$name` (a capture: one value at all uses), or `_` (anything). An optional
//! attribute that is not given must be absent; `$name` and `_` match its absence, too.
//!
//! **Conditions.** `%x : TYPE` with alternatives of dtypes (`bf16|f16`, `$t`, `_`) and sizes (`4096`, `T`, `$n`, `_`;
//! leading `..`: any number of them), also written after an op as in a graph; `constant(%w)`; `used_once(%s)`;
//! comparisons of captures and numbers, or of products of them (`2 * $half == $width`).
//!
//! **Replacement.** Ops over captures and values of the pattern. A name of the pattern's ops that is redefined here is
//! replaced; `%y = %x` replaces `%y` by an existing value. Replaced values keep their types and names.
//!
//! [`parse`] checks a file when it is loaded and returns all errors with their positions: syntax (`syntax`), names and
//! attributes (`check`), types (`examples`: small graphs that the pattern matches must keep their types, and the rule
//! must terminate). Errors that no example shows are caught when the patch is applied.

mod attributes;
mod check;
mod examples;
mod matching;
mod syntax;

use std::borrow::Cow;
use std::collections::HashSet;

use ir::text::ParseError;
use ir::{AttrValue, DType, Dim, Graph, OpInfo, OpSet, rewrite};

use crate::{Changed, Numerics, Pass, PassContext, PassError, Slot};

/// A parsed rewrite rule.
#[derive(Clone, Debug)]
pub struct TextRule {
    name: String,
    slot: Slot,
    numerics: Numerics,
    /// In program order, the root last.
    pattern: Vec<PatternOp>,
    /// Names of the captures.
    captures: Vec<String>,
    conditions: Vec<Condition>,
    replacement: Vec<NewOp>,
    replaced: Vec<Replaced>,
}

impl TextRule {
    /// Where in the pipeline it runs.
    pub fn slot(&self) -> Slot {
        self.slot
    }
}

impl Pass for TextRule {
    fn name(&self) -> Cow<'static, str> {
        Cow::Owned(self.name.clone())
    }

    fn summary(&self) -> &'static str {
        "a rewrite rule"
    }

    fn numerics(&self) -> Numerics {
        self.numerics
    }

    fn run(&self, graph: &mut Graph, _: &PassContext<'_>) -> Result<Changed, PassError> {
        let rule = ir::Rule { name: &self.name, apply: &|graph, id| self.apply(graph, id) };
        Ok((rewrite(graph, &[rule])? > 0).into())
    }
}

/// Maximum number of errors per file.
const MOST_ERRORS: usize = 50;

/// Parses a file of rules. Returns them in order, or all errors of the file.
pub fn parse(text: &str, ops: &OpSet) -> Result<Vec<TextRule>, Vec<ParseError>> {
    let (read, mut errors) = syntax::read(text, ops);
    let mut names = HashSet::new();
    let mut rules = Vec::new();
    for rule in read {
        if errors.len() >= MOST_ERRORS {
            break;
        }
        let before = errors.len();
        if !names.insert(rule.name.text.clone()) {
            let message = format!("duplicate rule `{}`", rule.name.text);
            errors.push(ParseError::new(text, rule.name.at, message));
        }
        let end = rule.end;
        let rule = check::check(text, ops, rule, &mut errors);
        if errors.len() == before
            && let Some(reason) = examples::refute(&rule)
        {
            errors.push(ParseError::new(text, end, reason));
        }
        rules.push(rule);
    }
    errors.sort_by_key(|error| (error.line, error.column));
    if errors.is_empty() { Ok(rules) } else { Err(errors) }
}

/// A value of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ValueRef {
    /// A captured operand.
    Capture(usize),
    /// A result of an op of the pattern.
    Pattern { op: usize, result: u32 },
    /// A result of an op of the replacement.
    New { op: usize, result: u32 },
}

#[derive(Clone, Debug)]
struct PatternOp {
    info: OpInfo,
    /// Names of the results.
    results: Vec<String>,
    operands: Vec<ValueRef>,
    /// All attributes of the op. `None` must be absent; `_` matches anything.
    attrs: Vec<(&'static str, Option<AttrValue>)>,
}

#[derive(Clone, Debug)]
struct NewOp {
    info: OpInfo,
    operands: Vec<ValueRef>,
    attrs: Vec<(&'static str, AttrValue)>,
}

#[derive(Clone, Debug)]
struct Replaced {
    old: ValueRef,
    new: ValueRef,
    /// Values of the graph that the new value depends on and the old one does not, as far as the pattern tells. Empty
    /// for results of the root, which depends on all of them.
    needs: Vec<ValueRef>,
}

#[derive(Clone, Debug)]
enum Condition {
    Type(ValueRef, TypePattern),
    Constant(ValueRef),
    UsedOnce(ValueRef),
    /// Between two products.
    Compare(Vec<Term>, Comparison, Vec<Term>),
}

#[derive(Clone, Debug)]
struct TypePattern {
    dtype: DTypePattern,
    /// Any, if there are none.
    shape: Option<ShapePattern>,
}

#[derive(Clone, Debug)]
enum DTypePattern {
    Any,
    OneOf(Vec<DType>),
    Capture(String),
}

#[derive(Clone, Debug)]
struct ShapePattern {
    /// Whether other sizes may precede.
    open: bool,
    sizes: Vec<SizePattern>,
}

#[derive(Clone, Debug)]
enum SizePattern {
    Any,
    Capture(String),
    Is(Dim),
}

#[derive(Clone, Debug)]
enum Term {
    Number(f64),
    Capture(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    Less,
    AtMost,
    More,
    AtLeast,
    Equal,
    NotEqual,
}

impl TypePattern {
    /// Names of its captures: that of the dtype, those of sizes.
    fn captures(&self) -> (Option<&String>, impl Iterator<Item = &String>) {
        let dtype = match &self.dtype {
            DTypePattern::Capture(name) => Some(name),
            _ => None,
        };
        let sizes = self.shape.iter().flat_map(|shape| &shape.sizes).filter_map(|size| match size {
            SizePattern::Capture(name) => Some(name),
            _ => None,
        });
        (dtype, sizes)
    }
}
