//! Types and attributes in graph text.

use plan::{DType, Dim};

use super::{ParseError, Parser};
use crate::text::lexer::Token;
use crate::{AttrValue, TensorType, Type};

/// Maximum nesting of lists: more is an attack on the stack.
const MAX_DEPTH: u32 = 64;

impl Parser<'_> {
    /// A dtype.
    pub fn dtype(&mut self) -> Result<DType, ParseError> {
        let at = self.at();
        let word = self.word("a dtype")?;
        word.parse().or_else(|message: String| self.fail(at, message))
    }

    pub(super) fn ty(&mut self) -> Result<Type, ParseError> {
        if *self.peek() == Token::Word("effect".to_owned()) {
            self.next += 1;
            return Ok(Type::Effect);
        }
        Ok(Type::Tensor(self.tensor_type()?))
    }

    pub(super) fn tensor_type(&mut self) -> Result<TensorType, ParseError> {
        let dtype = self.dtype()?;
        self.punct("[")?;
        let mut shape = Vec::new();
        while !self.eat("]") {
            if !shape.is_empty() {
                self.punct(",")?;
            }
            shape.push(self.dim()?);
        }
        Ok(TensorType { dtype, shape })
    }

    /// A size: the text up to the `,` or `]` that ends it, in the syntax of [`Dim`].
    pub fn dim(&mut self) -> Result<Dim, ParseError> {
        let start = self.at();
        let mut depth = 0;
        loop {
            match self.peek() {
                Token::Punct("(") => depth += 1,
                Token::Punct(")") => depth -= 1,
                Token::Punct("," | "]") if depth <= 0 => break,
                Token::End => return self.expected("`]`"),
                _ => {}
            }
            self.next += 1;
        }
        let text = self.text[start..self.at()].trim();
        text.parse().or_else(|message: String| self.fail(start, message))
    }

    /// `name = value, …` up to the `}`, which is not consumed.
    pub fn attr_list(&mut self) -> Result<Vec<(String, AttrValue)>, ParseError> {
        let mut attrs: Vec<(String, AttrValue)> = Vec::new();
        self.depth = 0;
        while *self.peek() != Token::Punct("}") {
            if !attrs.is_empty() {
                self.punct(",")?;
            }
            let at = self.at();
            let name = self.word("an attribute name")?;
            if attrs.iter().any(|(other, _)| *other == name) {
                return self.fail(at, format!("attribute `{name}` is given twice"));
            }
            self.punct("=")?;
            attrs.push((name, self.attr_value()?));
        }
        Ok(attrs)
    }

    fn attr_value(&mut self) -> Result<AttrValue, ParseError> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return self.fail(self.at(), "attributes are nested too deeply");
        }
        let value = match self.peek().clone() {
            Token::Punct("[") => {
                self.next += 1;
                AttrValue::List(self.attr_values("]")?)
            }
            Token::Int(value) => {
                self.next += 1;
                AttrValue::Int(value)
            }
            Token::Float(value) => {
                self.next += 1;
                AttrValue::Float(value)
            }
            Token::Capture(name) => {
                self.next += 1;
                AttrValue::Capture(name)
            }
            Token::Word(word) => {
                self.next += 1;
                if self.eat("(") { AttrValue::Call(word, self.attr_values(")")?) } else { AttrValue::Word(word) }
            }
            _ => return self.expected("a value"),
        };
        self.depth -= 1;
        Ok(value)
    }

    fn attr_values(&mut self, end: &'static str) -> Result<Vec<AttrValue>, ParseError> {
        let mut values = Vec::new();
        while !self.eat(end) {
            if !values.is_empty() {
                self.punct(",")?;
            }
            values.push(self.attr_value()?);
        }
        Ok(values)
    }
}
