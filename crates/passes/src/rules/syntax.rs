//! The syntax of rules: text to a tree whose names have positions. Knows no op and no meaning.

use ir::text::{ParseError, Parser, Token};
use ir::{AttrValue, OpSet};

use super::{Comparison, DTypePattern, MOST_ERRORS, ShapePattern, SizePattern, Term, TypePattern};
use crate::{Numerics, Slot};

/// A rule as it was written.
pub(super) struct RuleText {
    pub name: Name,
    pub slot: Slot,
    pub numerics: Numerics,
    pub pattern: Vec<Definition>,
    pub conditions: Vec<ConditionText>,
    pub replacement: Vec<Definition>,
    /// The `=>`.
    pub end: usize,
}

/// A name and its byte offset.
#[derive(Clone, Debug)]
pub(super) struct Name {
    pub text: String,
    pub at: usize,
}

/// A line of a pattern or of a replacement.
pub(super) struct Definition {
    pub results: Vec<Name>,
    pub meaning: Meaning,
}

/// The right-hand side of a line.
pub(super) enum Meaning {
    Op(OpText),
    /// In replacements: an existing value.
    Value(Name),
}

pub(super) struct OpText {
    pub mnemonic: Name,
    pub operands: Vec<Name>,
    pub attrs_at: usize,
    pub attrs: Vec<(String, AttrValue)>,
}

pub(super) enum ConditionText {
    Type(Name, TypePattern),
    Constant(Name),
    UsedOnce(Name),
    Compare { at: usize, left: Vec<Term>, how: Comparison, right: Vec<Term> },
}

const SLOTS: [(&str, Slot); 3] =
    [("after_import", Slot::AfterImport), ("before_fusion", Slot::BeforeFusion), ("after_fusion", Slot::AfterFusion)];
const NUMERICS: [(&str, Numerics); 2] = [("exact", Numerics::Exact), ("rounding", Numerics::Rounding)];
const COMPARISONS: [(&str, Comparison); 6] = [
    ("<", Comparison::Less),
    ("<=", Comparison::AtMost),
    (">", Comparison::More),
    (">=", Comparison::AtLeast),
    ("==", Comparison::Equal),
    ("!=", Comparison::NotEqual),
];

/// Reads all rules. After an error, parsing continues with the next rule.
pub(super) fn read(text: &str, ops: &OpSet) -> (Vec<RuleText>, Vec<ParseError>) {
    let parser = match Parser::new(text, ops) {
        Ok(parser) => parser,
        Err(error) => return (Vec::new(), vec![error]),
    };
    let mut reader = Reader { parser };
    let (mut rules, mut errors) = (Vec::new(), Vec::new());
    while *reader.parser.peek() != Token::End && errors.len() < MOST_ERRORS {
        match reader.rule() {
            Ok(rule) => rules.push(rule),
            Err(error) => {
                errors.push(error);
                reader.skip_to_rule();
            }
        }
    }
    (rules, errors)
}

struct Reader<'a> {
    parser: Parser<'a>,
}

impl Reader<'_> {
    fn is_word(&self, word: &str) -> bool {
        matches!(self.parser.peek(), Token::Word(found) if found == word)
    }

    fn skip_to_rule(&mut self) {
        while *self.parser.peek() != Token::End && !self.is_word("rule") {
            self.parser.skip();
        }
    }

    fn rule(&mut self) -> Result<RuleText, ParseError> {
        self.parser.keyword("rule")?;
        let at = self.parser.at();
        let Token::Name(text) = self.parser.peek().clone() else {
            return self.parser.expected("the name of the rule, such as `@fuse-silu-mul`");
        };
        self.parser.skip();
        let (mut slot, mut numerics) = (Slot::BeforeFusion, Numerics::Rounding);
        if self.is_word("at") {
            self.parser.skip();
            slot = self.choice(&SLOTS)?;
        }
        if self.is_word("numerics") {
            self.parser.skip();
            numerics = self.choice(&NUMERICS)?;
        }
        self.parser.punct("{")?;
        let (mut pattern, mut conditions) = (Vec::new(), Vec::new());
        while pattern.is_empty() || matches!(self.parser.peek(), Token::Value(_)) {
            self.pattern_line(&mut pattern, &mut conditions)?;
        }
        while self.is_word("where") {
            self.parser.skip();
            conditions.push(self.condition()?);
            while self.parser.eat(",") {
                conditions.push(self.condition()?);
            }
        }
        let end = self.parser.at();
        self.parser.punct("=>")?;
        let mut replacement = Vec::new();
        while replacement.is_empty() || matches!(self.parser.peek(), Token::Value(_)) {
            replacement.push(self.replacement_line()?);
        }
        self.parser.punct("}")?;
        Ok(RuleText { name: Name { text, at }, slot, numerics, pattern, conditions, replacement, end })
    }

    /// One of these words.
    fn choice<T: Copy>(&mut self, choices: &[(&str, T)]) -> Result<T, ParseError> {
        let found = choices.iter().find(|(word, _)| self.is_word(word));
        let Some((_, choice)) = found else {
            let words: Vec<String> = choices.iter().map(|(word, _)| format!("`{word}`")).collect();
            return self.parser.expected(&words.join(" or "));
        };
        self.parser.skip();
        Ok(*choice)
    }

    fn name(&mut self) -> Result<Name, ParseError> {
        let at = self.parser.at();
        Ok(Name { text: self.parser.value_name()?, at })
    }

    fn results(&mut self) -> Result<Vec<Name>, ParseError> {
        let mut results = vec![self.name()?];
        while self.parser.eat(",") {
            results.push(self.name()?);
        }
        self.parser.punct("=")?;
        Ok(results)
    }

    /// `%s = silu %gate`, with or without types.
    fn pattern_line(
        &mut self,
        pattern: &mut Vec<Definition>,
        conditions: &mut Vec<ConditionText>,
    ) -> Result<(), ParseError> {
        let results = self.results()?;
        let meaning = Meaning::Op(self.op()?);
        let types_at = self.parser.at();
        if self.parser.eat(":") {
            let mut types = vec![self.ty()?];
            while self.parser.eat(",") {
                types.push(self.ty()?);
            }
            if types.len() != results.len() {
                let message = format!("expected {} types, found {}", results.len(), types.len());
                return self.parser.fail(types_at, message);
            }
            let types = results.iter().cloned().zip(types).map(|(name, ty)| ConditionText::Type(name, ty));
            conditions.extend(types);
        }
        pattern.push(Definition { results, meaning });
        Ok(())
    }

    /// `%y = silu_mul %gate, %up` or `%y = %x`.
    fn replacement_line(&mut self) -> Result<Definition, ParseError> {
        let results = self.results()?;
        let meaning = match self.parser.peek() {
            Token::Value(_) if results.len() == 1 => Meaning::Value(self.name()?),
            _ => Meaning::Op(self.op()?),
        };
        Ok(Definition { results, meaning })
    }

    fn op(&mut self) -> Result<OpText, ParseError> {
        let at = self.parser.at();
        let mnemonic = Name { text: self.parser.word("an op such as `add`")?, at };
        if mnemonic.text == "constant" {
            let message = "rules cannot name tensors: expected a captured operand, and `where constant(%w)`";
            return self.parser.fail(at, message);
        }
        let mut operands = Vec::new();
        while matches!(self.parser.peek(), Token::Value(_)) {
            operands.push(self.name()?);
            if !self.parser.eat(",") {
                break;
            }
        }
        let attrs_at = self.parser.at();
        let mut attrs = Vec::new();
        if self.parser.eat("{") {
            attrs = self.parser.attr_list()?;
            self.parser.punct("}")?;
        }
        Ok(OpText { mnemonic, operands, attrs_at, attrs })
    }

    fn condition(&mut self) -> Result<ConditionText, ParseError> {
        let at = self.parser.at();
        let about: Option<fn(Name) -> ConditionText> = match self.parser.peek() {
            Token::Value(_) => {
                let name = self.name()?;
                self.parser.punct(":")?;
                return Ok(ConditionText::Type(name, self.ty()?));
            }
            Token::Word(word) if word == "constant" => Some(ConditionText::Constant),
            Token::Word(word) if word == "used_once" => Some(ConditionText::UsedOnce),
            Token::Capture(_) | Token::Int(_) | Token::Float(_) => None,
            _ => {
                return self.parser.expected(
                    "a condition such as `%x : bf16|f32[_, $n]`, `constant(%w)`, `used_once(%s)` or `$n >= 64`",
                );
            }
        };
        if let Some(about) = about {
            self.parser.skip();
            self.parser.punct("(")?;
            let name = self.name()?;
            self.parser.punct(")")?;
            return Ok(about(name));
        }
        let left = self.product()?;
        let Token::Punct(punct) = *self.parser.peek() else { return self.parser.expected("a comparison such as `>=`") };
        let Some((_, how)) = COMPARISONS.into_iter().find(|(word, _)| *word == punct) else {
            return self.parser.expected("a comparison such as `>=`");
        };
        self.parser.skip();
        Ok(ConditionText::Compare { at, left, how, right: self.product()? })
    }

    /// `2 * $half`
    fn product(&mut self) -> Result<Vec<Term>, ParseError> {
        let mut terms = vec![self.term()?];
        while self.parser.eat("*") {
            terms.push(self.term()?);
        }
        Ok(terms)
    }

    fn term(&mut self) -> Result<Term, ParseError> {
        let term = match self.parser.peek() {
            Token::Capture(name) => Term::Capture(name.clone()),
            Token::Int(value) => Term::Number(*value as f64),
            Token::Float(value) => Term::Number(*value),
            _ => return self.parser.expected("a capture such as `$n`, or a number"),
        };
        self.parser.skip();
        Ok(term)
    }

    fn ty(&mut self) -> Result<TypePattern, ParseError> {
        let dtype = match self.parser.peek().clone() {
            Token::Capture(name) => {
                self.parser.skip();
                DTypePattern::Capture(name)
            }
            Token::Word(word) if word == "_" => {
                self.parser.skip();
                DTypePattern::Any
            }
            _ => {
                let mut dtypes = vec![self.parser.dtype()?];
                while self.parser.eat("|") {
                    dtypes.push(self.parser.dtype()?);
                }
                DTypePattern::OneOf(dtypes)
            }
        };
        let shape = if self.parser.eat("[") { Some(self.shape()?) } else { None };
        Ok(TypePattern { dtype, shape })
    }

    /// `.., 4096, $n, _]`
    fn shape(&mut self) -> Result<ShapePattern, ParseError> {
        let open = self.parser.eat("..");
        let mut sizes = Vec::new();
        while !self.parser.eat("]") {
            if open || !sizes.is_empty() {
                self.parser.punct(",")?;
            }
            sizes.push(self.size()?);
        }
        Ok(ShapePattern { open, sizes })
    }

    fn size(&mut self) -> Result<SizePattern, ParseError> {
        let size = match self.parser.peek() {
            Token::Capture(name) => SizePattern::Capture(name.clone()),
            Token::Word(word) if word == "_" => SizePattern::Any,
            _ => return Ok(SizePattern::Is(self.parser.dim()?)),
        };
        self.parser.skip();
        Ok(size)
    }
}
