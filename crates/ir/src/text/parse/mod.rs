//! Text to a graph. Errors carry line and column, and say what was expected.

mod values;

use std::collections::HashMap;

use plan::{Symbol, SymbolDecl};

use super::lexer::{Spanned, Token, lex};
use super::near::suggestion;
use crate::{AttrReader, Graph, KvDecl, OpId, OpSet, TensorType, Type, Value};

/// A syntax or type error in IR text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {message}\n{}", marked(.source_line, *.column))]
pub struct ParseError {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong, or was expected.
    pub message: String,
    /// The line's text.
    pub source_line: String,
}

/// A parsed graph, and the lines of its ops.
#[derive(Clone, Debug)]
pub struct Parsed {
    /// The graph.
    pub graph: Graph,
    /// The line of each op, from 1.
    pub lines: HashMap<OpId, usize>,
}

/// Parses one graph. Comments run from `//` to the end of the line.
pub fn parse(text: &str, ops: &OpSet) -> Result<Parsed, ParseError> {
    Parser::new(text, ops)?.graph()
}

/// A line and a mark below its column; a long line is shortened around it.
fn marked(line: &str, column: usize) -> String {
    const WHOLE: usize = 200;
    const BEFORE: usize = 100;
    let skipped = if line.chars().count() > WHOLE { column.saturating_sub(BEFORE) } else { 0 };
    let part: String = line.chars().skip(skipped).take(WHOLE).collect();
    format!("{part}\n{:>width$}", "^", width = column - skipped)
}

impl ParseError {
    /// An error at a byte of a text.
    pub fn new(text: &str, at: usize, message: impl Into<String>) -> ParseError {
        let at = at.min(text.len());
        let start = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
        let end = text[at..].find('\n').map_or(text.len(), |newline| at + newline);
        ParseError {
            line: text[..at].matches('\n').count() + 1,
            column: text[start..at].chars().count() + 1,
            message: message.into(),
            source_line: text[start..end].to_owned(),
        }
    }
}

/// A recursive-descent parser of graphs, and of other texts with graph syntax.
pub struct Parser<'a> {
    text: &'a str,
    tokens: Vec<Spanned>,
    next: usize,
    ops: &'a OpSet,
    depth: u32,
}

impl<'a> Parser<'a> {
    /// At the start of a text.
    pub fn new(text: &'a str, ops: &'a OpSet) -> Result<Parser<'a>, ParseError> {
        let tokens = lex(text).map_err(|(message, at)| ParseError::new(text, at, message))?;
        Ok(Parser { text, tokens, next: 0, ops, depth: 0 })
    }
}

impl Parser<'_> {
    /// The next token.
    pub fn peek(&self) -> &Token {
        &self.tokens[self.next].token
    }

    /// Its byte offset.
    pub fn at(&self) -> usize {
        self.tokens[self.next].at
    }

    /// Advances; stays at the end of the text.
    pub fn skip(&mut self) {
        self.next = (self.next + 1).min(self.tokens.len() - 1);
    }

    /// An error at a byte.
    pub fn fail<T>(&self, at: usize, message: impl Into<String>) -> Result<T, ParseError> {
        Err(ParseError::new(self.text, at, message))
    }

    /// An error at the next token.
    pub fn expected<T>(&self, what: &str) -> Result<T, ParseError> {
        self.fail(self.at(), format!("expected {what}, found {}", self.peek().describe()))
    }

    /// Consumes the next token, if it is this one.
    pub fn eat(&mut self, punct: &'static str) -> bool {
        let found = *self.peek() == Token::Punct(punct);
        if found {
            self.next += 1;
        }
        found
    }

    /// Consumes the next token, which must be this one.
    pub fn punct(&mut self, punct: &'static str) -> Result<(), ParseError> {
        if self.eat(punct) { Ok(()) } else { self.expected(&format!("`{punct}`")) }
    }

    /// An identifier.
    pub fn word(&mut self, what: &str) -> Result<String, ParseError> {
        match self.peek().clone() {
            Token::Word(word) => {
                self.next += 1;
                Ok(word)
            }
            _ => self.expected(what),
        }
    }

    /// This identifier.
    pub fn keyword(&mut self, word: &str) -> Result<(), ParseError> {
        match self.peek() {
            Token::Word(found) if found == word => {
                self.next += 1;
                Ok(())
            }
            _ => self.expected(&format!("`{word}`")),
        }
    }

    fn count(&mut self, what: &str) -> Result<u64, ParseError> {
        match *self.peek() {
            Token::Int(value) if value >= 0 => {
                self.next += 1;
                Ok(value as u64)
            }
            _ => self.expected(what),
        }
    }

    /// A value's name, without the `%`.
    pub fn value_name(&mut self) -> Result<String, ParseError> {
        match self.peek().clone() {
            Token::Value(name) => {
                self.next += 1;
                Ok(name)
            }
            _ => self.expected("a value such as `%x`"),
        }
    }

    fn graph(&mut self) -> Result<Parsed, ParseError> {
        self.keyword("graph")?;
        let name = match self.peek().clone() {
            Token::Name(name) => {
                self.next += 1;
                name
            }
            _ => return self.expected("a graph name such as `@block`"),
        };
        let symbols = self.symbols()?;
        self.punct("(")?;
        let mut inputs: Vec<(String, TensorType)> = Vec::new();
        while !self.eat(")") {
            if !inputs.is_empty() {
                self.punct(",")?;
            }
            let at = self.at();
            let name = self.value_name()?;
            if inputs.iter().any(|(other, _)| *other == name) {
                return self.fail(at, format!("`%{name}` is already defined"));
            }
            self.punct(":")?;
            inputs.push((name, self.tensor_type()?));
        }
        self.punct("{")?;
        let mut kv = Vec::new();
        while *self.peek() == Token::Word("kv".to_owned()) {
            kv.push(self.kv_decl(kv.len())?);
        }
        let mut parsed = Parsed { graph: Graph::new(&name, symbols, kv), lines: HashMap::new() };
        for (name, ty) in inputs {
            parsed.graph.add_input(&name, ty);
        }
        while matches!(self.peek(), Token::Value(_)) {
            self.op(&mut parsed)?;
        }
        number_lines(self.text, &mut parsed);
        self.outputs(&mut parsed.graph)?;
        self.punct("}")?;
        match self.peek() {
            Token::End => Ok(parsed),
            _ => self.expected("the end of the text"),
        }
    }

    fn symbols(&mut self) -> Result<Vec<SymbolDecl>, ParseError> {
        let mut symbols: Vec<SymbolDecl> = Vec::new();
        if !self.eat("<") {
            return Ok(symbols);
        }
        loop {
            let at = self.at();
            let word = self.word("a symbol such as `T`")?;
            let Some(symbol) = Symbol::new(&word) else { return self.fail(at, format!("`{word}` is not a symbol")) };
            if symbols.iter().any(|decl| decl.symbol == symbol) {
                return self.fail(at, format!("symbol `{symbol}` is already declared"));
            }
            self.keyword("in")?;
            let min = self.count("a lower bound")?;
            self.punct("..")?;
            let at = self.at();
            let max = self.count("an upper bound")?;
            if max < min {
                return self.fail(at, format!("expected an upper bound of at least {min}, found {max}"));
            }
            symbols.push(SymbolDecl { symbol, min, max });
            if self.eat(">") {
                return Ok(symbols);
            }
            self.punct(",")?;
        }
    }

    fn kv_decl(&mut self, index: usize) -> Result<KvDecl, ParseError> {
        self.keyword("kv")?;
        let at = self.at();
        if self.count("the number of the KV group")? != index as u64 {
            return self.fail(at, format!("expected KV group {index}, in order"));
        }
        self.punct(":")?;
        let at = self.at();
        let dtype = self.dtype()?;
        if !dtype.is_float() && !matches!(dtype, plan::DType::I8 | plan::DType::F8E4M3) {
            return self.fail(at, format!("expected a floating-point dtype, i8 or f8e4m3, found {dtype}"));
        }
        let at = self.at();
        self.punct("{")?;
        let mut attrs = AttrReader::new(self.attr_list()?);
        self.punct("}")?;
        let mut read = || {
            Ok(KvDecl {
                dtype,
                layers: attrs.take("layers")?,
                kv_heads: attrs.take("kv_heads")?,
                head_dim: attrs.take("head_dim")?,
                block_tokens: attrs.take("block_tokens")?,
            })
        };
        let decl = read().or_else(|message: String| self.fail(at, message))?;
        if [decl.layers, decl.kv_heads, decl.head_dim, decl.block_tokens].contains(&0) {
            return self.fail(at, "expected sizes of at least 1");
        }
        attrs.finish().or_else(|message| self.fail(at, message))?;
        Ok(decl)
    }

    fn op(&mut self, parsed: &mut Parsed) -> Result<(), ParseError> {
        let line_at = self.at();
        let mut names = Vec::new();
        loop {
            let at = self.at();
            let name = self.value_name()?;
            if parsed.graph.find(&name).is_some() || names.contains(&name) {
                return self.fail(at, format!("`%{name}` is already defined"));
            }
            names.push(name);
            if !self.eat(",") {
                break;
            }
        }
        self.punct("=")?;
        let at = self.at();
        let mnemonic = self.word("an op such as `add`")?;
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let id = match mnemonic.as_str() {
            "constant" => self.constant(&mut parsed.graph, &names)?,
            _ => self.named_op(&mut parsed.graph, &mnemonic, at, &names)?,
        };
        parsed.lines.insert(id, line_at);
        Ok(())
    }

    fn constant(&mut self, graph: &mut Graph, names: &[&str]) -> Result<OpId, ParseError> {
        let key = match self.peek().clone() {
            Token::Key(key) => key,
            _ => return self.expected("a key such as `@\"model.norm.weight\"`"),
        };
        let at = self.at();
        self.next += 1;
        if names.len() != 1 {
            return self.fail(at, format!("`constant` has 1 result, found {} names", names.len()));
        }
        self.punct(":")?;
        let ty = self.tensor_type()?;
        let op = crate::Op::new(crate::ops::Constant { key, ty });
        graph.add(op, &[], names).or_else(|error| self.fail(at, error.to_string()))
    }

    fn named_op(&mut self, graph: &mut Graph, mnemonic: &str, at: usize, names: &[&str]) -> Result<OpId, ParseError> {
        let Some(info) = self.ops.find(mnemonic) else {
            let near = suggestion(mnemonic, self.ops.iter().map(|info| info.mnemonic));
            return self.fail(at, format!("unknown op `{mnemonic}`{near}"));
        };
        let parse = info.parse;
        let mut operands: Vec<Value> = Vec::new();
        while matches!(self.peek(), Token::Value(_)) {
            let operand_at = self.at();
            let name = self.value_name()?;
            match graph.find(&name) {
                Some(value) => operands.push(value),
                None => return self.fail(operand_at, format!("`%{name}` is not defined above")),
            }
            if !self.eat(",") {
                break;
            }
        }
        let attrs_at = self.at();
        let mut attrs = Vec::new();
        if self.eat("{") {
            attrs = self.attr_list()?;
            self.punct("}")?;
        }
        let op = parse(AttrReader::new(attrs)).or_else(|message| self.fail(attrs_at, message))?;
        self.punct(":")?;
        let types_at = self.at();
        let mut types = vec![self.ty()?];
        while self.eat(",") {
            types.push(self.ty()?);
        }
        let inferred = graph.infer(&op, &operands).or_else(|error| self.fail(at, error.to_string()))?;
        if inferred != types {
            let list: Vec<String> = inferred.iter().map(Type::to_string).collect();
            return self.fail(types_at, format!("expected type {}", list.join(", ")));
        }
        if inferred.len() != names.len() {
            return self.fail(at, format!("`{mnemonic}` has {} results, found {} names", inferred.len(), names.len()));
        }
        graph.add(op, &operands, names).or_else(|error| self.fail(at, error.to_string()))
    }

    fn outputs(&mut self, graph: &mut Graph) -> Result<(), ParseError> {
        self.keyword("return")?;
        loop {
            let name = match self.peek().clone() {
                Token::Word(name) => {
                    self.next += 1;
                    self.punct("=")?;
                    Some(name)
                }
                _ => None,
            };
            let at = self.at();
            let value_name = self.value_name()?;
            let Some(value) = graph.find(&value_name) else {
                return self.fail(at, format!("`%{value_name}` is not defined above"));
            };
            graph.add_output(&name.unwrap_or(value_name), value);
            if !self.eat(",") {
                return Ok(());
            }
        }
    }
}

/// Converts the byte offsets of ops to lines. They are sorted: one pass over the text.
fn number_lines(text: &str, parsed: &mut Parsed) {
    let (mut counted, mut line) = (0, 1);
    for id in parsed.graph.ops() {
        if let Some(at) = parsed.lines.get_mut(&id) {
            line += text[counted..*at].matches('\n').count();
            counted = std::mem::replace(at, line);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::marked;

    #[test]
    fn a_mark_is_below_its_column() {
        assert_eq!(marked("add %x", 5), "add %x\n    ^");
        let line = "a".repeat(99_999) + "!" + &"b".repeat(99_999);
        let text = marked(&line, 100_000);
        let (part, mark) = text.split_once('\n').unwrap();
        assert_eq!((part.len(), mark.len()), (200, 100));
        assert_eq!(part.chars().nth(mark.len() - 1), Some('!'));
        // after the last character of a long line
        assert!(marked(&"a".repeat(300), 301).ends_with('^'));
    }
}
