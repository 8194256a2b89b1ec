//! Sizes as text: `ceil(T, 64) * 16 + 1`.

use std::fmt;
use std::str::FromStr;

use super::{Dim, Factor, Symbol};

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.terms.is_empty() {
            return f.write_str("0");
        }
        for (index, term) in self.terms.iter().rev().enumerate() {
            if index > 0 {
                f.write_str(" + ")?;
            }
            let mut separator = "";
            if term.coefficient != 1 || term.factors.is_empty() {
                write!(f, "{}", term.coefficient)?;
                separator = " * ";
            }
            for factor in &term.factors {
                write!(f, "{separator}{factor}")?;
                separator = " * ";
            }
        }
        Ok(())
    }
}

impl fmt::Display for Factor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Factor::Symbol(symbol) => write!(f, "{symbol}"),
            Factor::CeilDiv(dim, divisor) => write!(f, "ceil({dim}, {divisor})"),
            Factor::Max(items) => {
                f.write_str("max(")?;
                for (index, item) in items.iter().enumerate() {
                    let separator = if index > 0 { ", " } else { "" };
                    write!(f, "{separator}{item}")?;
                }
                f.write_str(")")
            }
        }
    }
}

impl fmt::Debug for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Dim {
    type Err = String;

    fn from_str(text: &str) -> Result<Dim, String> {
        let mut parser = Parser { rest: text, depth: 0 };
        let dim = parser.sum()?;
        parser.skip_space();
        if parser.rest.is_empty() { Ok(dim) } else { Err(format!("unexpected `{}` in a size", parser.rest)) }
    }
}

/// Maximum nesting of `ceil` and `max`: each is sorted again as part of the enclosing one.
const DEEPEST: u32 = 16;

/// `sum = product ('+' product)*`, `product = atom ('*' atom)*`.
struct Parser<'a> {
    rest: &'a str,
    depth: u32,
}

impl<'a> Parser<'a> {
    fn skip_space(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn eat(&mut self, token: char) -> bool {
        self.skip_space();
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn expect(&mut self, token: char) -> Result<(), String> {
        if self.eat(token) { Ok(()) } else { Err(format!("expected `{token}` in a size, found `{}`", self.rest)) }
    }

    fn word(&mut self) -> &'a str {
        self.skip_space();
        let end = self.rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        word
    }

    // lists are normalized once, when they are complete: as fast as sorting them

    fn sum(&mut self) -> Result<Dim, String> {
        Ok(Dim::sum(self.list('+', Parser::product)?))
    }

    fn product(&mut self) -> Result<Dim, String> {
        let factors = self.list('*', Parser::atom)?;
        Dim::product(factors).ok_or_else(|| "a size has a product of a sum: expand it".to_owned())
    }

    fn list(&mut self, separator: char, item: fn(&mut Self) -> Result<Dim, String>) -> Result<Vec<Dim>, String> {
        let mut items = vec![item(self)?];
        while self.eat(separator) {
            items.push(item(self)?);
        }
        Ok(items)
    }

    fn atom(&mut self) -> Result<Dim, String> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err("a size is nested too deeply".to_owned());
        }
        let word = self.word();
        if word.is_empty() {
            return Err(format!("expected a size, found `{}`", self.rest));
        }
        let dim = match word {
            "ceil" => {
                self.expect('(')?;
                let dim = self.sum()?;
                self.expect(',')?;
                let divisor = self.word().parse::<u64>().ok().filter(|divisor| *divisor > 0);
                let divisor = divisor.ok_or("expected a positive divisor in `ceil(size, divisor)`")?;
                self.expect(')')?;
                dim.ceil_div(divisor)
            }
            "max" => {
                self.expect('(')?;
                let items = self.list(',', Parser::sum)?;
                self.expect(')')?;
                Dim::largest(items)
            }
            word if word.starts_with(|c: char| c.is_ascii_digit()) => {
                Dim::from(word.parse::<u64>().map_err(|_| format!("`{word}` is not a size"))?)
            }
            word => Dim::symbol(&Symbol::new(word).ok_or_else(|| format!("`{word}` is not a symbol"))?),
        };
        self.depth -= 1;
        Ok(dim)
    }
}
