//! Rules from text: `pattern => replacement`, both in the language of graphs. Each rule is a pass of its own.
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
//! **Pattern.** Ops in program order; the last one is the root, and all others lead to it. A `%name` that no op of the
//! pattern defines is a capture: any value, the same one at each place. Operands match in order.
//!
//! **Attributes.** Each one is given: a value, `$name` (a capture: one value at all places), or `_` (anything). One that
//! an op may do without must be absent where it is not given; `$name` and `_` match its absence, too.
//!
//! **Conditions.** `%x : TYPE` with alternatives of dtypes (`bf16|f16`, `$t`, `_`) and sizes (`4096`, `T`, `$n`, `_`;
//! `..` in front: any number of them), also written behind an op as in a graph; `constant(%w)`; `used_once(%s)`;
//! comparisons of captures and numbers, or of products of them (`2 * $half == $width`).
//!
//! **Replacement.** Ops over captures and values of the pattern. A name that the pattern's ops define, and that is
//! defined again here, is what is replaced; `%y = %x` replaces `%y` by a value that is there already. What is replaced
//! keeps its type and its name.
//!
//! [`parse`] checks a file as it is loaded and returns all errors with their places: words (`syntax`), names and
//! attributes (`check`), types (`examples`: small graphs that the pattern matches must keep their types, and come to an
//! end). What no example shows is caught when the patch is applied.

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

/// A rule that was read from text.
#[derive(Clone, Debug)]
pub struct TextRule {
    name: String,
    slot: Slot,
    numerics: Numerics,
    /// In program order, the root last.
    pattern: Vec<PatternOp>,
    /// Names of the operands that no op of the pattern defines.
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

    fn numerics(&self) -> Numerics {
        self.numerics
    }

    fn run(&self, graph: &mut Graph, _: &PassContext<'_>) -> Result<Changed, PassError> {
        let rule = ir::Rule { name: &self.name, apply: &|graph, id| self.apply(graph, id) };
        Ok((rewrite(graph, &[rule])? > 0).into())
    }
}

/// Errors of one file that are worth reading, and finding.
const MOST_ERRORS: usize = 50;

/// Reads a file of rules. Returns them in order, or all that is wrong with the file.
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
            let message = format!("a rule of the name `{}` stands above", rule.name.text);
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

/// A value as a rule names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ValueRef {
    /// An operand that the pattern leaves open.
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
    /// All attributes of the op. `None` must be absent; the word `_` may be anything.
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
    /// Values of the graph from which the new one is made and the old one is not, as far as the pattern tells. Empty
    /// for results of the root, which is made from all of them.
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
    /// Any, where there is none.
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
    /// Whether other sizes may stand in front.
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
